package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/internal/loadtest"
	"github.com/converge-agents/converge/observe"
)

// all is the value of a choice that stands for every other one.
const all = "all"

type benchFlags struct {
	transport, signature          choice
	messages, size, senders, rate number
	output                        format
}

func newBench() *cobra.Command {
	f := benchFlags{
		transport: choice{value: "tcp", values: loadtest.Transports()},
		signature: choice{value: string(loadtest.Batch)},
		messages:  number{loadtest.DefaultMessages, 1, loadtest.MaxMessages},
		size:      number{loadtest.DefaultSize, loadtest.MinSize, loadtest.MaxSize},
		senders:   number{loadtest.DefaultSenders, 1, loadtest.MaxSenders},
		rate:      number{0, 0, loadtest.MaxRate},
	}
	for _, s := range loadtest.Signatures() {
		f.signature.values = append(f.signature.values, string(s))
	}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast messages get from agent to agent",
		Long: `Bench measures the whole path of a message: an agent decides to send it, its runtime limits and
signs it, the transport carries it, another runtime verifies it, looks into the replay window, limits
and queues it, and another agent is shown it. Senders are on one side and the receiver is on the other;
the sides share this process but have networks and registries of their own, and talk over loopback.

A line tells, for each transport and signature: messages a second; how long half of them (p50) and 99 in
100 (p99) took from decision to decision; CPU seconds of both sides; and objects allocated a message.
As fast as messages get through, these times are those of full queues; for the times of a network that
has little to do, give a low --rate.

The signature "unsigned" is UNSAFE: it signs and verifies nothing, to show what signatures cost. Every
other part of this program refuses such messages.

Exit status: 0 if every message arrived once; 1 if not, or if something failed; 130 after SIGINT or
SIGTERM; 64 for a wrong command line.`,
		Example: `  converge bench
  converge bench --transport all --signature all -o json
  converge bench --signature single --rate 200 --messages 2000`,
		Args:              words(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return bench(cmd, f) },
	}
	flags := cmd.Flags()
	flags.Var(&f.transport, "transport", "`transport` to measure: "+f.transport.list())
	flags.Var(&f.signature, "signature", "how messages are signed, the `mode`: "+f.signature.list())
	flags.Var(&f.messages, "messages", "`number` of messages to measure; those of the warm-up come on top")
	flags.Var(&f.size, "size", "`bytes` of a message's body")
	flags.Var(&f.senders, "senders", "`number` of agents that send")
	flags.Var(&f.rate, "rate", "`messages` a second from all senders together; 0: as fast as they get through")
	addFormat(cmd, &f.output, "of the results")
	complete(cmd, "transport", f.transport.all()...)
	complete(cmd, "signature", f.signature.all()...)
	return cmd
}

// choice is a flag that takes one of several words, or "all" of them.
type choice struct {
	value  string
	values []string
}

func (c *choice) all() []string  { return append(slices.Clone(c.values), all) }
func (c *choice) list() string   { return strings.Join(c.values, ", ") + " or " + all }
func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "word" }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.all(), s) {
		return errors.New("use " + c.list())
	}
	c.value = s
	return nil
}

// chosen returns the words that were asked for.
func (c *choice) chosen() []string {
	if c.value == all {
		return c.values
	}
	return []string{c.value}
}

// number is a flag that takes a whole number within bounds.
type number struct{ value, least, most int }

func (n *number) String() string { return strconv.Itoa(n.value) }
func (n *number) Type() string   { return "number" }

func (n *number) Set(s string) error {
	value, err := strconv.Atoi(s)
	if err != nil || value < n.least || value > n.most {
		return fmt.Errorf("use a whole number from %d to %d", n.least, n.most)
	}
	n.value = value
	return nil
}

// bench measures what the flags ask for. A measurement that fails does not keep back the others.
func bench(cmd *cobra.Command, f benchFlags) error {
	progress := newProgressLine(os.Stderr)
	log, err := observe.NewLogger(progress, observe.LogConfig{Level: "error"})
	if err != nil {
		return err
	}
	ctx, _ := onInterrupt(cmd.Context())
	print := newBenchPrinter(cmd.OutOrStdout(), f.output)
	var failed error
	for _, transport := range f.transport.chosen() {
		for _, signature := range f.signature.chosen() {
			err := benchOne(ctx, f, transport, loadtest.Signature(signature), progress, log, print)
			if ctx.Err() != nil {
				return errors.Join(failed, err)
			}
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func benchOne(ctx context.Context, f benchFlags, transport string, s loadtest.Signature, progress *progressLine, log *slog.Logger, print func(loadtest.Result) error) error {
	what := fmt.Sprintf("bench %s %s", transport, s)
	if s == loadtest.Unsigned {
		fmt.Fprintf(progress, "converge: warning: %s: UNSAFE: nothing is signed or verified\n", what)
	}
	start := time.Now()
	r, err := loadtest.Run(ctx, loadtest.Config{
		Transport: transport,
		Connect:   loadtest.Over(transport),
		Signature: s,
		Messages:  f.messages.value,
		Size:      f.size.value,
		Senders:   f.senders.value,
		Rate:      f.rate.value,
		Logger:    log,
		Progress: func(arrived, total int) {
			progress.say(fmt.Sprintf("%s: %d of %d messages, %.0f s", what, arrived, total, time.Since(start).Seconds()))
		},
	})
	progress.clear()
	switch {
	case errors.Is(err, errInterrupted):
		return &exitError{code: exitInterrupted, err: fmt.Errorf("%s: %w", what, err)}
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return print(r)
}

// say shows a line, if standard error is a terminal.
func (p *progressLine) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(line)
}

// newBenchPrinter returns what prints a result as a line, at once: the next may take long.
func newBenchPrinter(w io.Writer, f format) func(loadtest.Result) error {
	if f == "json" {
		encoder := json.NewEncoder(w)
		return func(r loadtest.Result) error { return encoder.Encode(r) }
	}
	started := false
	return func(r loadtest.Result) error {
		if !started {
			started = true
			fmt.Fprintf(w, "%-9s  %-9s  %11s  %11s  %10s  %10s  %8s  %10s\n", "transport", "signature", "messages", "messages/s", "p50", "p99", "cpu", "allocs/msg")
		}
		_, err := fmt.Fprintf(w, "%-9s  %-9s  %11d  %11.0f  %10s  %10s  %8s  %10.1f\n", r.Transport, r.Signature, r.Messages, r.MessagesPerSecond,
			micros(r.P50), micros(r.P99), fmt.Sprintf("%.2f s", r.CPUSeconds), r.AllocsPerMessage)
		return err
	}
}

// micros writes microseconds in the unit that fits.
func micros(us float64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%.1f µs", us)
	case us < 1e6:
		return fmt.Sprintf("%.2f ms", us/1e3)
	default:
		return fmt.Sprintf("%.2f s", us/1e6)
	}
}
