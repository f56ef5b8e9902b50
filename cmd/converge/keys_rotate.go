package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

// rootKey is a root key, and where the statement is kept that it has signed last.
type rootKey struct {
	*identity.Identity
	ledger string
}

// rootFlags are the flags of what takes a root key.
type rootFlags struct {
	file, passphraseFile string
}

func (f *rootFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "root", "", "`file` of the root key, if it is not FILE")
	cmd.Flags().StringVar(&f.passphraseFile, "root-passphrase-file", "", "`file` with the passphrase of --root, if it is another one")
}

// open returns the root key of the agent whose key file is given, and the agent's statement that counts, of all
// that are at hand.
func (f *rootFlags) open(path, passphraseFile string) (root rootKey, current []byte, err error) {
	id, err := readKey(path, passphraseFile)
	if err != nil {
		return root, nil, err
	}
	root = rootKey{id, path + identity.StatementSuffix}
	if f.file != "" {
		if f.passphraseFile != "" {
			passphraseFile = f.passphraseFile
		}
		if root.Identity, err = readKey(f.file, passphraseFile); err != nil {
			return root, nil, err
		}
		root.ledger = f.file + identity.StatementSuffix
	}
	if root.ID() != id.ID() {
		return root, nil, fmt.Errorf("%s is the key of agent %s, and %s of agent %s", f.file, root.ID(), path, id.ID())
	}
	if !root.IsRoot() {
		return root, nil, &exitError{exitFailed, fmt.Errorf("%s holds an operational key of agent %s, which signs no statements", cmp.Or(f.file, path), id.ID()),
			"name the file of the agent's root key with --root"}
	}
	current, err = root.latest(id.Statement())
	return root, current, err
}

func readKey(path, passphraseFile string) (*identity.Identity, error) {
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return nil, err
	}
	return identity.ReadKeyFile(path, passphrase)
}

// latest returns the later one of a statement and the last one that the root key has signed, as far as its ledger says.
func (r rootKey) latest(statement []byte) ([]byte, error) {
	kept, err := identity.ReadStatementFile(r.ledger)
	if errors.Is(err, fs.ErrNotExist) {
		return statement, nil
	}
	if err != nil {
		return nil, err
	}
	known := identity.NewRegistryWith(identity.RegistryConfig{Size: 1, Logger: slog.New(slog.DiscardHandler)}) // it only compares
	for _, raw := range [][]byte{kept, statement} {
		if raw == nil {
			continue
		}
		if _, err := known.Apply(raw); err != nil && !errors.Is(err, identity.ErrRolledBack) && !errors.Is(err, identity.ErrRevoked) {
			return nil, fmt.Errorf("%s: %w", r.ledger, err)
		}
	}
	return known.Statement(r.ID()), nil
}

// keep notes a statement before it is handed out, so that the root key does not sign another one in its place.
func (r rootKey) keep(raw []byte) error {
	if _, err := identity.KeepStatement(r.ledger, raw); err != nil {
		return &exitError{exitFailed, fmt.Errorf("note what the root key has signed: %w", err),
			"the folder of the root key has to be writable: two statements with one number would have the agent quarantined"}
	}
	return nil
}

func newKeysRotate(passphraseFile *string, output *format) *cobra.Command {
	var root rootFlags
	var out string
	var overlap, lifetime time.Duration
	var noOverlap bool
	cmd := &cobra.Command{
		Use:   "rotate FILE",
		Short: "Make the next key of an agent, which keeps its ID",
		Long: `Rotate makes another key for the agent whose key file is FILE, has its root key sign the statement
about it, and writes both to a new file (--out; FILE with the epoch in its name unless given). FILE
stays as it is. The root key is in FILE, if the agent works with it so far, or in the file that
--root names. What it has signed is noted beside it, in a file whose name ends in ".statement": keep
that with the root key.

The key before counts for --overlap after the change, so that what is under way is not lost. If it
was stolen, use --no-overlap: it is refused, and its connections end, as soon as the statement is
known. The new key is good for --expires. Others learn of it from the agent itself, when it connects,
or from "keys export" and "keys import".`,
		Example: `  converge keys rotate root.pem --out alice.pem
  converge keys rotate alice.pem --root root.pem --expires 720h`,
		Args: words("FILE"),
		RunE: func(cmd *cobra.Command, given []string) error {
			r := identity.Rotation{Overlap: overlap, Lifetime: lifetime, NoOverlap: noOverlap}
			if err := checkRotation(cmd, r); err != nil {
				return err
			}
			p, err := rotateKey(given[0], root, out, *passphraseFile, r)
			if err != nil {
				return err
			}
			return p.print(cmd.OutOrStdout(), *output)
		},
	}
	root.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`file` for the new key; it must not exist")
	cmd.Flags().DurationVar(&overlap, "overlap", identity.DefaultOverlap, "`how long` the key before counts, up to 24h")
	cmd.Flags().BoolVar(&noOverlap, "no-overlap", false, "have the key before refused at once: it was stolen")
	cmd.Flags().DurationVar(&lifetime, "expires", identity.DefaultKeyLifetime, "`how long` the new key is good for")
	return cmd
}

func checkRotation(cmd *cobra.Command, r identity.Rotation) error {
	switch {
	case r.Overlap <= 0 || r.Overlap > identity.MaxOverlap:
		return usageError(cmd, fmt.Errorf("--overlap: %v is not more than 0 and up to %v; to have none, use --no-overlap", r.Overlap, identity.MaxOverlap))
	case r.NoOverlap && cmd.Flags().Changed("overlap"):
		return usageError(cmd, errors.New("--overlap and --no-overlap exclude each other"))
	case r.Lifetime <= 0:
		return usageError(cmd, fmt.Errorf("--expires: %v is not more than 0", r.Lifetime))
	}
	return nil
}

// rotateKey notes the statement before it writes the key, so that a failure costs an epoch at most.
func rotateKey(path string, flags rootFlags, out, passphraseFile string, r identity.Rotation) (p publicKey, err error) {
	root, current, err := flags.open(path, passphraseFile)
	if err != nil {
		return p, err
	}
	r.Current = current
	next, err := root.Rotate(r)
	if err != nil {
		return p, err
	}
	if out == "" {
		out = withEpoch(path, next.Epoch())
	}
	if _, err := os.Lstat(out); err == nil {
		return p, &exitError{exitFailed, fmt.Errorf("%s: %w", out, fs.ErrExist), "a key is never overwritten: choose another name with --out"}
	}
	if err := root.keep(next.Statement()); err != nil {
		return p, err
	}
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return p, err
	}
	if err := identity.WriteKeyFile(out, next, passphrase); err != nil {
		return p, err
	}
	p, err = publicOf(next)
	p.File = out
	return p, err
}

// withEpoch returns a name for the key of an epoch: alice-2.pem for alice.pem and alice-1.pem.
func withEpoch(path string, epoch uint64) string {
	ext := filepath.Ext(path)
	name := strings.TrimSuffix(path, ext)
	name = strings.TrimSuffix(name, fmt.Sprintf("-%d", epoch-1))
	return fmt.Sprintf("%s-%d%s", name, epoch, ext)
}
