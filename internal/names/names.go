// Package names holds names to the bytes that they may be made of: ASCII letters and digits, and some others.
package names

import (
	"fmt"
	"strings"
)

// Is reports whether s is a name: 1 to most bytes, each a letter, a digit or one of others.
func Is(s string, most int, others string) bool {
	return s != "" && len(s) <= most && odd(s, others) < 0
}

// Check returns why s is not a name as [Is] has it; field is what the error calls it.
func Check(field, s string, most int, others string) error {
	if s == "" || len(s) > most {
		return fmt.Errorf("%s has %d bytes; a name has 1 to %d", field, len(s), most)
	}
	if i := odd(s, others); i >= 0 {
		return fmt.Errorf("%s %q: byte %d is %q; a name is made of letters, digits and %q", field, s, i+1, s[i], others)
	}
	return nil
}

// odd returns where the first byte is that a name may not have; -1 if there is none.
func odd(s, others string) int {
	for i, c := range []byte(s) {
		isPlain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !isPlain && strings.IndexByte(others, c) < 0 {
			return i
		}
	}
	return -1
}
