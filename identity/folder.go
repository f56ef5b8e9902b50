package identity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// StatementSuffix ends the names of files that hold the text form of a statement.
	StatementSuffix = ".statement"
	// DefaultFolderEvery is how often a folder of statements is looked through.
	DefaultFolderEvery = 250 * time.Millisecond
	// MaxFolder is how many files of a folder of statements are looked at.
	MaxFolder = 1 << 16
	// settled is how old a file has to be for its time and size to tell whether it has changed.
	settled = 2 * time.Second
)

// FolderConfig configures a [Folder]. Dir and Registry are required.
type FolderConfig struct {
	Dir      string        // is made if it is missing; whoever may write there can hand in statements, and forge none
	Registry *Registry     // gets the statements, by Apply
	Every    time.Duration // between two looks; 0 means DefaultFolderEvery
	Logger   *slog.Logger  // nil means slog.Default
}

// Folder applies the statements of a folder to a registry: of all files whose names end in [StatementSuffix], in
// the form of [EncodeStatement]. A statement that is put there is in force within [FolderConfig.Every], in each process
// that looks at the folder. That one is removed from it changes nothing.
//
// A file that holds no statement is logged when it comes up, and changes nothing. Beyond [MaxFolder] files the others
// are not looked at, which is an error.
type Folder struct {
	c FolderConfig

	mu    sync.Mutex
	files map[string]*folderFile
	err   error
}

// folderFile is what is known of a file.
type folderFile struct {
	modified time.Time
	size     int64
	settled  bool
	sum      [sha256.Size]byte
	pass     *int // the pass that saw it last
}

// NewFolder checks the configuration and returns a folder. It looks at nothing; see [Folder.Load] and [Folder.Run].
func NewFolder(c FolderConfig) (*Folder, error) {
	switch {
	case c.Dir == "":
		return nil, errors.New("identity.FolderConfig.Dir: required")
	case c.Registry == nil:
		return nil, errors.New("identity.FolderConfig.Registry: required")
	case c.Every < 0:
		return nil, errors.New("identity.FolderConfig.Every: negative")
	}
	c.Every, c.Logger = cmp.Or(c.Every, DefaultFolderEvery), cmp.Or(c.Logger, slog.Default())
	return &Folder{c: c, files: map[string]*folderFile{}}, nil
}

// Run looks through the folder, again and again, until ctx ends; then it returns nil. That the folder cannot be read
// is logged once, and tried again.
func (f *Folder) Run(ctx context.Context) error {
	ticker := time.NewTicker(f.c.Every)
	defer ticker.Stop()
	var before string
	for {
		if err := f.Load(); err == nil {
			before = ""
		} else if text := err.Error(); text != before {
			f.c.Logger.Error("statements cannot be read; a revocation among them is not in force", "error", err)
			before = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Err returns why the last look through the folder failed, nil if it did not.
func (f *Folder) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Load looks through the folder once, and makes it if it is missing. The error says that the folder cannot be read, and
// not that a file is no statement.
func (f *Folder) Load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err = f.look(); f.err != nil {
		f.err = fmt.Errorf("statements in %s: %w", f.c.Dir, f.err)
	}
	return f.err
}

func (f *Folder) look() error {
	if err := os.MkdirAll(f.c.Dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(f.c.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	pass := new(int)
	err = eachStatement(root, func(name string, info fs.FileInfo) { f.see(root, name, info, pass) })
	if err != nil {
		return err
	}
	for name, file := range f.files {
		if file.pass != pass {
			delete(f.files, name)
		}
	}
	return nil
}

// eachStatement calls see for each file of a folder that is called a statement.
func eachStatement(root *os.Root, see func(name string, info fs.FileInfo)) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for seen := 0; ; {
		entries, err := dir.ReadDir(256)
		for _, entry := range entries {
			if seen++; seen > MaxFolder {
				return fmt.Errorf("there are more than %d files", MaxFolder)
			}
			info, err := entry.Info()
			if strings.HasSuffix(entry.Name(), StatementSuffix) && err == nil { // or it has just gone
				see(entry.Name(), info)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// see applies a file that is new or has changed.
func (f *Folder) see(root *os.Root, name string, info fs.FileInfo, pass *int) {
	file := f.files[name]
	if file == nil {
		file = &folderFile{}
		f.files[name] = file
	}
	file.pass = pass
	if file.settled && file.modified.Equal(info.ModTime()) && file.size == info.Size() {
		return
	}
	data, err := readStatementFile(root, name, info)
	sum := sha256.Sum256(data)
	news := sum != file.sum
	file.modified, file.size, file.sum = info.ModTime(), info.Size(), sum
	age := time.Since(info.ModTime())
	file.settled = age > settled || age < -settled
	if err == nil && news {
		err = f.apply(data)
	}
	if err != nil && (news || file.settled) {
		f.c.Logger.Warn("file is no statement that counts", "file", filepath.Join(f.c.Dir, name), "error", err)
	}
}

func (f *Folder) apply(text []byte) error {
	raw, err := DecodeStatement(text)
	if err != nil {
		return err
	}
	changed, err := f.c.Registry.Apply(raw)
	if changed {
		f.c.Logger.Info("key statement applied", "dir", f.c.Dir)
	}
	if errors.Is(err, ErrRolledBack) || errors.Is(err, ErrRevoked) { // it was true once
		return nil
	}
	return err
}

// readStatementFile reads a file that may be anything.
func readStatementFile(root *os.Root, name string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO, in the meantime, would block
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxStatementText+1))
}
