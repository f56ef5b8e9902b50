package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
)

func newKeysImport(output *format) *cobra.Command {
	var network place
	var author authorFlags
	cmd := &cobra.Command{
		Use:   "import FILE [DIR]",
		Short: "Check a statement, and put it into force",
		Long: `Import reads the statement that "keys export" or "keys revoke" has printed (FILE may be "-", the
standard input), and checks it.

With DIR, it puts it into that folder of statements, under the ID of its agent. Processes that look at
the folder have it in force within a second. Without DIR, it hands it to the network that runs in the
state directory of --data, or of the configuration: there it is in force at once and for good, and those
are told that share its store, or hear its messages. If none runs, it goes into the folder of statements
of the configuration, for the next start.

A statement that is older than the one that is known, or contradicts it, is refused.`,
		Example: `  converge keys import alice.txt data/statements
  converge keys import alice.txt -c converge.yaml
  converge keys revoke root.pem --yes | converge keys import - data/statements`,
		Args: words("FILE", "[DIR]"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) == 2 && (network.named(cmd) || author != authorFlags{}) {
				return usageError(cmd, errors.New("DIR goes with none of --data, --config, --note and --as, which are for a network that runs"))
			}
			if len(given) == 1 && network.isNowhere(cmd) {
				return usageError(cmd, errors.New("DIR is missing: name the folder of statements, or the network, with -c or --data"))
			}
			a, err := author.author(cmd)
			if err != nil {
				return err
			}
			raw, err := readStatement(given[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			if len(given) == 2 {
				return importInto(cmd, given[1], raw, *output)
			}
			return network.importInto(cmd, raw, a, *output)
		},
	}
	network.add(cmd.Flags())
	author.add(cmd.Flags())
	return cmd
}

func readStatement(path string, stdin io.Reader) ([]byte, error) {
	text, err := readText(path, stdin)
	if err != nil {
		return nil, err
	}
	raw, err := identity.DecodeStatement(text)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	return raw, nil
}

// importInto puts a statement into a folder.
func importInto(cmd *cobra.Command, dir string, raw []byte, f format) error {
	path, changed, err := identity.ImportStatement(dir, raw)
	if err != nil {
		return hintImport(err)
	}
	return printImport(cmd.OutOrStdout(), raw, path, changed, nil, f)
}

// importInto hands a statement to the network that runs there, or else puts it where the next one looks.
func (p *place) importInto(cmd *cobra.Command, raw []byte, a control.Author, f format) error {
	applied, c, err := p.handOver(cmd, raw, a)
	switch {
	case applied.ID != "":
		tellApplied(cmd.ErrOrStderr(), applied)
		return errors.Join(printImport(cmd.OutOrStdout(), raw, applied.File, applied.Changed, &applied, f), err)
	case !errors.Is(err, control.ErrNotRunning):
		return hintImport(err)
	case c == nil:
		return &exitError{exitFailed, err, "name the folder of statements instead of the network, for its next start"}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "converge: %v; the statement is in force when it starts\n", err)
	return importInto(cmd, statementsOf(c), raw, f)
}

// hintImport says what to do about a statement that does not count.
func hintImport(err error) error {
	for _, known := range []struct {
		err  error
		hint string
	}{
		{identity.ErrRolledBack, "a later statement of that agent is known there already"},
		{identity.ErrRevoked, "the agent is revoked, for good: make it a new key, with a new ID"},
		{identity.ErrQuarantined, "ask the owner of the root key: it was copied, or was used at two places; if in doubt, it has to be revoked"},
	} {
		if errors.Is(err, known.err) {
			return &exitError{exitFailed, err, known.hint}
		}
	}
	return err
}

const maxStatementText = 64 << 10

func readText(path string, stdin io.Reader) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxStatementText))
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return text, nil
}

func printImport(w io.Writer, raw []byte, path string, changed bool, applied *control.Applied, f format) error {
	p, err := publicStatement(raw)
	if err != nil {
		return err
	}
	p.File = path
	if f == "json" {
		return printJSON(w, struct {
			publicKey
			Changed bool             `json:"changed"`
			Network *control.Applied `json:"network,omitempty"`
		}{p, changed, applied})
	}
	if err := p.print(w, f); err != nil || changed {
		return err
	}
	_, err = fmt.Fprintln(w, "it was there already")
	return err
}
