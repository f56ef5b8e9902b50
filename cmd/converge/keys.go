package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeys() *cobra.Command {
	var passphraseFile string
	var output format
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Make, show, change and revoke agents' keys",
		Long: `A key file holds an agent's Ed25519 private key, in mode 0600: a PKCS #8 PEM block, or, if
there is a passphrase, that block sealed in an age file. The passphrase is what CONVERGE_PASSPHRASE
holds, or the first line of the file that --passphrase-file names. The agent's ID is the SHA-256
digest of its public key.

The first key of an agent is its root key. With "keys rotate" it signs a statement about another
key, with which the agent then works under the same ID; the root key is needed again to rotate and
to revoke, and can lie in a safe in between. A statement is no secret: "keys export" prints it,
"keys import" hands it to a network that runs, or puts it into a folder of statements, where running
agents find it within a second.`,
		Example: `  An agent whose root key is not on its machine:
    converge keys new root.pem
    converge keys rotate root.pem --out alice.pem   # alice.pem goes to the agent, root.pem into the safe

  Another key for it, 60 days later:
    converge keys rotate alice.pem --root root.pem --out alice-2.pem
    converge keys export alice-2.pem > alice.txt    # for those who talk with it
    converge keys import alice.txt data/statements  # there

  The end of it:
    converge keys revoke root.pem --yes > revoked.txt   # the network in this folder is told, if one runs
    converge keys import revoked.txt data/statements    # elsewhere`,
	}
	keys.PersistentFlags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase (instead of CONVERGE_PASSPHRASE)")
	addFormat(keys, &output, "of what is printed")
	keys.AddCommand(
		&cobra.Command{
			Use:   "new FILE",
			Short: "Make a key and write it to a new file",
			Long: `New makes a key, writes it to FILE, which must not exist, and prints the agent's ID and public key.
If there is a passphrase, the key is sealed with it.`,
			Args: words("FILE"),
			RunE: func(cmd *cobra.Command, given []string) error {
				id, err := newKey(given[0], passphraseFile)
				if err != nil {
					return err
				}
				return printKey(cmd.OutOrStdout(), id, output)
			},
		},
		&cobra.Command{
			Use:   "show FILE",
			Short: "Print the ID and the public key of a key file",
			Args:  words("FILE"),
			RunE: func(cmd *cobra.Command, given []string) error {
				id, err := readKey(given[0], passphraseFile)
				if err != nil {
					return err
				}
				return printKey(cmd.OutOrStdout(), id, output)
			},
		},
		newKeysRotate(&passphraseFile, &output),
		newKeysRevoke(&passphraseFile, &output),
		newKeysExport(&passphraseFile, &output),
		newKeysImport(&output),
		newKeysList(&output),
		newKeysQuarantine(&output),
	)
	return keys
}

func newKey(path, passphraseFile string) (*identity.Identity, error) {
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return nil, err
	}
	id, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	err = identity.WriteKeyFile(path, id, passphrase)
	if errors.Is(err, fs.ErrExist) {
		err = &exitError{exitFailed, err, "a key is never overwritten: choose another name"}
	}
	return id, err
}

// publicKey is what others may know of a key.
type publicKey struct {
	ID        identity.ID `json:"id"`
	PublicKey string      `json:"public_key"`
	*keyLife
	File string `json:"file,omitempty"`
}

// keyLife is what the statement about a key says.
type keyLife struct {
	RootKey   string    `json:"root_key"`
	Epoch     uint64    `json:"epoch"`
	NotBefore time.Time `json:"not_before"`
	Expires   time.Time `json:"expires"`
	State     string    `json:"state"`
	Statement string    `json:"statement,omitempty"`
}

// publicOf returns what others may know of an identity.
func publicOf(id *identity.Identity) (publicKey, error) {
	p := publicKey{ID: id.ID(), PublicKey: hex.EncodeToString(id.PublicKey())}
	raw := id.Statement()
	if raw == nil {
		return p, nil
	}
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return p, err
	}
	p.keyLife = lifeOf(s)
	return p, nil
}

func lifeOf(s identity.KeyStatement) *keyLife {
	return &keyLife{RootKey: hex.EncodeToString(s.Root), Epoch: s.Epoch, NotBefore: s.NotBefore, Expires: s.Expires, State: stateOf(s, time.Now())}
}

// stateOf says in a few words whether the key counts.
func stateOf(s identity.KeyStatement, now time.Time) string {
	switch err := s.CheckTime(now); {
	case err == nil:
		return "in force"
	case s.Revoked:
		return "revoked"
	case now.Before(s.NotBefore):
		return "not yet in force"
	}
	return "expired"
}

// printKey prints what others may know of a key.
func printKey(w io.Writer, id *identity.Identity, f format) error {
	p, err := publicOf(id)
	if err != nil {
		return err
	}
	return p.print(w, f)
}

func (p publicKey) print(w io.Writer, f format) error {
	if f == "json" {
		return json.NewEncoder(w).Encode(p)
	}
	fmt.Fprintf(w, "id          %s\npublic key  %s\n", p.ID, p.PublicKey)
	if p.keyLife != nil {
		fmt.Fprintf(w, "root key    %s\nepoch       %d\nin force    from %s to %s (%s)\n", p.RootKey, p.Epoch, stamp(p.NotBefore), stamp(p.Expires), p.State)
	}
	if p.File != "" {
		fmt.Fprintf(w, "file        %s\n", p.File)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

const maxPassphrase = 4096

// readPassphrase returns the first line of the file, or else CONVERGE_PASSPHRASE, which may be empty.
func readPassphrase(path string) ([]byte, error) {
	if path == "" {
		return []byte(os.Getenv("CONVERGE_PASSPHRASE")), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPassphrase+1))
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, fmt.Errorf("read passphrase: %s: the first line is empty", path)
	case len(line) > maxPassphrase:
		return nil, fmt.Errorf("read passphrase: %s: the first line is longer than %d bytes", path, maxPassphrase)
	}
	return line, nil
}
