package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/converge-agents/converge/internal/loadtest"
)

// converge measures the whole path of Converge over TCP and TLS, as "converge bench" does: besides
// signing and verifying, which is all that the others do, messages pass replay windows, rate limits,
// inboxes and agents.
func converge(s loadtest.Signature) func(context.Context, load) (figure, error) {
	return func(ctx context.Context, l load) (figure, error) {
		r, err := loadtest.Run(ctx, config(l, s))
		cpu := time.Duration(r.CPUSeconds * float64(time.Second))
		return figure{r.MessagesPerSecond, cpu / time.Duration(l.messages)}, err
	}
}

func config(l load, s loadtest.Signature) loadtest.Config {
	const transport = "tcp"
	return loadtest.Config{
		Transport: transport,
		Connect:   loadtest.Over(transport),
		Signature: s,
		Messages:  l.messages,
		Size:      l.size,
		Senders:   l.senders,
		Logger:    slog.New(slog.DiscardHandler),
	}
}

const (
	quietRate     = 200  // messages a second of a network that has little to do
	quietMessages = 2000 // in one measurement
)

// latencies compares how long messages take with batch and with single signatures, in turns.
func latencies(ctx context.Context, l load, rounds int) error {
	var half, most []float64
	l.messages = quietMessages
	fmt.Printf("%d messages a second   %12s  %12s  %12s  %12s\n", quietRate, "batch p50 µs", "single p50", "batch p99", "single p99")
	for round := range rounds {
		var r [2]loadtest.Result
		for i, s := range []loadtest.Signature{loadtest.Batch, loadtest.Single} {
			c := config(l, s)
			c.Rate = quietRate
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, s)
			var err error
			if r[i], err = loadtest.Run(ctx, c); err != nil {
				return err
			}
		}
		fmt.Printf("round %-2d                %12.1f  %12.1f  %12.1f  %12.1f\n", round+1, r[0].P50, r[1].P50, r[0].P99, r[1].P99)
		half, most = append(half, r[0].P50/r[1].P50), append(most, r[0].P99/r[1].P99)
	}
	fmt.Printf("\nbatch : single, median of rounds: p50 %.3f, p99 %.3f (the bar is 1.05)\n", median(half), median(most))
	return nil
}
