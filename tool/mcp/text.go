package mcp

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/converge-agents/converge/internal/cut"
)

const maxSchemaDepth = 64

// hiding are characters that people do not see, beside those of the categories C and Z: fillers, and the variation
// selectors that carry bytes in invisible tails.
var hiding = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1}, // combining grapheme joiner
		{Lo: 0x115f, Hi: 0x1160, Stride: 1}, // Hangul fillers
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1}, // Khmer inherent vowels
		{Lo: 0x180b, Hi: 0x180f, Stride: 1}, // Mongolian variation selectors
		{Lo: 0x2800, Hi: 0x2800, Stride: 1}, // empty Braille pattern
		{Lo: 0x3164, Hi: 0x3164, Stride: 1}, // Hangul filler
		{Lo: 0xfe00, Hi: 0xfe0e, Stride: 1}, // variation selectors but the one of emoji
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1}, // half-width Hangul filler
	},
	R32: []unicode.Range32{{Lo: 0xe0000, Hi: 0xe0fff, Stride: 1}}, // tags, more variation selectors
}

// isHiding reports whether r is a control character, or one that is invisible or turns the direction of text. Line
// ends, tabs and plain spaces are fine.
func isHiding(r rune) bool {
	switch r {
	case '\n', '\t', '\r':
		return false
	}
	return unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, hiding)
}

// checkText refuses text that people and models would read differently.
func checkText(s string) error {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return fmt.Errorf("not UTF-8 at byte %d", i)
		}
		if isHiding(r) {
			return fmt.Errorf("the character U+%04X at byte %d cannot be seen, or changes how text is shown", r, i)
		}
	}
	return nil
}

// checkValue checks all text in a decoded JSON value, keys included, and its depth.
func checkValue(value any, depth int) error {
	if depth > maxSchemaDepth {
		return fmt.Errorf("nested more than %d levels deep", maxSchemaDepth)
	}
	switch value := value.(type) {
	case string:
		return checkText(value)
	case []any:
		for _, element := range value {
			if err := checkValue(element, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := errors.Join(checkText(key), checkValue(value[key], depth+1)); err != nil {
				return err
			}
		}
	}
	return nil
}

// visible returns at most limit bytes of a server's text with what hides in it replaced, for errors and logs.
func visible(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if isHiding(r) {
			return utf8.RuneError
		}
		return r
	}, cut.Marked(s, limit))
}
