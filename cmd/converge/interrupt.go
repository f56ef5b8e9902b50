package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var errInterrupted = errors.New("interrupted")

// lastGrace is how long the end may take after the second signal.
const lastGrace = 2 * time.Second

// onInterrupt turns signals into stages. With the first SIGINT, SIGTERM or SIGHUP, ctx ends; with the
// second one, again is closed; and with the third one, or soon after the second, the process ends.
//
// From now on, the process also outlives whoever reads its output.
func onInterrupt(parent context.Context) (ctx context.Context, again <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as it is under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	// A handler, unlike signal.Ignore, is nothing that tools inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	second := make(chan struct{})
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		close(second)
		select {
		case <-signals:
		case <-time.After(lastGrace):
		}
		os.Exit(exitInterrupted)
	}()
	return ctx, second
}
