package network

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/transport/nats"
)

// approvalKeyFile is in the state directory.
const approvalKeyFile = "approval.key"

// approvalKey returns the key of requests and decisions: that of the configuration, or that of the state directory,
// which is made if it is missing. It is nil, for a random one, in a state directory that does not stay.
func (n *Network) approvalKey() ([]byte, error) {
	if n.config.Policy.Key != (config.Secret{}) {
		secret, err := nats.Secret(n.config.Policy.Key).Read()
		if err == nil && len(secret) < approval.MinKey {
			err = fmt.Errorf("the secret has fewer than %d bytes", approval.MinKey)
		}
		if err != nil {
			return nil, fmt.Errorf("policy.key: %w", err)
		}
		return []byte(secret), nil
	}
	if n.removes {
		return nil, nil
	}
	path := filepath.Join(n.dir, approvalKeyFile)
	key, err := readApprovalKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeApprovalKey(path); err == nil || errors.Is(err, fs.ErrExist) {
			key, err = readApprovalKey(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of approvals: %w", err)
	}
	return key, nil
}

func readApprovalKey(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) < approval.MinKey { // err would quote it
		return nil, advice.On(fmt.Errorf("%s holds no key", path), "move it away, and another one is made; what waits for approval is then asked again")
	}
	return key, nil
}

// makeApprovalKey writes a random key to a new file, whole or not at all.
func makeApprovalKey(path string) error {
	var key [32]byte
	rand.Read(key[:])                                                 // never fails
	f, err := os.CreateTemp(filepath.Dir(path), approvalKeyFile+".*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(hex.EncodeToString(key[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path) // unlike a renaming, it replaces nothing
	}
	return errors.Join(err, os.Remove(f.Name()))
}
