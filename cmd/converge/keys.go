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

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeys() *cobra.Command {
	var passphraseFile string
	var output format
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Make and show agents' keys",
		Long: `A key file holds an agent's Ed25519 private key, in mode 0600: a PKCS #8 PEM block, or, if
there is a passphrase, that block sealed in an age file. The passphrase is what CONVERGE_PASSPHRASE
holds, or the first line of the file that --passphrase-file names. The agent's ID is the SHA-256
digest of its public key.`,
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
				passphrase, err := readPassphrase(passphraseFile)
				if err != nil {
					return err
				}
				id, err := identity.ReadKeyFile(given[0], passphrase)
				if err != nil {
					return err
				}
				return printKey(cmd.OutOrStdout(), id, output)
			},
		})
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

// printKey prints what others may know of a key.
func printKey(w io.Writer, id *identity.Identity, f format) error {
	public := hex.EncodeToString(id.PublicKey())
	if f == "json" {
		return json.NewEncoder(w).Encode(struct {
			ID        identity.ID `json:"id"`
			PublicKey string      `json:"public_key"`
		}{id.ID(), public})
	}
	_, err := fmt.Fprintf(w, "id          %s\npublic key  %s\n", id.ID(), public)
	return err
}

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
