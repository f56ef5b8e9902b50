// Command converge runs networks of agents from configuration files, and looks after their keys.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
)

func main() { os.Exit(run()) }

// Exit codes. 2 is left to the Go runtime.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 64 // EX_USAGE of sysexits.h
	exitInterrupted = 130
)

// run runs the command line and returns its exit code. The first SIGINT or SIGTERM ends the command's
// context; a second one ends the process at once.
func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		os.Exit(exitInterrupted)
	}()
	return report(os.Stderr, newRoot().ExecuteContext(ctx))
}

var errInterrupted = errors.New("interrupted")

// exitError is an error with an exit code of its own; it may be silent.
type exitError struct {
	code int
	err  error // nil if all has been said
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// report prints an error with its hints and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	code := exitFailed
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
		if e.err == nil {
			return code
		}
		err = e.err
	}
	for _, problem := range unjoin(err) {
		fmt.Fprintln(w, "converge:", problem)
		if hint := hintFor(problem); hint != "" {
			fmt.Fprintln(w, "hint:", hint)
		}
	}
	return code
}

// unjoin returns the errors that [errors.Join] put together.
func unjoin(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, unjoin(e)...)
	}
	return all
}

func hintFor(err error) string {
	if e, ok := errors.AsType[*config.Error](err); ok {
		return e.Hint
	}
	if errors.Is(err, identity.ErrPassphraseRequired) || errors.Is(err, identity.ErrPassphrase) {
		return "set CONVERGE_PASSPHRASE, or give --passphrase-file"
	}
	return ""
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "converge",
		Short: "Networks of autonomous agents whose every message is signed and verified",
		Long: `Converge runs networks of autonomous agents in which every message is signed and
verified, every sender limited, every tool call authorised and every act counted.

  converge init demo                    write demo/converge.yaml and its keys
  converge run -c demo/converge.yaml    run the network that the file describes`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })
	root.AddCommand(newRun(), newInit(), newKeys(), newVersion())
	return root
}

// usageError is an error of whoever typed the command.
func usageError(cmd *cobra.Command, err error) error {
	return &exitError{exitUsage, fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// args makes usage errors of those of a check of arguments.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usageError(cmd, err)
		}
		return nil
	}
}
