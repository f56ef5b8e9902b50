// Package cut bounds texts: of peers, servers, tools and models, for logs, errors, records and prompts.
package cut

import (
	"strings"
	"unicode/utf8"
)

// mark says that something is missing.
const mark = "…"

// Text returns the beginning of s: at most most bytes, in whole characters. Bytes that are no UTF-8 are replaced by
// U+FFFD, so that the result can be kept in records.
func Text(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// Marked is Text of which the last character is "…" if s was longer; most is at least 3.
func Marked(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	return Text(s, most-len(mark)) + mark
}
