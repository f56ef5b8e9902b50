package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/network"
)

type approvalFlags struct {
	place
	output format
	note   string
	as     string
}

func newApprovals() *cobra.Command {
	f := approvalFlags{}
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "List, allow and deny tool calls that wait for somebody to decide",
		Long: `A tool call that the policy of the configuration asks about waits until somebody allows or denies it,
10 minutes at most unless policy.timeout says otherwise; then it is denied. An allowance is good for
that one call.

The network is asked that runs in the state directory of --data, or of the configuration (data). Its
socket serves the user who runs it, and root, and the records say which user decided. If no network
runs there, but the store of the configuration is one that processes share (postgres, nats), the
decision goes there; it counts where policy.key is the same.`,
		Example: `  converge approvals list
  converge approvals show 3f1c9a0b77d2e456
  converge approvals allow 3f1c9a0b77d2e456 --note "agreed with Ada"
  converge approvals deny 3f1c9a0b77d2e456 90aa41c2be0d7731 --data /srv/net/data`,
	}
	f.add(cmd.PersistentFlags())
	addFormat(cmd, &f.output, "of what is printed")
	cmd.AddCommand(newApprovalsList(&f), newApprovalsShow(&f), newApprovalsDecide(&f, true), newApprovalsDecide(&f, false))
	return cmd
}

func newApprovalsList(f *approvalFlags) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print the calls that wait, oldest first",
		Long: `List prints a line for each tool call that waits for somebody to decide, oldest first. With --watch
it goes on, and prints those that come, until it is interrupted or the network ends.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(cmd, func(ctx context.Context, d desk) error {
				if watch {
					return watchApprovals(ctx, cmd.OutOrStdout(), d, f.output)
				}
				waiting, err := d.list(ctx)
				if err != nil {
					return err
				}
				return printApprovals(cmd.OutOrStdout(), waiting, f.output)
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and print those that come")
	return cmd
}

func newApprovalsShow(f *approvalFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Print a call with its parameters",
		Long: `Show prints all that is known of a tool call that waits, or that has ended not long ago. The
parameters are what the agent chose: read them as what a stranger wrote. Characters that would not
show are written as \uXXXX, and long texts are cut.`,
		Args: words("ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return f.with(cmd, func(ctx context.Context, d desk) error {
				r, err := d.get(ctx, given[0])
				if err != nil {
					return hintApproval(err)
				}
				return printApproval(cmd.OutOrStdout(), r, f.output)
			})
		},
	}
}

func newApprovalsDecide(f *approvalFlags, allow bool) *cobra.Command {
	verb, short, long := "deny", "Keep calls from running", `Deny decides that the calls do not run. The agents are told, with the note. A call like it is denied too
until the time of the first is over.`
	if allow {
		verb, short, long = "allow", "Let calls run", `Allow lets the calls run, each once. Look at them with "show" before.`
	}
	cmd := &cobra.Command{
		Use:   verb + " ID…",
		Short: short,
		Long: long + `

The first decision counts. Exit status: 0 if all decisions count; 1 if one comes too late, or there
is no such call.`,
		Args: some("ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(f.note) > approval.MaxNote || len(f.as) > approval.MaxBy {
				return usageError(cmd, fmt.Errorf("--note has at most %d bytes, and --as %d", approval.MaxNote, approval.MaxBy))
			}
			return f.with(cmd, func(ctx context.Context, d desk) error {
				var errs []error
				for _, id := range given {
					r, err := d.decide(ctx, id, allow)
					if err == nil {
						err = printDecision(cmd.OutOrStdout(), r, f.output)
					}
					errs = append(errs, hintApproval(err))
				}
				return errors.Join(errs...)
			})
		},
	}
	cmd.Flags().StringVar(&f.note, "note", "", "`text` for the agent and for the records")
	cmd.Flags().StringVar(&f.as, "as", "", "`name` of who decides, for the records, beside the user's")
	return cmd
}

// desk is where decisions are made: at a network that runs, or at the store.
type desk struct {
	list   func(context.Context) ([]approval.Request, error)
	get    func(context.Context, string) (approval.Request, error)
	decide func(ctx context.Context, id string, allow bool) (approval.Request, error)
}

// with does something at the desk that the flags lead to.
func (f *approvalFlags) with(cmd *cobra.Command, do func(context.Context, desk) error) error {
	ctx := cmd.Context()
	dir, c, err := f.find(cmd)
	if err != nil {
		return err
	}
	if dir != "" {
		client := control.NewClient(dir)
		defer client.Close()
		err := do(ctx, f.atNetwork(client))
		if !errors.Is(err, control.ErrNotRunning) || c == nil {
			return f.explain(err)
		}
		if stored := f.atStore(cmd, c, do); !errors.Is(stored, network.ErrNotShared) {
			return stored
		}
		return f.explain(err)
	}
	err = f.atStore(cmd, c, do)
	if errors.Is(err, network.ErrNotShared) {
		return f.unreachable()
	}
	return err
}

func (f *approvalFlags) atNetwork(client *control.Client) desk {
	return desk{
		list: func(ctx context.Context) ([]approval.Request, error) {
			waiting, _, err := client.List(ctx)
			return waiting, err
		},
		get: client.Get,
		decide: func(ctx context.Context, id string, allow bool) (approval.Request, error) {
			return client.Decide(ctx, id, allow, f.note, f.as)
		},
	}
}

func (f *approvalFlags) atStore(cmd *cobra.Command, c *config.Config, do func(context.Context, desk) error) error {
	ctx := cmd.Context()
	s, done, err := network.OpenApprovals(ctx, c, network.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	err = do(ctx, desk{
		list: s.List, get: s.Get,
		decide: func(ctx context.Context, id string, allow bool) (approval.Request, error) {
			return s.Decide(ctx, id, approval.Decision{Allow: allow, By: "somebody who has policy.key", Claimed: f.as, Note: f.note})
		},
	})
	if s.Stats().Foreign > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "converge: the store has requests that were made with another key (policy.key); they are left out")
	}
	return errors.Join(err, done())
}

// explain says what to do if nobody is there to ask.
func (f *approvalFlags) explain(err error) error {
	if errors.Is(err, control.ErrNotRunning) {
		return &exitError{exitFailed, err, "calls wait while `converge run` runs; --data or -c says which network it is"}
	}
	return explainPlace(err)
}

func hintApproval(err error) error {
	if errors.Is(err, approval.ErrUnknown) {
		return &exitError{exitFailed, err, "`converge approvals list` shows what waits; the call may have ended"}
	}
	return err
}

// watchEvery is how often a list is asked for again.
const watchEvery = time.Second

func watchApprovals(ctx context.Context, w io.Writer, d desk, f format) error {
	ctx, _ = onInterrupt(ctx)
	seen := map[string]bool{}
	for {
		waiting, err := d.list(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		now := map[string]bool{}
		for _, r := range waiting {
			if now[r.ID] = true; seen[r.ID] {
				continue
			}
			if err := printComing(w, r, f); err != nil {
				return err
			}
		}
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

func printComing(w io.Writer, r approval.Request, f format) error {
	if f == "json" {
		return printJSON(w, r)
	}
	_, err := fmt.Fprintf(w, "%s  %s  %s  until %s\n", r.ID, visible(r.Agent), visible(r.Tool), r.Expires.Local().Format(time.TimeOnly))
	return err
}
