package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeysImport(output *format) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE DIR",
		Short: "Check a statement and put it into a folder of statements",
		Long: `Import reads the statement that "keys export" or "keys revoke" has printed (FILE may be "-", the
standard input), checks it, and puts it into DIR, under the ID of its agent. Processes that look at
that folder have it in force within a second. A statement that is older than the one in the folder,
or contradicts it, is refused.`,
		Example: `  converge keys import alice.txt data/statements
  converge keys revoke root.pem --yes | converge keys import - data/statements`,
		Args: words("FILE", "DIR"),
		RunE: func(cmd *cobra.Command, given []string) error {
			text, err := readText(given[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			raw, err := identity.DecodeStatement(text)
			if err != nil {
				return fmt.Errorf("import %s: %w", given[0], err)
			}
			path, changed, err := identity.ImportStatement(given[1], raw)
			if err != nil {
				return hintImport(err)
			}
			return printImport(cmd.OutOrStdout(), raw, path, changed, *output)
		},
	}
}

// hintImport says what to do about a statement that does not count.
func hintImport(err error) error {
	for _, known := range []struct {
		err  error
		hint string
	}{
		{identity.ErrRolledBack, "the folder has a later statement of that agent already"},
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

func printImport(w io.Writer, raw []byte, path string, changed bool, f format) error {
	p, err := publicStatement(raw)
	if err != nil {
		return err
	}
	p.File = path
	if f == "json" {
		return json.NewEncoder(w).Encode(struct {
			publicKey
			Changed bool `json:"changed"`
		}{p, changed})
	}
	if err := p.print(w, f); err != nil || changed {
		return err
	}
	_, err = fmt.Fprintln(w, "it was there already")
	return err
}
