package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/control"
)

type taskFlags struct {
	place
	output format
}

func newTasks() *cobra.Command {
	f := taskFlags{}
	cmd := &cobra.Command{
		Use:   "tasks",
		Short: "List, show, requeue and cancel the tasks of a network that runs",
		Long: `The network is asked that runs in the state directory of --data, or of the configuration (data). Its
socket serves the user who runs it, and root. The tasks are those in its store, also those that other
processes on that store have submitted; if the tasks are at a host, ask the host's process. Who requeues
and cancels is in the log and in the receipts.`,
		Example: `  converge tasks list --state dead
  converge tasks show key-1d39decc7e9d
  converge tasks requeue key-1d39decc7e9d --note "the disk has room again"
  converge tasks cancel key-1d39decc7e9d key-90aa41c2be0d --data /srv/net/data`,
	}
	f.add(cmd.PersistentFlags())
	addFormat(cmd, &f.output, "of what is printed")
	cmd.AddCommand(newTasksList(&f), newTasksShow(&f), newTasksRequeue(&f), newTasksCancel(&f))
	return cmd
}

func newTasksList(f *taskFlags) *cobra.Command {
	var q control.TaskQuery
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print the tasks, by their IDs",
		Long: `List prints a line for each task, in the order of the IDs: its state ("dead" is a dead letter, which has
failed since its attempts are used up), the attempts that have failed or run out and how many it may
have, who works on it or did so last, how long ago it was submitted, and why it, or its last attempt,
has failed. Filters that are given together have to hold all; of states, kinds and topics one is enough.

A page has --limit tasks. If others follow, the standard error says how to get them. Where few of very
many tasks are meant, a page may end early.`,
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkQuery(&q); err != nil {
				return usageError(cmd, err)
			}
			return f.ask(cmd, func(c *control.Client) error {
				page, err := c.ListTasks(cmd.Context(), q)
				if err != nil {
					return hintTask(err)
				}
				if err := printTasks(cmd.OutOrStdout(), page, f.output); err != nil || page.Next == "" {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "converge: there may be more: add --after %s\n", visible(page.Next))
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&q.States, "state", nil, "only in these `states`: "+strings.Join(control.States(), ", "))
	flags.StringSliceVar(&q.Kinds, "kind", nil, "only of these `kinds`")
	flags.StringVar(&q.Worker, "worker", "", "only those that this `agent` works on, or did last: its name or ID")
	flags.StringVar(&q.Submitter, "submitter", "", "only of this `agent`: its name or ID")
	flags.StringVar(&q.Pool, "pool", "", "only of this `pool`")
	flags.StringSliceVar(&q.Topics, "topic", nil, "only with a topic that matches one of these `patterns`")
	flags.StringSliceVar(&q.Capabilities, "capability", nil, "only those that ask for all of these `capabilities`")
	flags.DurationVar(&q.Newer, "newer", 0, "only those that were submitted less than so `long` ago, such as 1h")
	flags.DurationVar(&q.Older, "older", 0, "only those that were submitted more than so `long` ago")
	flags.IntVar(&q.Limit, "limit", control.DefaultPage, fmt.Sprintf("so `many` at most, up to %d", control.MaxPage))
	flags.StringVar(&q.After, "after", "", "go on where an earlier list has ended, with the `word` that it said")
	complete(cmd, "state", control.States()...)
	return cmd
}

func checkQuery(q *control.TaskQuery) error {
	switch {
	case q.Limit < 1 || q.Limit > control.MaxPage:
		return fmt.Errorf("--limit: %d is not 1 to %d", q.Limit, control.MaxPage)
	case q.Newer < 0 || q.Older < 0:
		return errors.New("--newer and --older: how long ago, such as 1h")
	}
	if err := q.Check(); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	return nil
}

func newTasksShow(f *taskFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Print a task with its parameters and its result",
		Long: `Show prints all that is kept of a task. Parameters, reasons and results are what agents, tools and
strangers chose: read them as such. Characters that would not show are written as \uXXXX, and long texts
are cut; of what is no text, the size and the hash are printed.`,
		Args: words("ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return f.ask(cmd, func(c *control.Client) error {
				t, err := c.GetTask(cmd.Context(), given[0])
				if err != nil {
					return hintTask(err)
				}
				return printTask(cmd.OutOrStdout(), t, f.output)
			})
		},
	}
}

func newTasksRequeue(f *taskFlags) *cobra.Command {
	return f.newAct("requeue", "Give dead letters another round of attempts",
		`Requeue makes tasks pending again whose attempts are used up, with all their attempts before them. A
coordinator that has counted such a task as failed does not count it anew.`,
		func(ctx context.Context, c *control.Client, id string, a control.Author) (control.Task, error) {
			return c.RequeueTask(ctx, id, a)
		})
}

func newTasksCancel(f *taskFlags) *cobra.Command {
	return f.newAct("cancel", "End tasks that have not ended",
		`Cancel ends tasks that are pending, or that somebody works on: a tool that runs for such a task is
stopped. This cannot be undone.`,
		func(ctx context.Context, c *control.Client, id string, a control.Author) (control.Task, error) {
			return c.CancelTask(ctx, id, a)
		})
}

// newAct makes a command that changes tasks, one after the other.
func (f *taskFlags) newAct(
	verb, short, long string, do func(context.Context, *control.Client, string, control.Author) (control.Task, error),
) *cobra.Command {
	var author authorFlags
	cmd := &cobra.Command{
		Use:   verb + " ID…",
		Short: short,
		Long: long + `

Exit status: 0 if it was done to all; 1 if it was not possible for one.`,
		Args: some("ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			a, err := author.author(cmd)
			if err != nil {
				return err
			}
			return f.ask(cmd, func(c *control.Client) error {
				var errs []error
				for _, id := range given {
					t, err := do(cmd.Context(), c, id, a)
					if errors.Is(err, control.ErrNotRunning) { // nor will the others
						return errors.Join(append(errs, err)...)
					}
					if err == nil {
						err = printChanged(cmd.OutOrStdout(), t, f.output)
					}
					errs = append(errs, hintTask(err))
				}
				return errors.Join(errs...)
			})
		},
	}
	author.add(cmd.Flags())
	return cmd
}

func hintTask(err error) error {
	switch {
	case errors.Is(err, control.ErrNotFound):
		return &exitError{exitFailed, err, "`converge tasks list` shows what there is; tasks are deleted some time after their end"}
	case errors.Is(err, control.ErrState):
		return &exitError{exitFailed, err, "`converge tasks show` says how it stands: dead letters can be requeued, and tasks that have not ended cancelled"}
	case errors.Is(err, control.ErrElsewhere):
		return &exitError{exitFailed, err, "ask the process that runs the host, with -c or --data"}
	}
	return err
}

// ago is how long something was before now.
func ago(t time.Time) string { return roughly(time.Since(t)) }
