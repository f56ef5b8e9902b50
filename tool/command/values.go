package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/converge-agents/converge/tool"
)

// invalid makes an error about params. The names of params may be in it, values may not.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", tool.ErrInvalidParams, fmt.Errorf(format, args...))
}

// values takes the text of each param from the params of a call. Those in Paths have been resolved.
func (t *Tool) values(params json.RawMessage) (map[string]string, error) {
	raw := map[string]json.RawMessage{}
	if len(params) > 0 {
		if err := json.Unmarshal(params, &raw); err != nil || raw == nil {
			return nil, invalid("not a JSON object")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if !slices.Contains(t.params, name) {
			return nil, invalid("unknown param %.64q; known are %q", name, t.params)
		}
	}
	values := map[string]string{}
	for _, name := range t.params {
		value, err := t.value(name, raw[name])
		if err != nil {
			return nil, invalid("param %q %w", name, err)
		}
		values[name] = value
	}
	return values, nil
}

func (t *Tool) value(name string, raw json.RawMessage) (string, error) {
	if raw == nil {
		return "", errors.New("is missing")
	}
	value, err := text(raw)
	if err != nil {
		return "", err
	}
	if strings.Contains(value, "\x00") {
		return "", errors.New("holds a NUL")
	}
	within, isPath := t.paths[name]
	if !isPath {
		return value, nil
	}
	rel, err := within.resolve(value)
	if err != nil {
		return "", err
	}
	path := filepath.Join(within.real, rel)
	return path, within.checkHidden(path)
}

// text returns the text of a string, number or boolean in valid JSON.
func text(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case '{', '[', 'n':
		return "", errors.New("is neither a string, nor a number, nor a boolean")
	default:
		return string(raw), nil
	}
}

// confined is a directory that paths have to lie within.
type confined struct {
	given string // absolute
	real  string // the same, symbolic links resolved

	hidden []string // of Config.Except, what lies in it; absolute
}

func confine(dir string) (confined, error) {
	given, err := directory(dir)
	if err != nil {
		return confined{}, err
	}
	real, err := filepath.EvalSymlinks(given)
	if err != nil {
		return confined{}, withoutPath(err)
	}
	return confined{given: given, real: real}, nil
}

var errOutside = errors.New("lies outside the directory that it is confined to")

// resolve returns the path below c.real that value leads to.
func (c confined) resolve(value string) (string, error) {
	local, ok := c.local(value)
	if !ok { // without a look at the disk: what is outside is nobody's business
		return "", errOutside
	}
	resolved, err := resolveLinks(filepath.Join(c.real, local))
	if err != nil {
		return "", withoutPath(err)
	}
	rel, err := filepath.Rel(c.real, resolved)
	if err != nil || !filepath.IsLocal(rel) {
		return "", errOutside
	}
	return rel, nil
}

// local returns the path that value spells, relative to the directory, if it does not leave it.
func (c confined) local(value string) (string, bool) {
	if !filepath.IsAbs(value) {
		return filepath.Clean(value), value != "" && filepath.IsLocal(value)
	}
	for _, dir := range []string{c.real, c.given} {
		if rel, err := filepath.Rel(dir, value); err == nil && filepath.IsLocal(rel) {
			return rel, true
		}
	}
	return "", false
}

// resolveLinks resolves symbolic links in a path, whose last element need not exist.
func resolveLinks(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	if _, lstatErr := os.Lstat(path); !errors.Is(lstatErr, fs.ErrNotExist) {
		return "", err // a link to nowhere
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// withoutPath takes the path out of an error, since it may come from params.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("cannot be resolved: %w", pathErr.Err)
	}
	return errors.New("cannot be resolved")
}

// openStdin opens the file of the template StdinFile. A value in Paths is opened beneath its
// directory, so that a link that was put there since the check leads nowhere else.
func (t *Tool) openStdin(values map[string]string) (*os.File, error) {
	name := t.stdinFile[0].Text
	if !t.stdinFile[0].IsParam {
		file, err := openRegular(os.OpenFile, name)
		if err != nil {
			return nil, fmt.Errorf("open the standard input: %w", err)
		}
		return file, nil
	}
	file, err := openBeneath(t.paths[name].real, values[name])
	if err != nil {
		return nil, invalid("param %q %w", name, err)
	}
	return file, nil
}

// openRegular opens a file for reading, and does not wait for a writer if it is a pipe.
func openRegular(open func(string, int, os.FileMode) (*os.File, error), name string) (*os.File, error) {
	file, err := open(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// removeAll removes a working directory, directories included that the program left unwritable.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	if root, err := os.OpenRoot(dir); err == nil {
		defer root.Close()
		// What cannot be changed shows when it is removed.
		_ = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				_ = root.Chmod(path, 0o700)
			}
			return nil
		})
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the working directory: %w", err)
	}
	return nil
}
