package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// peerLink carries messages to its other side. It calls arrived once for each that has come, and been
// verified; at most window are under way.
type peerLink struct {
	send  func(ctx context.Context, sender int, body []byte) error
	flush func() error // nil if sending does not buffer
	close func()
}

const (
	chunk  = 256
	window = 32 * chunk
)

// drive measures a peer. The senders and the other side share a window, so that no queue overflows and
// nobody sleeps: senders take a token for each chunk of messages, and arrivals give it back.
func drive(ctx context.Context, l load, open func(ctx context.Context, arrived func()) (*peerLink, error)) (figure, error) {
	d := &driver{tokens: make(chan struct{}, window/chunk)}
	for range cap(d.tokens) {
		d.tokens <- struct{}{}
	}
	runtime.GC()
	p, err := open(ctx, d.arrived)
	if err != nil {
		return figure{}, err
	}
	defer p.close()
	if _, err := d.carry(ctx, p, l, l.messages/10); err != nil { // to warm up
		return figure{}, err
	}
	return d.carry(ctx, p, l, l.messages)
}

type driver struct {
	tokens chan struct{}
	target atomic.Int64
	seen   atomic.Int64
	done   atomic.Pointer[chan struct{}]
}

func (d *driver) arrived() {
	n := d.seen.Add(1)
	if n%chunk == 0 {
		select {
		case d.tokens <- struct{}{}:
		default: // all of them are there: the last chunks of senders were not whole
		}
	}
	if n == d.target.Load() {
		close(*d.done.Load())
	}
}

// carry sends n messages and waits until all have arrived.
func (d *driver) carry(ctx context.Context, p *peerLink, l load, n int) (figure, error) {
	done := make(chan struct{})
	d.done.Store(&done)
	d.target.Add(int64(n))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start, cpu := time.Now(), processTime()
	var sending sync.WaitGroup
	for i := range l.senders {
		share := n / l.senders
		if i < n%l.senders {
			share++
		}
		sending.Go(func() {
			if err := d.send(ctx, p, i, share, l.size); err != nil {
				cancel(err)
			}
		})
	}
	sending.Wait()
	select {
	case <-done:
	case <-ctx.Done():
		return figure{}, fmt.Errorf("%d of %d messages had arrived: %w", d.seen.Load(), d.target.Load(), context.Cause(ctx))
	}
	took := time.Since(start)
	return figure{float64(n) / took.Seconds(), (processTime() - cpu) / time.Duration(n)}, nil
}

func (d *driver) send(ctx context.Context, p *peerLink, sender, n, size int) error {
	body := make([]byte, size)
	for i := range n {
		if i%chunk == 0 {
			if err := d.token(ctx, p); err != nil {
				return err
			}
		}
		if err := p.send(ctx, sender, body); err != nil {
			return err
		}
	}
	if p.flush == nil {
		return nil
	}
	return p.flush()
}

func (d *driver) token(ctx context.Context, p *peerLink) error {
	select {
	case <-d.tokens:
		return nil
	default:
	}
	if p.flush != nil { // what others wait for may be in a buffer
		if err := p.flush(); err != nil {
			return err
		}
	}
	select {
	case <-d.tokens:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// processTime returns the CPU time that the process has used.
func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
