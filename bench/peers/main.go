// Command peers measures Converge beside other ways to get signed messages from one program to another,
// in one run on one machine, so that the ratios mean something though the figures of machines differ.
// README.md in the folder above says how, and how to read the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/converge-agents/converge/internal/loadtest"
)

func main() {
	l := load{senders: 4}
	var rounds int
	flag.IntVar(&l.messages, "messages", 200_000, "messages in each measurement of the fast ones; those with one signature a message get a tenth")
	flag.IntVar(&l.size, "size", 256, "bytes of a message's body")
	flag.IntVar(&rounds, "rounds", 5, "how often to measure each; the table shows medians")
	latency := flag.Bool("latency", false, "compare the times that Converge's messages take at 200 a second, with batch and with single signatures, instead of speeds")
	flag.Parse()
	if err := check(l, rounds); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := speeds
	if *latency {
		run = latencies
	}
	if err := run(ctx, l, rounds); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func check(l load, rounds int) error {
	switch {
	case l.messages < 1000 || l.messages > 10_000_000:
		return errors.New("-messages: use 1000 to 10000000")
	case l.size < 16 || l.size > 1<<16:
		return errors.New("-size: use 16 to 65536")
	case rounds < 1 || rounds > 100:
		return errors.New("-rounds: use 1 to 100")
	}
	return nil
}

// load is what each contender has to carry.
type load struct {
	messages int
	size     int
	senders  int
}

// figure is what one measurement found.
type figure struct {
	perSecond float64
	cpu       time.Duration // of both sides, a message
}

// contender is one way to get messages from here to there.
type contender struct {
	name    string
	slow    bool // one signature a message: gets a tenth of the messages
	measure func(context.Context, load) (figure, error)
}

const (
	nameBatch     = "converge tcp, batch signatures"
	nameUnsigned  = "converge tcp, unsigned (unsafe)"
	nameGossipsub = "gossipsub, signed"
	nameByHand    = "nats, signed by hand"
	nameAllCores  = "nats, signed by hand on all cores"
)

var contenders = []contender{
	{nameBatch, false, converge(loadtest.Batch)},
	{"converge tcp, single signatures", true, converge(loadtest.Single)},
	{nameUnsigned, false, converge(loadtest.Unsigned)},
	{nameGossipsub, true, gossipsub},
	{nameByHand, true, natsByHand},
	{nameAllCores, true, natsAllCores},
	{"nats, unsigned", false, natsUnsigned},
}

// limit bounds one measurement in time.
const limit = 2 * time.Minute

// speeds measures every contender in every round, one after the other, so that a change of the machine's
// mood hits all of them.
func speeds(ctx context.Context, l load, rounds int) error {
	found := map[string][]figure{}
	for round := range rounds {
		for _, c := range contenders {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, c.name)
			f, err := once(ctx, c, l)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			found[c.name] = append(found[c.name], f)
		}
	}
	table(found)
	ratios(found)
	return nil
}

func once(ctx context.Context, c contender, l load) (figure, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %v", limit))
	defer cancel()
	if c.slow {
		l.messages /= 10
	}
	return c.measure(ctx, l)
}

func table(found map[string][]figure) {
	fmt.Printf("%-34s  %12s  %12s  %12s  %14s\n", "", "messages/s", "least", "most", "CPU µs/message")
	for _, c := range contenders {
		rates := column(found[c.name], func(f figure) float64 { return f.perSecond })
		cpu := column(found[c.name], func(f figure) float64 { return float64(f.cpu.Nanoseconds()) / 1e3 })
		fmt.Printf("%-34s  %12.0f  %12.0f  %12.0f  %14.1f\n", c.name, median(rates), slices.Min(rates), slices.Max(rates), median(cpu))
	}
}

// ratios compares contenders round by round.
func ratios(found map[string][]figure) {
	fmt.Println()
	for _, r := range []struct {
		than string
		want float64 // 0 if there is no bar
	}{{nameGossipsub, 20}, {nameByHand, 12}, {nameAllCores, 0}, {nameUnsigned, 0.5}} {
		var each []float64
		for i, f := range found[nameBatch] {
			each = append(each, f.perSecond/found[r.than][i].perSecond)
		}
		fmt.Printf("%s: %.2f × %s (least %.2f, most %.2f%s)\n",
			nameBatch, median(each), r.than, slices.Min(each), slices.Max(each), verdict(median(each), r.want))
	}
}

func verdict(ratio, want float64) string {
	switch {
	case want == 0:
		return ""
	case ratio < want:
		return fmt.Sprintf("; the bar is %g: MISSED", want)
	default:
		return fmt.Sprintf("; the bar is %g: reached", want)
	}
}

func column(figures []figure, value func(figure) float64) []float64 {
	var values []float64
	for _, f := range figures {
		values = append(values, value(f))
	}
	return values
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
