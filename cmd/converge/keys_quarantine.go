package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/control"
)

func newKeysQuarantine(output *format) *cobra.Command {
	p := &place{}
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "List agents whose root keys contradict themselves, and release them",
		Long: `A root key that has signed two statements which contradict each other was copied, or was used at two
places. A network that sees both accepts nothing of the agent any more, until somebody has found out
what happened, and releases the agent, or revokes it.

The network is asked that runs in the state directory of --data, or of the configuration (data). Its
socket serves the user who runs it, and root. Each process has its own list; processes that share a
store learn of a release from it when they start.`,
		Example: `  converge keys quarantine list
  converge keys quarantine release alice --yes --note "she rotated it from a backup"`,
	}
	p.add(cmd.PersistentFlags())
	cmd.AddCommand(newQuarantineList(p, output), newQuarantineRelease(p, output))
	return cmd
}

func newQuarantineList(p *place, output *format) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Print the agents in quarantine",
		Long: `List prints a line for each agent in quarantine: its name in this network, its ID, since when this
process knows (its start, if it has it from its store), the epoch of the key that counts once the agent
is released, and what its root key contradicts itself about. With -o json, the two statements are there.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.ask(cmd, func(c *control.Client) error {
				agents, total, err := c.Quarantined(cmd.Context())
				if err != nil {
					return err
				}
				if more := total - len(agents); more > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "converge: there are %d more: these come first\n", more)
				}
				return printQuarantined(cmd.OutOrStdout(), agents, *output)
			})
		},
	}
}

func newQuarantineRelease(p *place, output *format) *cobra.Command {
	var author authorFlags
	var yes bool
	cmd := &cobra.Command{
		Use:   "release AGENT --yes",
		Short: "Accept what an agent in quarantine says again",
		Long: `Release ends the quarantine of an agent, which is given by its name or its ID. The statement that was
known first counts again, and the one that contradicts it is refused from then on. Whoever has a copy of
the root key still has it: if you do not know why there were two statements, revoke the agent instead
("keys revoke"). Without --yes, it is only said what would count.`,
		Args: words("AGENT"),
		RunE: func(cmd *cobra.Command, given []string) error {
			a, err := author.author(cmd)
			if err != nil {
				return err
			}
			return p.ask(cmd, func(c *control.Client) error {
				if !yes {
					return wouldRelease(cmd, c, given[0])
				}
				released, err := c.ReleaseAgent(cmd.Context(), given[0], a)
				if err != nil {
					return hintRelease(err)
				}
				return printReleased(cmd.OutOrStdout(), released, *output)
			})
		},
	}
	author.add(cmd.Flags())
	cmd.Flags().BoolVar(&yes, "yes", false, "really")
	return cmd
}

// wouldRelease says what a release would mean, and does nothing.
func wouldRelease(cmd *cobra.Command, c *control.Client, agent string) error {
	all, _, err := c.Quarantined(cmd.Context())
	if err != nil {
		return err
	}
	for _, q := range all {
		if q.ID == agent || q.Agent == agent {
			return &exitError{
				exitUsage,
				fmt.Errorf("to release %s means that what it says is accepted again, by its key of epoch %d, though %s; whoever has a copy of its root key still has it",
					visible(cmp.Or(q.Agent, q.ID)), q.Epoch, visible(q.Why)),
				"add --yes if you know why, or revoke the agent: converge keys revoke",
			}
		}
	}
	return hintRelease(fmt.Errorf("release agent %.80q: %w: it is not quarantined", agent, control.ErrState))
}

func hintRelease(err error) error {
	if errors.Is(err, control.ErrNotFound) || errors.Is(err, control.ErrState) {
		return &exitError{exitFailed, err, "`converge keys quarantine list` shows who is"}
	}
	return err
}

func printQuarantined(w io.Writer, all []control.Quarantine, f format) error {
	if f == "json" {
		return printJSON(w, all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "AGENT\tID\tSINCE\tEPOCH\tWHY")
	for _, q := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", visible(cmp.Or(q.Agent, "-")), visible(q.ID), q.Since.Local().Format(time.DateTime), q.Epoch, visible(q.Why))
	}
	return table.Flush()
}

func printReleased(w io.Writer, q control.Quarantine, f format) error {
	if f == "json" {
		return printJSON(w, q)
	}
	_, err := fmt.Fprintf(w, "%s is released: its key of epoch %d counts again\n", visible(cmp.Or(q.Agent, q.ID)), q.Epoch)
	return err
}
