package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeys() *cobra.Command {
	var passphraseFile, output string
	keys := &cobra.Command{
		Use:   "keys",
		Short: "Make and show agents' keys",
		Long: `A key file holds an agent's Ed25519 private key, in mode 0600: a PKCS #8 PEM block, or, if
CONVERGE_PASSPHRASE or --passphrase-file gives a passphrase, that block sealed in an age file.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	keys.PersistentFlags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase of the key")
	keys.PersistentFlags().StringVarP(&output, "output", "o", "text", "`format`: text or json")
	keys.AddCommand(
		&cobra.Command{
			Use:   "new FILE",
			Short: "Make a key and write it to a new file",
			Args:  args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, given []string) error {
				passphrase, err := readPassphrase(passphraseFile)
				if err != nil {
					return err
				}
				id, err := identity.Generate()
				if err != nil {
					return err
				}
				if err := identity.WriteKeyFile(given[0], id, passphrase); err != nil {
					return err
				}
				return printKey(cmd, id, output)
			},
		},
		&cobra.Command{
			Use:   "show FILE",
			Short: "Print the ID and the public key of a key file",
			Args:  args(cobra.ExactArgs(1)),
			RunE: func(cmd *cobra.Command, given []string) error {
				passphrase, err := readPassphrase(passphraseFile)
				if err != nil {
					return err
				}
				id, err := identity.ReadKeyFile(given[0], passphrase)
				if err != nil {
					return err
				}
				return printKey(cmd, id, output)
			},
		})
	return keys
}

// printKey prints what others may know of a key.
func printKey(cmd *cobra.Command, id *identity.Identity, format string) error {
	out, public := cmd.OutOrStdout(), hex.EncodeToString(id.PublicKey())
	switch format {
	case "text":
		_, err := fmt.Fprintf(out, "id          %s\npublic key  %s\n", id.ID(), public)
		return err
	case "json":
		return json.NewEncoder(out).Encode(map[string]string{"id": id.ID().String(), "public_key": public})
	default:
		return usageError(cmd, fmt.Errorf("output format %q: use text or json", format))
	}
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
	data, err := io.ReadAll(io.LimitReader(f, maxPassphrase))
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("read passphrase: %s: the first line is empty", path)
	}
	return line, nil
}
