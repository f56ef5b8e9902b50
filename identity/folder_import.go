package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/internal/ondisk"
)

// StatementFile returns the name of the file in which a folder of statements holds that of an agent.
func StatementFile(dir string, id ID) string { return filepath.Join(dir, id.String()+StatementSuffix) }

// ImportStatement puts a signed statement into a folder, which it makes if it is missing, and returns the file. It
// is written and synced before it gets its name, so that others see all of it or nothing. A statement that is older than
// the one that is there, or contradicts it, is refused: [ErrRolledBack], [ErrRevoked], [ErrQuarantined]. If it is
// there already, changed is false.
func ImportStatement(dir string, raw []byte) (path string, changed bool, err error) {
	s, err := OpenKeys(raw)
	if err != nil {
		return "", false, fmt.Errorf("import key statement: %w", err)
	}
	path = StatementFile(dir, s.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return path, false, fmt.Errorf("import key statement: %w", err)
	}
	changed, err = KeepStatement(path, raw)
	return path, changed, err
}

// KeepStatement is [ImportStatement] for a file of any name.
func KeepStatement(path string, raw []byte) (changed bool, err error) {
	if changed, err = follows(path, raw); err != nil || !changed {
		return false, err
	}
	if err := ondisk.Replace(path, EncodeStatement(raw), 0o644); err != nil {
		return false, fmt.Errorf("write key statement: %w", err)
	}
	return true, nil
}

// follows reports whether a statement counts instead of the one in the file, if there is one.
func follows(path string, raw []byte) (bool, error) {
	known := NewRegistryWith(RegistryConfig{Size: 1, Logger: slog.New(slog.DiscardHandler)}) // it only compares
	before, err := ReadStatementFile(path)
	if err == nil {
		_, err = known.Apply(before)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return false, err
	}
	if bytes.Equal(before, raw) {
		return false, nil
	}
	changed, err := known.Apply(raw)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return changed, nil
}

// ReadStatementFile returns the signed statement in a file of the text form, checked as by [OpenKeys].
func ReadStatementFile(path string) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("read key statement: %w", err)
	}
	defer root.Close()
	info, err := root.Stat(filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("read key statement %s: %w", path, err)
	}
	text, err := readStatementFile(root, filepath.Base(path), info)
	if err != nil {
		return nil, fmt.Errorf("read key statement %s: %w", path, err)
	}
	raw, err := DecodeStatement(text)
	if err != nil {
		return nil, fmt.Errorf("read key statement %s: %w", path, err)
	}
	return raw, nil
}

// ListedStatement is a file of a folder of statements.
type ListedStatement struct {
	File      string // its name
	Statement KeyStatement
	Err       error // why it is none
}

// ListStatements returns what the files of a folder of statements say, in the order in which the folder has them.
func ListStatements(dir string) ([]ListedStatement, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("list key statements: %w", err)
	}
	defer root.Close()
	var all []ListedStatement
	err = eachStatement(root, func(name string, info fs.FileInfo) {
		listed := ListedStatement{File: name}
		text, err := readStatementFile(root, name, info)
		var raw []byte
		if err == nil {
			raw, err = DecodeStatement(text)
		}
		if err == nil {
			listed.Statement, err = OpenKeys(raw)
		}
		listed.Err = err
		all = append(all, listed)
	})
	if err != nil {
		return nil, fmt.Errorf("list key statements in %s: %w", dir, err)
	}
	return all, nil
}
