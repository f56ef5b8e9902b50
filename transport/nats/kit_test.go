package nats_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// patience bounds what should happen soon; only a failing test ever waits that long.
const patience = time.Minute

// agent is an endpoint in a test.
type agent struct {
	*nats.Endpoint
	t  *testing.T
	id *identity.Identity
}

func join(t *testing.T, n *nats.Network, patterns ...string) *agent {
	t.Helper()
	return joinAs(t, n, newIdentity(t), patterns...)
}

func joinAs(t *testing.T, n *nats.Network, id *identity.Identity, patterns ...string) *agent {
	t.Helper()
	a := &agent{n.Endpoint(id), t, id}
	t.Cleanup(func() { a.Close() })
	ctx, cancel := a.soon()
	defer cancel()
	for _, p := range patterns {
		if err := a.Subscribe(ctx, message.MustPattern(p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Start(ctx); err != nil {
		t.Fatalf("Start: %v", err)
	}
	return a
}

func (a *agent) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(a.t.Context()), patience)
}

func (a *agent) route() transport.Route { return transport.Route{To: a.id.ID()} }

func topics(texts ...string) (r transport.Route) {
	for _, text := range texts {
		r.Topics = append(r.Topics, message.MustTopic(text))
	}
	return r
}

func (a *agent) try(to transport.Route, frame string) error {
	ctx, cancel := a.soon()
	defer cancel()
	return a.Send(ctx, to, []byte(frame))
}

func (a *agent) send(to transport.Route, frame string) {
	a.t.Helper()
	if err := a.try(to, frame); err != nil {
		a.t.Fatalf("Send: %v", err)
	}
}

// next returns the next frame, which is acknowledged.
func (a *agent) next() string {
	a.t.Helper()
	frame := a.nextFrame()
	if frame.Done != nil {
		frame.Done()
	}
	return string(frame.Data)
}

func (a *agent) nextFrame() transport.Frame {
	a.t.Helper()
	ctx, cancel := a.soon()
	defer cancel()
	frame, err := a.Receive(ctx)
	if err != nil {
		a.t.Fatalf("Receive: %v", err)
	}
	return frame
}

func (a *agent) expect(frames ...string) {
	a.t.Helper()
	for _, want := range frames {
		if got := a.next(); got != want {
			a.t.Fatalf("received %.100q, want %.100q", got, want)
		}
	}
}

// expectNothingBut checks that nothing came in before what from sends now.
func (a *agent) expectNothingBut(from *agent) {
	a.t.Helper()
	from.send(a.route(), "marker")
	a.expect("marker")
}

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// stranger is a client that speaks NATS, but is no agent.
func stranger(t *testing.T, n *nats.Network, options ...client.Option) *client.Conn {
	t.Helper()
	conn, err := client.Connect(n.Addr().String(), append(options,
		client.MaxReconnects(0), client.ErrorHandler(func(*client.Conn, *client.Subscription, error) {}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// open is an embedded server that strangers reach.
func listening(c nats.Config) nats.Config {
	c.Server.Listen = "127.0.0.1:0"
	return c
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

func (l *logbook) lines(with string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, with) {
			n++
		}
	}
	return n
}
