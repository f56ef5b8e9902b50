package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// nextSuffix is that of the file of a key that a rotation is to put in force, or has. It is there while one is under way, and after a
// process that has died amid one.
const nextSuffix = ".next"

// auditKeys are those that may be in force.
type auditKeys struct {
	path   string // "" if the key dies with the process
	key    *identity.Identity
	next   *identity.Identity // nil if there is none
	unread error              // why the file of next cannot be read, if there is one
}

// auditKeys reads or makes the key that signs receipts, and reads the one that is to follow it. It is beside the state; where that is
// temporary and the receipts are not, beside these.
func (n *Network) auditKeys() (k auditKeys, err error) {
	dir := n.dir
	if n.removes {
		if n.config.Audit.Dir == "" {
			k.key, err = identity.Generate()
			return k, err
		}
		dir = n.config.Audit.Dir
	}
	k.path = AuditKeyPath(dir)
	var made bool
	if k.key, made, err = EnsureKey(k.path, n.options.Passphrase); err != nil {
		return k, fmt.Errorf("key of the audit log: %w", err)
	}
	if made {
		n.log.Info("key of the audit log made", "file", k.path, "id", k.key.ID(), "sealed", len(n.options.Passphrase) > 0)
	}
	k.next, k.unread = identity.ReadKeyFile(k.path+nextSuffix, n.options.Passphrase)
	if errors.Is(k.unread, fs.ErrNotExist) {
		k.unread = nil
	}
	return k, nil
}

// settle leaves one file, with the key that is in force. The log is open, so nobody else does.
func (k *auditKeys) settle(inForce identity.ID, log *slog.Logger) error {
	if k.path == "" || k.next == nil && k.unread == nil {
		return nil
	}
	var err error
	if k.next != nil && k.next.ID() == inForce {
		err = os.Rename(k.path+nextSuffix, k.path)
		log.Info("the key of the audit log has changed", "file", k.path, "id", inForce, "before", k.key.ID())
	} else {
		err = os.Remove(k.path + nextSuffix)
		log.Warn("a change of the audit log's key did not take place", "id", inForce)
	}
	if err == nil {
		err = ondisk.SyncDir(filepath.Dir(k.path))
	}
	if err != nil {
		return fmt.Errorf("key of the audit log: %w", err)
	}
	return nil
}

// AuditRotation says how the key of receipts has changed.
type AuditRotation struct {
	audit.Rotation
	File string // of the key that is in force
	Head string // the hash of the last receipt, for `converge audit verify --head`
}

// RotateAuditKey changes the key that signs the receipts of a configuration, while nothing runs: the one in force
// names the next one, which takes its place in its file; the one before is gone then, and nobody needs it to verify what
// it has signed. A process that dies meanwhile leaves the key before in force, or the next one, and the next start of the
// network, or call of this, finds out which.
//
// Errors: [audit.ErrLocked] if the network runs, and others with advice, see [New]. Programs that have an [audit.Log] open
// call its RotateKey.
func RotateAuditKey(ctx context.Context, c *config.Config, o Options) (r AuditRotation, err error) {
	if err := checkRotatable(c); err != nil {
		return r, err
	}
	n := newNetwork(c, o)
	n.dir, n.removes = c.Data, c.Data == ""
	if err := n.openAudit(); err != nil {
		return r, fmt.Errorf("rotate the audit key: %w", errors.Join(err, n.closeAudit()))
	}
	r, err = n.rotateAuditKey(context.WithoutCancel(ctx))
	return r, errors.Join(err, n.closeAudit())
}

// checkRotatable reports why there is no key to change.
func checkRotatable(c *config.Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	switch {
	case !c.Audit.Enabled:
		return advice.On(errors.New("rotate the audit key: audit.enabled is false"), "switch receipts on, and run the network once")
	case c.Data == "" && c.Audit.Dir == "":
		return advice.On(errors.New("rotate the audit key: the state is temporary, and so are its receipts and their key"), "give data, or audit.dir, a folder")
	}
	dir := c.AuditDir(c.Data)
	files, err := audit.Files(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate the audit key: %w", err)
	}
	if len(files) == 0 {
		return advice.On(fmt.Errorf("rotate the audit key: there are no receipts in %q", dir), "the first start of the network begins them, with a new key")
	}
	return nil
}

// rotateAuditKey writes the next key before the log can name it.
func (n *Network) rotateAuditKey(ctx context.Context) (r AuditRotation, err error) {
	keys, err := n.auditKeys()
	if err != nil {
		return r, err
	}
	if keys.next, err = identity.Generate(); err != nil {
		return r, err
	}
	if err := identity.WriteKeyFile(keys.path+nextSuffix, keys.next, n.options.Passphrase); err != nil {
		return r, fmt.Errorf("rotate the audit key: %w", err)
	}
	if err := n.audit.RotateKey(ctx, keys.next); err != nil {
		return r, advice.On(err, "both keys are kept; the next start of the network goes on with the one that the log says is in force")
	}
	if err := keys.settle(n.audit.Key(), n.log); err != nil {
		return r, err
	}
	changes := n.audit.Rotations()
	_, head := n.audit.Head()
	return AuditRotation{changes[len(changes)-1], keys.path, hex.EncodeToString(head[:])}, nil
}
