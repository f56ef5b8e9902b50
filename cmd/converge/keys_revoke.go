package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeysRevoke(passphraseFile *string, output *format) *cobra.Command {
	var root rootFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke FILE --yes",
		Short: "End an agent for good",
		Long: `Revoke has the root key of the agent whose key file is FILE sign that no key of the agent counts any
more, and prints that statement. It is in force where it is imported ("keys import"): connections of
the agent end, what it has sent and waits is dropped, and it cannot come back under its ID, whoever
has its keys. This cannot be undone, so it takes --yes. To change a key that was stolen while the
root key was not, rotate it with --no-overlap instead.

The root key is in FILE, or in the file that --root names.`,
		Example: `  converge keys revoke root.pem --yes > revoked.txt
  converge keys import revoked.txt data/statements`,
		Args: words("FILE"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if !yes {
				return &exitError{exitUsage, errors.New("a revocation cannot be undone"), "add --yes to revoke the agent for good"}
			}
			raw, err := revokeKey(given[0], root, *passphraseFile)
			if err != nil {
				return err
			}
			return printStatement(cmd.OutOrStdout(), raw, *output)
		},
	}
	root.add(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

// revokeKey returns the statement of a revocation; if there is one already, that one.
func revokeKey(path string, flags rootFlags, passphraseFile string) ([]byte, error) {
	root, current, err := flags.open(path, passphraseFile)
	if err != nil {
		return nil, err
	}
	raw, err := root.Revoke(current)
	if errors.Is(err, identity.ErrRevoked) {
		return current, nil
	}
	if err != nil {
		return nil, err
	}
	return raw, root.keep(raw)
}

// printStatement prints a signed statement, with what it says before it.
func printStatement(w io.Writer, raw []byte, f format) error {
	p, err := publicStatement(raw)
	if err != nil {
		return err
	}
	if f == "json" {
		p.Statement = string(identity.EncodeStatement(raw))
		return p.print(w, f)
	}
	if err := p.print(w, f); err != nil {
		return err
	}
	_, err = w.Write(identity.EncodeStatement(raw))
	return err
}
