package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/identity"
)

// KeyPath returns where the key of an agent lies that has no key file of its own.
func KeyPath(dataDir, agent string) string { return filepath.Join(dataDir, "keys", agent+".pem") }

// identityOf reads an agent's key. A key file that the configuration names has to exist; the others are
// made. In a temporary directory no file is written: such a key dies with the process.
func (n *Network) identityOf(agent, file string) (*identity.Identity, error) {
	if file != "" {
		return readKey(file, n.options.Passphrase)
	}
	if n.removes {
		return identity.Generate()
	}
	return EnsureKey(KeyPath(n.dir, agent), n.options.Passphrase)
}

func readKey(path string, passphrase []byte) (*identity.Identity, error) {
	id, err := identity.ReadKeyFile(path, passphrase)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; make one with: converge keys new %q", err, path)
	}
	return id, err
}

// EnsureKey reads the key file, or makes it and its folder.
func EnsureKey(path string, passphrase []byte) (*identity.Identity, error) {
	id, err := identity.ReadKeyFile(path, passphrase)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make key folder: %w", err)
	}
	if id, err = identity.Generate(); err != nil {
		return nil, err
	}
	return id, identity.WriteKeyFile(path, id, passphrase)
}
