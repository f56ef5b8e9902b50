package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/converge-agents/converge/internal/template"
)

// setExcept notes what lies in the directories of Paths and is not to be reached through them.
func (c Config) setExcept(t *Tool) error {
	for i, path := range c.Except {
		if path == "" {
			return fmt.Errorf(`field Except[%d]: is empty; "." is the current directory`, i)
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return fmt.Errorf("field Except[%d]: %w", i, err)
		}
		if abs, err = whereabouts(abs, maxLinks); err != nil {
			return fmt.Errorf("field Except[%d] %q: %w", i, path, withoutPath(err))
		}
		for param, within := range t.paths {
			if within.holds(abs) {
				within.hidden = append(within.hidden, abs)
				t.paths[param] = within
			}
		}
	}
	return nil
}

// maxLinks is how many links to nowhere may be on the way to what is not there yet.
const maxLinks = 40

// whereabouts returns a path without symbolic links, also of what is not there yet: it may come. What cannot be told is an
// error, since the path might lead anywhere.
func whereabouts(path string, links int) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return real, err
	}
	dir, err := whereabouts(filepath.Dir(path), links)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, filepath.Base(path))
	target, err := os.Readlink(path)
	switch {
	case err != nil: // it is no link, or not there
		return path, nil
	case links == 0:
		return "", &fs.PathError{Op: "resolve", Path: path, Err: errors.New("too many links")}
	case !filepath.IsAbs(target):
		target = filepath.Join(dir, target)
	}
	return whereabouts(target, links-1)
}

// holds reports whether a path lies in the directory, and is not the directory itself; when in doubt, it does.
func (c confined) holds(path string) bool {
	dir, err := os.Stat(c.real)
	return err != nil || liesIn(filepath.Dir(path), dir)
}

var errHidden = errors.New("leads to what is kept from tools")

// checkHidden refuses what is hidden, what lies in it, and directories that it lies in.
func (c confined) checkHidden(path string) error {
	named, namedErr := os.Stat(path)
	for _, hidden := range c.hidden {
		info, err := os.Stat(hidden)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errHidden
		}
		if path == hidden || err == nil && liesIn(path, info) || namedErr == nil && liesIn(hidden, named) {
			return errHidden
		}
	}
	return nil
}

// liesIn reports whether a path is the file that info is about, or is somewhere in it. What a file is counts, and not its
// name, of which there may be others: hard links, and other letters where the file system does not tell them apart.
func liesIn(path string, info fs.FileInfo) bool {
	for {
		if at, err := os.Stat(path); err == nil && os.SameFile(at, info) {
			return true
		}
		up := filepath.Dir(path)
		if up == path {
			return false
		}
		path = up
	}
}

// named returns what the params of a call name in directories that are not granted whole, and the program opens itself.
func (t *Tool) named(values map[string]string) (paths []string) {
	for param, within := range t.paths {
		if len(within.hidden) == 0 || !t.shows(param) {
			continue
		}
		if _, err := os.Lstat(values[param]); err == nil {
			paths = append(paths, values[param])
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// shows reports whether the program gets to know the value of a param.
func (t *Tool) shows(param string) bool {
	return slices.ContainsFunc(append([]template.Template{t.stdin}, t.args...), func(tmpl template.Template) bool {
		return slices.Contains(tmpl.Params(), param)
	})
}
