package task

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// emptyParams is what a Spec without parameters holds.
const emptyParams = "{}"

// maxName is the longest name in bytes.
const maxName = 128

// lastDeadline is the latest that a record can hold with room to spare.
var lastDeadline = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// checked returns a copy of s with its defaults filled in, sharing nothing with s, or an error that
// names the field at fault.
func (s Spec) checked(defaultTTL time.Duration) (Spec, error) {
	if len(s.Params) == 0 {
		s.Params = json.RawMessage(emptyParams)
	}
	s.Params = bytes.Clone(s.Params)
	s.Capabilities = slices.Compact(slices.Sorted(slices.Values(s.Capabilities)))
	s.ClaimTTL = cmp.Or(s.ClaimTTL, defaultTTL)
	if !s.Deadline.IsZero() {
		s.Deadline = wall(s.Deadline)
	}
	return s, s.check()
}

// wall strips the zone and the monotonic reading, which mean nothing to other processes.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// check holds a complete Spec to the rules.
func (s Spec) check() error {
	if err := checkName("ID", s.ID); err != nil {
		return err
	}
	if err := checkName("Kind", s.Kind); err != nil {
		return err
	}
	if s.Pool != "" {
		if err := checkName("Pool", s.Pool); err != nil {
			return err
		}
	}
	if err := checkParams(s.Params); err != nil {
		return err
	}
	if err := checkCapabilities(s.Capabilities); err != nil {
		return err
	}
	if s.Submitter.IsZero() {
		return invalid("Submitter is not set")
	}
	if s.Deadline.After(lastDeadline) {
		return invalid("Deadline %v is later than %v", s.Deadline, lastDeadline)
	}
	return checkTTL("ClaimTTL", s.ClaimTTL)
}

func checkTTL(field string, ttl time.Duration) error {
	if ttl < MinClaimTTL || ttl > MaxClaimTTL {
		return invalid("%s is %v; it is between %v and %v", field, ttl, MinClaimTTL, MaxClaimTTL)
	}
	return nil
}

func checkName(field, name string) error {
	if name == "" || len(name) > maxName {
		return invalid("%s has %d bytes; a name has 1 to %d", field, len(name), maxName)
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("._:/@+-", c) < 0 {
			return invalid(`%s %q: byte %d is %q; a name is made of letters, digits and "._:/@+-"`, field, name, i+1, c)
		}
	}
	return nil
}

func checkParams(params json.RawMessage) error {
	if len(params) > MaxParams {
		return invalid("Params has %d bytes where at most %d are allowed", len(params), MaxParams)
	}
	if !utf8.Valid(params) || !json.Valid(params) || bytes.TrimLeft(params, " \t\r\n")[0] != '{' {
		return invalid("Params is not a JSON object") // it may hold secrets
	}
	return nil
}

// checkCapabilities wants them sorted.
func checkCapabilities(capabilities []string) error {
	if len(capabilities) > MaxCapabilities {
		return invalid("Capabilities names %d where at most %d are allowed", len(capabilities), MaxCapabilities)
	}
	for i, c := range capabilities {
		if err := checkName(fmt.Sprintf("Capabilities[%d]", i), c); err != nil {
			return err
		}
		if i > 0 && capabilities[i-1] >= c {
			return invalid("Capabilities names %q out of order", c)
		}
	}
	return nil
}

func checkResult(result []byte, mediaType string) error {
	if len(result) > MaxResult {
		return invalid("the result has %d bytes where at most %d are allowed", len(result), MaxResult)
	}
	if len(mediaType) > maxName {
		return invalid("the result's media type has %d bytes where at most %d are allowed", len(mediaType), maxName)
	}
	for i, c := range []byte(mediaType) {
		if c < ' ' || c > '~' {
			return invalid("the result's media type %q: byte %d is not printable ASCII", mediaType, i+1)
		}
	}
	return nil
}

// fitReason makes any text fit to be kept as the reason for a failure: an error may be long, and losing
// its end is better than losing the failure.
func fitReason(reason string) string {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) <= MaxReason {
		return reason
	}
	const mark = "…"
	end := MaxReason - len(mark)
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end] + mark
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
