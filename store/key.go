package store

import (
	"fmt"
	"strings"
)

// MaxKey is the longest key in bytes.
const MaxKey = 512

// CheckKey reports whether a key can be stored: 1 to [MaxKey] bytes of letters, digits and "._=-/",
// where '/' separates segments that are neither empty nor made of dots alone. So a key is a relative
// path that stays below its root and needs no quoting in a file system, a URL or a broker subject. Its
// error wraps [ErrInvalidKey] and does not repeat the key.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("%w: %d bytes where 1 to %d are allowed", ErrInvalidKey, len(key), MaxKey)
	}
	start, dots := 0, true // of the segment under way
	for i := range len(key) {
		switch c := key[i]; {
		case c == '/':
			if err := checkSegment(key, start, i, dots); err != nil {
				return err
			}
			start, dots = i+1, true
		case !plain[c] && c != '=':
			return fmt.Errorf("%w: byte %d is %q", ErrInvalidKey, i+1, c)
		case c != '.':
			dots = false
		}
	}
	return checkSegment(key, start, len(key), dots)
}

func checkSegment(key string, start, end int, dots bool) error {
	if start == end {
		return fmt.Errorf("%w: the segment at byte %d is empty", ErrInvalidKey, start+1)
	}
	if dots {
		return fmt.Errorf("%w: the segment at byte %d is %q", ErrInvalidKey, start+1, key[start:end])
	}
	return nil
}

// CheckPrefix reports whether prefix can start a valid key; "" starts all of them. A prefix counts
// bytes, not segments: "a" selects "a", "ab" and "a/b", and "a/" only the last. Its error wraps
// [ErrInvalidKey].
func CheckPrefix(prefix string) error {
	if prefix == "" || CheckKey(prefix+"x") == nil {
		return nil
	}
	return CheckKey(prefix) // it may fill a key of full length
}

// Key joins parts to a key with '/'. Parts may hold anything, hostile text included: a byte outside of
// letters, digits and "._-" is written as '=' and two upper-case hexadecimal digits, so are the dots of
// a part that is made of dots alone, and an empty part is a lone '='. Different lists of parts have
// different keys; [SplitKey] is the reverse. A key that grows beyond [MaxKey] is refused where it is
// used.
func Key(parts ...string) string {
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteByte('/')
		}
		writePart(&b, part)
	}
	return b.String()
}

func writePart(b *strings.Builder, part string) {
	if part == "" {
		b.WriteByte('=')
		return
	}
	dots := strings.Trim(part, ".") == ""
	for _, c := range []byte(part) {
		if plain[c] && !dots {
			b.WriteByte(c)
		} else {
			b.WriteString("=" + hexDigits[c>>4:c>>4+1] + hexDigits[c&15:c&15+1])
		}
	}
}

// SplitKey returns the parts that [Key] joined. It refuses a key that Key does not make, with an error
// that wraps [ErrInvalidKey].
func SplitKey(key string) ([]string, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	parts := strings.Split(key, "/")
	for i, segment := range parts {
		parts[i] = unescape(segment)
	}
	if Key(parts...) != key { // malformed, lower-case or needless escapes
		return nil, fmt.Errorf("%w: its escapes are not those of Key", ErrInvalidKey)
	}
	return parts, nil
}

// unescape reads the escapes that it understands; SplitKey compares what Key makes of the result.
func unescape(segment string) string {
	if segment == "=" {
		return ""
	}
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		if segment[i] == '=' && i+2 < len(segment) {
			high, low := strings.IndexByte(hexDigits, segment[i+1]), strings.IndexByte(hexDigits, segment[i+2])
			if high >= 0 && low >= 0 {
				b.WriteByte(byte(high<<4 | low))
				i += 2
				continue
			}
		}
		b.WriteByte(segment[i])
	}
	return b.String()
}

const hexDigits = "0123456789ABCDEF"

// plain holds the bytes that stand for themselves in a part.
var plain = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") {
		set[c] = true
	}
	return set
}()
