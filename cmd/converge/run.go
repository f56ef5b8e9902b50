package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/observe"
	"github.com/converge-agents/converge/role"
)

type runFlags struct {
	file           string
	exitWhenDone   bool
	vars           map[string]string
	verbose        bool
	output         string
	passphraseFile string
	set            map[string]*string // by configuration key
}

func newRun() *cobra.Command {
	f := runFlags{set: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the network that a configuration file describes",
		Long: `Run starts every agent of the file and keeps them running until SIGINT or SIGTERM,
or, with --exit-when-done, until every coordinator's tasks have ended. Then it prints a table of
the results and a summary of what went through the pipeline. A second signal ends it at once.

Exit status: 0; 1 if a task failed or the network could not run; 130 if it was interrupted before
the job was done; 64 for a wrong command line.

A flag beats an environment variable (CONVERGE_LOG_LEVEL, CONVERGE_VAR_DIR, …), which beats the
file. CONVERGE_PASSPHRASE opens and seals key files.`,
		Example: `  converge run -c converge.yaml --exit-when-done
  converge run -c converge.yaml --var dir=/srv/docs -o json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runNetwork(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "config", "c", "converge.yaml", "configuration `file`, YAML or TOML")
	flags.BoolVar(&f.exitWhenDone, "exit-when-done", false, "exit when every coordinator's tasks have ended")
	flags.StringToStringVar(&f.vars, "var", nil, "set a variable of the file, as `name=value`; may be repeated")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log everything, refused messages included (log.level: debug)")
	flags.StringVarP(&f.output, "output", "o", "text", "`format` of the report: text or json")
	flags.StringVar(&f.passphraseFile, "passphrase-file", "", "`file` with the passphrase of the keys")
	for _, s := range []struct{ key, flag, usage string }{
		{"data", "data", "`folder` for keys and state"},
		{"log.level", "log-level", "`level`: debug, info, warn or error"},
		{"log.format", "log-format", "`format` of the log: text or json"},
		{"metrics.listen", "metrics-listen", "`host:port` to serve /metrics, /healthz and /readyz on"},
	} {
		f.set[s.key] = flags.String(s.flag, "", s.usage+" (beats "+s.key+" of the file)")
	}
	return cmd
}

func runNetwork(cmd *cobra.Command, f runFlags) error {
	if f.output != "text" && f.output != "json" {
		return usageError(cmd, fmt.Errorf("output format %q: use text or json", f.output))
	}
	c, err := config.Load(f.file, f.options(cmd))
	if err != nil {
		return err
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
	n, err := network.New(cmd.Context(), c, network.Options{Logger: log, Passphrase: passphrase, Progress: progress.show})
	if err != nil {
		return err
	}
	defer n.Close()
	return errors.Join(runToEnd(cmd, n, f, progress), n.Close())
}

// runToEnd runs the network, prints the report and returns the error that decides on the exit code.
func runToEnd(cmd *cobra.Command, n *network.Network, f runFlags, progress *progressLine) error {
	ctx, stop := context.WithCancelCause(cmd.Context())
	defer stop(nil)
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	var err error
	if f.exitWhenDone {
		select {
		case <-n.Done():
			stop(network.ErrStop)
			err = <-ran
		case err = <-ran:
		}
	} else {
		err = <-ran
	}
	interrupted := errors.Is(context.Cause(cmd.Context()), errInterrupted)
	if err != nil && !interrupted {
		return err
	}
	progress.clear()
	r := n.Report()
	if err := printReport(cmd.OutOrStdout(), r, f.output); err != nil {
		return err
	}
	for _, failure := range r.Errors {
		fmt.Fprintln(cmd.ErrOrStderr(), "converge: task failed:", failure)
	}
	switch {
	case r.Tasks.Failed > 0:
		return &exitError{code: exitFailed}
	case interrupted && f.exitWhenDone && r.Unfinished > 0:
		return &exitError{exitInterrupted, fmt.Errorf("interrupted: %d tasks had not ended", r.Unfinished)}
	}
	return nil
}

func (f runFlags) options(cmd *cobra.Command) config.Options {
	o := config.Options{Vars: f.vars, Set: map[string]string{}, Environ: os.Environ()}
	for _, s := range []struct{ key, flag string }{
		{"data", "data"}, {"log.level", "log-level"}, {"log.format", "log-format"}, {"metrics.listen", "metrics-listen"},
	} {
		if cmd.Flags().Changed(s.flag) {
			o.Set[s.key] = *f.set[s.key]
		}
	}
	if f.verbose {
		o.Set["log.level"] = "debug"
	}
	return o
}

func printReport(w io.Writer, r network.Report, format string) error {
	if format == "text" {
		return r.Write(w)
	}
	return json.NewEncoder(w).Encode(r)
}

// progressLine is standard error with, if it is a terminal, a line at the bottom that says how far the
// job is. Log lines go above it.
type progressLine struct {
	file     *os.File
	terminal bool

	mu    sync.Mutex
	line  string // what is shown now
	last  time.Time
	start time.Time
}

func newProgressLine(f *os.File) *progressLine {
	return &progressLine{file: f, terminal: term.IsTerminal(int(f.Fd())), start: time.Now()}
}

// refresh spaces the redrawing of the line.
const refresh = 100 * time.Millisecond

func (p *progressLine) show(now role.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal || time.Since(p.last) < refresh && !now.Done() {
		return
	}
	p.last = time.Now()
	p.line = fmt.Sprintf("%d of %d tasks done, %d failed, %.0f s", now.Completed+now.Failed, now.Total, now.Failed, time.Since(p.start).Seconds())
	fmt.Fprintf(p.file, "\r\x1b[K%s", p.line)
}

// clear takes the line away.
func (p *progressLine) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line != "" {
		fmt.Fprint(p.file, "\r\x1b[K")
		p.line = ""
	}
}

// Write prints log lines above the progress line.
func (p *progressLine) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == "" {
		return p.file.Write(text)
	}
	fmt.Fprint(p.file, "\r\x1b[K")
	n, err := p.file.Write(text)
	fmt.Fprint(p.file, p.line)
	return n, err
}
