package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time, never negative, written as in Go: "30s", "1h30m", "250ms".
type Duration time.Duration

// String returns the form of [time.Duration.String].
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns [Duration.String].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what [time.ParseDuration] does, except negative durations.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err == nil && parsed >= 0 {
		*d = Duration(parsed)
		return nil
	}
	e := &Error{Msg: fmt.Sprintf(`want a duration such as "30s" or "1h30m", not %q`, clip(string(text)))}
	if _, err := strconv.ParseUint(string(text), 10, 32); err == nil && string(text) != "0" {
		e.Hint = fmt.Sprintf("write %q for seconds", string(text)+"s")
	}
	return e
}

// Size is a number of bytes, written as such or with a unit: 4096, "64KiB", "1MiB", "2GiB".
type Size int64

var units = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String returns the size in the largest unit that leaves no fraction.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// MarshalText returns [Size.String].
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number, alone or with one of the units B, KiB, MiB and GiB.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for _, u := range units {
		if before, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimRight(before, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || int64(n) > math.MaxInt64/unit {
		return &Error{
			Msg:  fmt.Sprintf(`want a size such as 4096 or "64KiB", not %q`, clip(string(text))),
			Hint: "the units are B, KiB, MiB and GiB",
		}
	}
	*s = Size(int64(n) * unit)
	return nil
}

// Rate is a number of messages a second, above 0 and at most 1e9: 500, 0.5, "1/60" (one a minute), or
// "unlimited".
type Rate float64

// Unlimited is the rate that admits everything. It must not be changed.
var Unlimited = Rate(math.Inf(1))

const maxRate = 1e9

// IsUnlimited reports whether the rate admits everything.
func (r Rate) IsUnlimited() bool { return math.IsInf(float64(r), 1) }

// String returns the number, or "unlimited".
func (r Rate) String() string {
	if r.IsUnlimited() {
		return "unlimited"
	}
	return strconv.FormatFloat(float64(r), 'g', -1, 64)
}

// MarshalText returns [Rate.String].
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a number, a fraction of two numbers, or "unlimited".
func (r *Rate) UnmarshalText(text []byte) error {
	if string(text) == "unlimited" {
		*r = Unlimited
		return nil
	}
	top, bottom, isFraction := strings.Cut(string(text), "/")
	n, err := strconv.ParseFloat(top, 64)
	if isFraction && err == nil {
		var divisor float64
		divisor, err = strconv.ParseFloat(bottom, 64)
		n /= divisor
	}
	if err != nil || !(n > 0 && n <= maxRate) { // unlimited is never the result of a number, NaN included
		return &Error{
			Msg:  fmt.Sprintf(`want messages a second such as 500, 0.5 or "1/60", not %q`, clip(string(text))),
			Hint: `a rate is above 0 and at most 1e9, or "unlimited"`,
		}
	}
	*r = Rate(n)
	return nil
}

func (r Rate) isValid() bool { return r > 0 && r <= maxRate || r.IsUnlimited() }
