// Command converge runs networks of agents from configuration files, and looks after their keys.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

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

// run runs the command line and returns its exit code.
func run() int { return report(os.Stderr, newRoot().Execute()) }

// exitError is an error with an exit code of its own; it may be silent.
type exitError struct {
	code int
	err  error  // nil if all has been said
	hint string // may be ""
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Hint says what to do about the error.
func (e *exitError) Hint() string { return e.hint }

// report prints an error with its hints and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	code := exitFailed
	for _, problem := range unjoin(err) {
		if e, ok := errors.AsType[*exitError](problem); ok {
			code = e.code
			if e.err == nil {
				continue
			}
		}
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
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	switch {
	case errors.Is(err, identity.ErrPassphraseRequired):
		return "set CONVERGE_PASSPHRASE, or give --passphrase-file"
	case errors.Is(err, identity.ErrPassphrase):
		return "the passphrase came from CONVERGE_PASSPHRASE or --passphrase-file; it has to be the one that sealed the key"
	default:
		return ""
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "converge",
		Short: "Networks of autonomous agents whose every message is signed and verified",
		Long: `Converge runs networks of autonomous agents in which every message is signed and
verified, every sender limited, every tool call authorised and every act counted.

A network is described by a file. To see one at work:

  converge init demo                                     write demo/converge.yaml and its keys
  converge run -c demo/converge.yaml --exit-when-done    run the network that it describes`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })
	root.SetVersionTemplate(versionLine())
	root.Version = currentVersion()
	root.Flags().Bool("version", false, "print the version")
	root.AddCommand(newInit(), newRun(), newKeys(), newTasks(), newApprovals(), newAudit(), newMCP(), newBench(), newVersion())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}
