package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
)

func newKeysRevoke(passphraseFile *string, output *format) *cobra.Command {
	var root rootFlags
	var network place
	var author authorFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "revoke FILE --yes",
		Short: "End an agent for good",
		Long: `Revoke has the root key of the agent whose key file is FILE sign that no key of the agent counts any
more, and prints that statement. Where it is in force, connections of the agent end, what it has sent
and waits is dropped, and it cannot come back under its ID, whoever has its keys. This cannot be undone,
so it takes --yes. To change a key that was stolen while the root key was not, rotate it with
--no-overlap instead.

If a network runs in the state directory of --data, or of the configuration, the statement, and nothing
else, is handed to it: there it is in force at once and for good, and those are told that share its store,
or hear its messages ("discovery: {via: messages}"). Elsewhere it is in force where it is imported ("keys
import"). Exit status: 1 if a network was named and has not taken it; it is printed all the same.

The root key is in FILE, or in the file that --root names.`,
		Example: `  converge keys revoke root.pem --yes -c converge.yaml > revoked.txt
  converge keys import revoked.txt data/statements       # where others run`,
		Args: words("FILE"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if !yes {
				return &exitError{exitUsage, errors.New("a revocation cannot be undone"), "add --yes to revoke the agent for good"}
			}
			a, err := author.author(cmd)
			if err != nil {
				return err
			}
			raw, err := revokeKey(given[0], root, *passphraseFile)
			if err != nil {
				return err
			}
			applied, handed := network.handOverRevocation(cmd, raw, a)
			return errors.Join(printRevocation(cmd.OutOrStdout(), raw, applied, *output), handed)
		},
	}
	root.add(cmd)
	network.add(cmd.Flags())
	author.add(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

// handOverRevocation tells the network at a place, if one runs there, and says what came of it. That there is none is an
// error only if the command line names it.
func (p *place) handOverRevocation(cmd *cobra.Command, raw []byte, a control.Author) (*control.Applied, error) {
	applied, c, err := p.handOver(cmd, raw, a)
	if applied.ID != "" {
		tellApplied(cmd.ErrOrStderr(), applied)
		return &applied, err
	}
	if err == nil || p.named(cmd) {
		return nil, err
	}
	tellNotHanded(cmd.ErrOrStderr(), err, c, "the revocation")
	return nil, nil
}

// printRevocation is printStatement, in JSON with what a network made of it.
func printRevocation(w io.Writer, raw []byte, applied *control.Applied, f format) error {
	if f != "json" || applied == nil {
		return printStatement(w, raw, f)
	}
	p, err := publicStatement(raw)
	if err != nil {
		return err
	}
	p.Statement = string(identity.EncodeStatement(raw))
	return printJSON(w, struct {
		publicKey
		Network *control.Applied `json:"network"`
	}{p, applied})
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
