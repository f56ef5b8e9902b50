package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/nearest"
)

// maxShown is how many problems of one Config are told at once.
const maxShown = 10

// Error is one problem of a configuration. An error that reports several joins them ([errors.Join]), at
// most ten and a last one that says how many more there are.
type Error struct {
	File   string // the file, or the name of the environment variable or flag; "" if it was not read
	Line   int    // from 1; 0 where there is none
	Column int    // in characters, from 1; 0 where there is none
	Key    string // the key at fault, such as agents[0].name; may be ""
	Msg    string // what is wrong with it
	Hint   string // what to do about it; may be ""
	Err    error  // the cause; may be nil
}

// Error returns place, key and message on one line, as far as they are known; the hint is left out.
//
//	converge.yaml:12:5: agents[0].capabilites: unknown key
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	for _, part := range []string{e.Key, e.Msg} {
		if part != "" && b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(part)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// place is where something stands: in the file, or in what the source names.
type place struct {
	source       string // environment variable or flag; "" is the file
	line, column int
}

// problems gathers what is wrong, one problem a key: more of them would only echo the first.
type problems struct {
	file string
	list []*Error
	keys map[string]bool
}

// add completes e with its place and key.
func (p *problems) add(at place, key string, e *Error) {
	if key != "" && p.keys[key] {
		return
	}
	if p.keys == nil {
		p.keys = map[string]bool{}
	}
	p.keys[key] = true
	e.File, e.Line, e.Column, e.Key = cmp.Or(at.source, p.file), at.line, at.column, key
	p.list = append(p.list, e)
}

// err returns the problems in the order of their places, nil if there are none.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	if len(p.list) == 1 {
		return p.list[0]
	}
	slices.SortStableFunc(p.list, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var shown []error
	for _, e := range p.list[:min(len(p.list), maxShown)] {
		shown = append(shown, e)
	}
	if more := len(p.list) - maxShown; more > 0 {
		shown = append(shown, &Error{File: p.file, Msg: fmt.Sprintf("and %d more", more)})
	}
	return errors.Join(shown...)
}

// clip bounds text from a file for an error.
func clip(text string) string { return cut.Marked(text, 64) }

// suggest returns the hint for a name that is not one of those known: the nearest, or else all of
// them, introduced by the word for what they are.
func suggest(name, kind string, known []string) string {
	if near := nearest.Name(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "there are no " + kind
	}
	list, rest := known, ""
	if len(list) > 40 {
		list, rest = list[:40], ", …"
	}
	return "known " + kind + ": " + strings.Join(list, ", ") + rest
}
