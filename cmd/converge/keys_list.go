package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
)

func newKeysList(output *format) *cobra.Command {
	return &cobra.Command{
		Use:   "list DIR",
		Short: "Print what the statements of a folder say",
		Long: `List prints a line for each statement of a folder: the agent's ID, the epoch of its key, its state
and when it expires. Files that hold no statement are named; then the exit status is 1.`,
		Args: words("DIR"),
		RunE: func(cmd *cobra.Command, given []string) error {
			listed, err := identity.ListStatements(given[0])
			if err != nil {
				return err
			}
			slices.SortFunc(listed, func(a, b identity.ListedStatement) int { return cmp.Compare(a.File, b.File) })
			if err := printList(cmd.OutOrStdout(), listed, *output); err != nil {
				return err
			}
			for _, l := range listed {
				if l.Err != nil {
					return fmt.Errorf("list: %s: %w", l.File, l.Err)
				}
			}
			return nil
		},
	}
}

func printList(w io.Writer, listed []identity.ListedStatement, f format) error {
	all := []publicKey{}
	for _, l := range listed {
		if l.Err == nil {
			s := l.Statement
			all = append(all, publicKey{ID: s.ID, PublicKey: fmt.Sprintf("%x", s.Operational), keyLife: lifeOf(s), File: l.File})
		}
	}
	if f == "json" {
		return json.NewEncoder(w).Encode(all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tEPOCH\tSTATE\tEXPIRES")
	for _, k := range all {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\n", k.ID, k.Epoch, k.State, stamp(k.Expires))
	}
	return table.Flush()
}
