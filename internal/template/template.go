// Package template fills values into the places that a text leaves for them. Values are never looked into, so none
// becomes a placeholder.
package template

import (
	"errors"
	"strings"
)

// Template is text with placeholders. No two neighbouring parts are both text. It must not be changed.
type Template []Part

// Part is a piece of text, or a placeholder.
type Part struct {
	Text    string // the text, or the param's name
	IsParam bool
}

var errBrace = errors.New("a single '}': write }} for a brace")

// Parse reads a template. {name} is a placeholder, {{ and }} stand for braces.
func Parse(text string) (Template, error) {
	var t Template
	for text != "" {
		i := strings.IndexAny(text, "{}")
		if i < 0 {
			return t.add(text), nil
		}
		t = t.add(text[:i])
		brace, rest := text[i], text[i+1:]
		switch {
		case strings.HasPrefix(rest, string(brace)):
			t, text = t.add(string(brace)), rest[1:]
		case brace == '}':
			return nil, errBrace
		default:
			name, after, closed := strings.Cut(rest, "}")
			if !closed || !IsName(name) {
				return nil, errors.New("'{' begins no placeholder: write {name}, of letters, digits, '_' and '-', or {{ for a brace")
			}
			t, text = append(t, Part{name, true}), after
		}
	}
	return t, nil
}

// add appends text to the last part, if that is text too.
func (t Template) add(text string) Template {
	if text == "" {
		return t
	}
	if n := len(t); n > 0 && !t[n-1].IsParam {
		t[n-1].Text += text
		return t
	}
	return append(t, Part{Text: text})
}

// String returns the text that the template was parsed from.
func (t Template) String() string {
	var b strings.Builder
	for _, p := range t {
		if p.IsParam {
			b.WriteString("{" + p.Text + "}")
		} else {
			b.WriteString(strings.NewReplacer("{", "{{", "}", "}}").Replace(p.Text))
		}
	}
	return b.String()
}

// Fill puts in the values, which are not looked into for placeholders.
func (t Template) Fill(values map[string]string) string {
	var b strings.Builder
	for _, p := range t {
		if p.IsParam {
			b.WriteString(values[p.Text])
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// Params returns the names of the placeholders, in their order, as often as they are there.
func (t Template) Params() []string {
	var names []string
	for _, p := range t {
		if p.IsParam {
			names = append(names, p.Text)
		}
	}
	return names
}

// IsName reports whether s can name a param: letters, digits, '_' and '-'.
func IsName(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != ""
}
