package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// template is text with placeholders. No two neighbouring parts are both text.
type template []part

type part struct {
	text  string // the text, or the param's name
	param bool
}

var errBrace = errors.New("a single '}': write }} for a brace")

func parseTemplate(text string) (template, error) {
	var t template
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
			if !closed || !isParamName(name) {
				return nil, errors.New("'{' begins no placeholder: write {name}, of letters, digits, '_' and '-', or {{ for a brace")
			}
			t, text = append(t, part{name, true}), after
		}
	}
	return t, nil
}

// add appends text to the last part, if that is text too.
func (t template) add(text string) template {
	if text == "" {
		return t
	}
	if n := len(t); n > 0 && !t[n-1].param {
		t[n-1].text += text
		return t
	}
	return append(t, part{text: text})
}

// String returns the text that the template was parsed from.
func (t template) String() string {
	var b strings.Builder
	for _, p := range t {
		if p.param {
			b.WriteString("{" + p.text + "}")
		} else {
			b.WriteString(strings.NewReplacer("{", "{{", "}", "}}").Replace(p.text))
		}
	}
	return b.String()
}

// fill puts in the values, which are not looked into for placeholders.
func (t template) fill(values map[string]string) string {
	var b strings.Builder
	for _, p := range t {
		if p.param {
			b.WriteString(values[p.text])
		} else {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

func (t template) params() []string {
	var names []string
	for _, p := range t {
		if p.param {
			names = append(names, p.text)
		}
	}
	return names
}

func isParamName(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != ""
}

// shells run text that they are given, whatever stands before it.
var shells = []string{"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "sh", "tcsh", "zsh"}

func (c Config) setArgs(t *Tool) error {
	isShell := slices.Contains(shells, filepath.Base(c.Program)) || slices.Contains(shells, filepath.Base(t.program))
	afterDashes := false
	for i, text := range c.Args {
		arg, err := parseTemplate(text)
		switch {
		case err != nil:
		case strings.Contains(text, "\x00"):
			err = errors.New("an argument holds no NUL")
		case !afterDashes && isShell && len(arg.params()) > 0:
			err = errors.New(`a shell would run the param as code: write a script that reads "$1", and after it the elements "--" and the placeholder`)
		case !afterDashes:
			err = arg.checkOption()
		}
		if err == nil {
			err = arg.checkPaths(t.paths)
		}
		if err != nil {
			return fmt.Errorf("field Args[%d] %q: %w", i, text, err)
		}
		t.args = append(t.args, arg)
		afterDashes = afterDashes || text == "--"
	}
	return nil
}

// checkOption reports whether no param can make the argument an option, or another one than it is.
func (t template) checkOption() error {
	params := t.params()
	switch {
	case len(params) == 0:
		return nil
	case t[0].param:
		return fmt.Errorf(`{%s} could become an option: put the element "--" before it, or write it as --name={%[1]s}`, params[0])
	case strings.HasPrefix(t[0].text, "-") && !strings.Contains(t[0].text, "="):
		return fmt.Errorf(`{%s} could become part of the option's name, or more options: write it as --name={%[1]s}`, params[0])
	default:
		return nil
	}
}

// checkPaths reports whether the path that was checked is the one that the program will see.
func (t template) checkPaths(paths map[string]confined) error {
	for i, p := range t {
		if _, isPath := paths[p.text]; !p.param || !isPath {
			continue
		}
		if i != len(t)-1 {
			return fmt.Errorf("{%s} is a path, and what follows would make it another: end the element with it", p.text)
		}
		if i > 0 && (t[i-1].param || strings.HasSuffix(t[i-1].text, "/")) {
			return fmt.Errorf("{%s} is an absolute path, and what is right before it would make it another: take that out", p.text)
		}
	}
	return nil
}

func (c Config) setStdin(t *Tool) (err error) {
	if t.stdin, err = parseTemplate(c.Stdin); err != nil {
		return fmt.Errorf("field Stdin: %w", err)
	}
	if t.stdinFile, err = parseTemplate(c.StdinFile); err != nil {
		return fmt.Errorf("field StdinFile %q: %w", c.StdinFile, err)
	}
	params := t.stdinFile.params()
	if len(params) == 0 {
		return t.fixStdinFile()
	}
	if _, isPath := t.paths[params[0]]; !isPath || len(t.stdinFile) != 1 {
		return fmt.Errorf("field StdinFile %q: write {%s} alone, and give its directory in Paths", c.StdinFile, params[0])
	}
	return nil
}

// fixStdinFile makes a path without placeholders absolute.
func (t *Tool) fixStdinFile() error {
	if t.stdinFile == nil {
		return nil
	}
	abs, err := filepath.Abs(t.stdinFile[0].text)
	if err != nil {
		return fmt.Errorf("field StdinFile: %w", err)
	}
	t.stdinFile[0].text = abs
	return nil
}
