package command

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/template"
)

// shells run text that they are given, whatever stands before it.
var shells = []string{"ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "sh", "tcsh", "zsh"}

func (c Config) setArgs(t *Tool) error {
	isShell := slices.Contains(shells, filepath.Base(c.Program)) || slices.Contains(shells, filepath.Base(t.program))
	afterDashes := false
	for i, text := range c.Args {
		arg, err := template.Parse(text)
		switch {
		case err != nil:
		case strings.Contains(text, "\x00"):
			err = errors.New("an argument holds no NUL")
		case !afterDashes && isShell && len(arg.Params()) > 0:
			err = errors.New(`a shell would run the param as code: write a script that reads "$1", and after it the elements "--" and the placeholder`)
		case !afterDashes:
			err = checkOption(arg)
		}
		if err == nil {
			err = checkPaths(arg, t.paths)
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
func checkOption(t template.Template) error {
	params := t.Params()
	switch {
	case len(params) == 0:
		return nil
	case t[0].IsParam:
		return fmt.Errorf(`{%s} could become an option: put the element "--" before it, or write it as --name={%[1]s}`, params[0])
	case strings.HasPrefix(t[0].Text, "-") && !strings.Contains(t[0].Text, "="):
		return fmt.Errorf(`{%s} could become part of the option's name, or more options: write it as --name={%[1]s}`, params[0])
	default:
		return nil
	}
}

// checkPaths reports whether the path that was checked is the one that the program will see.
func checkPaths(t template.Template, paths map[string]confined) error {
	for i, p := range t {
		if _, isPath := paths[p.Text]; !p.IsParam || !isPath {
			continue
		}
		if i != len(t)-1 {
			return fmt.Errorf("{%s} is a path, and what follows would make it another: end the element with it", p.Text)
		}
		if i > 0 && (t[i-1].IsParam || strings.HasSuffix(t[i-1].Text, "/")) {
			return fmt.Errorf("{%s} is an absolute path, and what is right before it would make it another: take that out", p.Text)
		}
	}
	return nil
}

func (c Config) setStdin(t *Tool) (err error) {
	if t.stdin, err = template.Parse(c.Stdin); err != nil {
		return fmt.Errorf("field Stdin: %w", err)
	}
	if t.stdinFile, err = template.Parse(c.StdinFile); err != nil {
		return fmt.Errorf("field StdinFile %q: %w", c.StdinFile, err)
	}
	params := t.stdinFile.Params()
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
	abs, err := filepath.Abs(t.stdinFile[0].Text)
	if err != nil {
		return fmt.Errorf("field StdinFile: %w", err)
	}
	t.stdinFile[0].Text = abs
	return nil
}
