package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/observe"
)

const defaultConfig = "converge.yaml"

type runFlags struct {
	configFlags
	exitWhenDone   bool
	verbose        bool
	output         format
	passphraseFile string
	set            map[string]*string // by configuration key
}

// settings are the flags that beat a key of the configuration.
var settings = []struct{ key, flag, usage string }{
	{"data", "data", "`folder` for keys and state"},
	{"log.level", "log-level", "log from this `level` on: debug, info, warn or error"},
	{"log.format", "log-format", "`format` of the log: text or json"},
	{"transport", "transport", "`name` of the way to other processes: local, tcp, websocket, nats, or nats://HOST:PORT"},
	{"listen", "listen", "let peers connect at `host:port`; port 0 is a free one, see the log"},
	{"metrics.listen", "metrics-listen", "serve /metrics, /healthz and /readyz on `host:port`; port 0 is a free one, see the log"},
}

func newRun() *cobra.Command {
	f := runFlags{set: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the network that a configuration file describes",
		Long: `Run starts every agent of the file and keeps them running until SIGINT or SIGTERM or, with
--exit-when-done, until every coordinator's tasks have ended. Then it prints a table of the results
and a summary of what went through the pipeline, and nothing else, on standard output. The log goes
to standard error. After the first signal, tools that run get some seconds to finish; a second signal
kills them.

Agents of other processes are the peers of the file; the log tells where this process listens, and
which peers are connected and lost.

Exit status: 0 if no task failed; 1 if one did, or the network could not run; 130 if, with
--exit-when-done, it was interrupted before the job was done, and after a second signal; 64 for a
wrong command line.

A flag beats an environment variable (CONVERGE_LOG_LEVEL, CONVERGE_VAR_DIR, …), which beats the file.
The passphrase that opens and seals key files is what CONVERGE_PASSPHRASE holds, or the first line of
the file that --passphrase-file names.`,
		Example: `  converge run --exit-when-done
  converge run -c orders.toml --var dir=/srv/docs -o json
  converge run --transport tcp --listen :7946
  converge run --metrics-listen localhost:9090`,
		Args:              runArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return runNetwork(cmd, f) },
	}
	flags := cmd.Flags()
	f.add(flags)
	flags.BoolVar(&f.exitWhenDone, "exit-when-done", false, "exit when every coordinator's tasks have ended")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log everything, refused messages included; like --log-level debug")
	addFormat(cmd, &f.output, "of the report")
	flags.StringVar(&f.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the keys (instead of CONVERGE_PASSPHRASE)")
	for _, s := range settings {
		f.set[s.key] = flags.String(s.flag, "", s.usage+" (instead of "+s.key+" in the file)")
	}
	complete(cmd, "log-level", "debug", "info", "warn", "error")
	complete(cmd, "log-format", "text", "json")
	complete(cmd, "transport", "local", "tcp", "websocket", "nats")
	return cmd
}

// runArgs knows what people mean who give a file without -c.
func runArgs(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	return &exitError{exitUsage, fmt.Errorf("unexpected argument %q", given[0]), "the configuration file is given with -c: " + cmd.CommandPath() + configFlag(given[0])}
}

func runNetwork(cmd *cobra.Command, f runFlags) error {
	if f.verbose && cmd.Flags().Changed("log-level") {
		return usageError(cmd, errors.New("-v and --log-level: give one of them"))
	}
	c, err := config.Load(f.file, f.options(cmd))
	if err != nil {
		return err
	}
	if f.exitWhenDone && !hasCoordinator(c) {
		return usageError(cmd, fmt.Errorf("--exit-when-done: no agent of %s is a coordinator, so there is nothing to wait for", f.file))
	}
	passphrase, err := readPassphrase(f.passphraseFile)
	if err != nil {
		return err
	}
	progress := newProgressLine(os.Stderr)
	log, err := observe.NewLogger(progress, observe.LogConfig{Level: c.Log.Level, Format: c.Log.Format})
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	ctx, again := onInterrupt(cmd.Context())
	n, err := network.New(ctx, c, network.Options{Logger: log, Passphrase: passphrase, Progress: progress.show})
	if err == nil {
		err = runToEnd(ctx, again, n, f.exitWhenDone, progress)
		progress.clear()
		err = errors.Join(err, n.Close()) // before the report, which may find nobody to read it
	}
	switch {
	case err != nil && errors.Is(err, errInterrupted):
		return &exitError{code: exitInterrupted, err: errInterrupted}
	case err != nil:
		return err
	}
	return conclude(cmd, n.Report(), f, ended(again), ctx.Err() != nil)
}

func hasCoordinator(c *config.Config) bool {
	for _, a := range c.Agents {
		if a.Kind == config.KindCoordinator {
			return true
		}
	}
	return false
}

// runToEnd runs the network until its job is done, if it is to exit then, or ctx ends.
func runToEnd(ctx context.Context, again <-chan struct{}, n *network.Network, exitWhenDone bool, progress *progressLine) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(running) }()
	done, interrupted := n.Done(), ctx.Done()
	if !exitWhenDone {
		done = nil
	}
	for {
		select {
		case err := <-ran:
			return err
		case <-done:
			done = nil
			stop()
		case <-interrupted:
			interrupted = nil
			progress.stop()
		case <-again:
			again = nil
			n.Abort()
		}
	}
}

// conclude prints the report and returns the error that decides on the exit code.
func conclude(cmd *cobra.Command, r network.Report, f runFlags, killed, interrupted bool) error {
	if err := printReport(cmd.OutOrStdout(), r, f.output); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	stderr := cmd.ErrOrStderr()
	for _, failure := range r.Errors {
		fmt.Fprintln(stderr, "converge: task failed:", failure)
	}
	if more := r.Tasks.Failed - len(r.Errors); more > 0 {
		fmt.Fprintf(stderr, "converge: and %d more\n", more)
	}
	switch {
	case killed:
		return &exitError{code: exitInterrupted, err: errors.New("interrupted twice: running tools were killed")}
	case interrupted && f.exitWhenDone && r.Unfinished > 0:
		return &exitError{code: exitInterrupted, err: fmt.Errorf("interrupted: %s had not ended", tasks(r.Unfinished))}
	case r.Tasks.Failed > 0:
		return &exitError{code: exitFailed}
	}
	return nil
}

func tasks(n int) string {
	if n == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", n)
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (f runFlags) options(cmd *cobra.Command) config.Options {
	o := config.Options{Vars: f.vars, Set: map[string]string{}, Environ: os.Environ()}
	for _, s := range settings {
		if cmd.Flags().Changed(s.flag) {
			o.Set[s.key] = *f.set[s.key]
		}
	}
	if f.verbose {
		o.Set["log.level"] = "debug"
	}
	return o
}

func printReport(w io.Writer, r network.Report, f format) error {
	if f == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	return r.Write(w)
}
