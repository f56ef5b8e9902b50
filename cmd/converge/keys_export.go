package main

import (
	"encoding/hex"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeysExport(passphraseFile *string, output *format) *cobra.Command {
	return &cobra.Command{
		Use:   "export FILE",
		Short: "Print what others have to know of a key",
		Long: `Export prints the ID and the public key of a key file, and the statement about the key, if it has
one, as a block of text to hand over: nothing of it is secret. "keys import" reads it.`,
		Example: `  converge keys export alice.pem > alice.txt`,
		Args:    words("FILE"),
		RunE: func(cmd *cobra.Command, given []string) error {
			id, err := readKey(given[0], *passphraseFile)
			if err != nil {
				return err
			}
			if raw := id.Statement(); raw != nil {
				return printStatement(cmd.OutOrStdout(), raw, *output)
			}
			return printKey(cmd.OutOrStdout(), id, *output)
		},
	}
}

// publicStatement returns what a signed statement says.
func publicStatement(raw []byte) (publicKey, error) {
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return publicKey{}, err
	}
	return publicKey{ID: s.ID, PublicKey: hex.EncodeToString(s.Operational), keyLife: lifeOf(s)}, nil
}
