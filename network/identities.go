package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
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
	path := KeyPath(n.dir, agent)
	id, made, err := EnsureKey(path, n.options.Passphrase)
	if made {
		n.log.Info("key made", "agent", agent, "file", path, "sealed", len(n.options.Passphrase) > 0)
	}
	return id, err
}

func readKey(path string, passphrase []byte) (*identity.Identity, error) {
	id, err := identity.ReadKeyFile(path, passphrase)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, advice.On(err, fmt.Sprintf("make it with: converge keys new %q", path))
	}
	return id, err
}

// EnsureKey reads the key file, or makes it and its folder.
func EnsureKey(path string, passphrase []byte) (id *identity.Identity, made bool, err error) {
	id, err = identity.ReadKeyFile(path, passphrase)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("make key folder: %w", err)
	}
	if id, err = identity.Generate(); err != nil {
		return nil, false, err
	}
	if err := identity.WriteKeyFile(path, id, passphrase); err != nil {
		return nil, false, err
	}
	return id, true, nil
}

// enter notes which agent an ID is. Two agents cannot have the same key: each could speak as the other.
func (n *Network) enter(id identity.ID, agent string) error {
	if err := n.checkSelf(id); err != nil {
		return err
	}
	if other, taken := n.names[id]; taken {
		return advice.On(
			fmt.Errorf("its key is that of agent %q too (ID %s)", other, id),
			"give each agent a key of its own; the copy of a key file is the same key")
	}
	n.names[id] = agent
	return nil
}

// standsAside reports whether an error about an agent of this process is only that it has been in quarantine before: the
// process starts all the same, since that is where the agent can be released. A statement that contradicts what is known
// is another matter: it may be that of a key file from a backup.
func (n *Network) standsAside(err error, id identity.ID, raw []byte) bool {
	if !errors.Is(err, identity.ErrQuarantined) {
		return false
	}
	all := n.registry.Quarantined()
	i := slices.IndexFunc(all, func(q identity.Quarantine) bool { return q.ID == id })
	return i >= 0 && !bytes.Equal(all[i].Contrary, raw)
}
