package llm

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean returns the beginning of text on one line, without characters that do not show.
func clean(text string, most int) string {
	var b strings.Builder
	for _, c := range text {
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			c = ' '
		case c == utf8.RuneError || isHidden(c):
			continue
		}
		if b.Len()+utf8.RuneLen(c) > most {
			return b.String() + "…"
		}
		b.WriteRune(c)
	}
	return strings.TrimSpace(b.String())
}

// isHidden reports whether a character does not show, or changes how others do: control characters, those that turn
// the direction of writing or have no width, tags, variation selectors, private and unassigned ones.
func isHidden(c rune) bool {
	switch {
	case c == '\n' || c == '\t':
		return false
	case unicode.Is(unicode.Variation_Selector, c), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, c):
		return true
	}
	return !unicode.IsGraphic(c) && !unicode.Is(unicode.Zs, c) || unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Co, c)
}
