package natskv_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

// proxy stands between a client and a server. While it is mute the server's answers get lost.
type proxy struct {
	net.Listener
	target  string
	mute    atomic.Bool
	mu      sync.Mutex
	conns   []net.Conn
	serving sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, target: strings.TrimPrefix(target, "nats://")}
	p.serving.Go(p.serve)
	t.Cleanup(func() { l.Close(); p.cut(); p.serving.Wait() })
	return p
}

func (p *proxy) serve() {
	for {
		near, err := p.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, near, far)
		p.mu.Unlock()
		p.serving.Go(func() { defer far.Close(); io.Copy(far, near) })
		p.serving.Go(func() { defer near.Close(); p.answer(near, far) })
	}
}

func (p *proxy) answer(near, far net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := far.Read(buffer)
		if err != nil {
			return
		}
		if p.mute.Load() {
			continue
		}
		if _, err := near.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// doubtful is a store whose answers can get lost, and one of the same bucket whose answers do not.
func doubtful(t *testing.T, patience time.Duration) (*proxy, *natskv.Store, *natskv.Store) {
	t.Helper()
	b := startBroker(t, server.Options{})
	p := newProxy(t, b.address())
	bucket := newBucket()
	s := open(t, natskv.Config{JetStream: connect(t, "nats://"+p.Addr().String()), Bucket: bucket, Patience: patience})
	return p, s, b.open(t, natskv.Config{Bucket: bucket})
}

type outcome struct {
	rev store.Revision
	err error
}

func putSoon(t *testing.T, s store.Store, key, value string, rev store.Revision) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		written, err := s.Put(context.WithoutCancel(t.Context()), key, []byte(value), rev)
		done <- outcome{written, err}
	}()
	return done
}

// valueIs reports whether an entry has come to a value.
func valueIs(t *testing.T, s store.Store, key, value string) func() bool {
	return func() bool {
		e, err := s.Get(t.Context(), key)
		return err == nil && string(e.Value) == value
	}
}

func TestLostAnswerOfPutIsFoundInStream(t *testing.T) {
	t.Parallel()
	p, s, other := doubtful(t, patience)
	rev := mustPut(t, s, "a", "1", 0)
	p.mute.Store(true)
	done := putSoon(t, s, "a", "2", rev)
	until(t, "the change is stored", valueIs(t, other, "a", "2"))
	p.mute.Store(false)
	p.cut()
	got := <-done
	e, err := other.Get(t.Context(), "a")
	if got.err != nil || err != nil || got.rev != e.Revision || string(e.Value) != "2" {
		t.Fatalf("Put gives %d, %v; the entry is %q at %d, %v", got.rev, got.err, e.Value, e.Revision, err)
	}
}

func TestLostAnswerOfPutIsFoundUnderLaterChanges(t *testing.T) {
	t.Parallel()
	p, s, other := doubtful(t, patience)
	p.mute.Store(true)
	done := putSoon(t, s, "a", "2", 0)
	until(t, "the change is stored", valueIs(t, other, "a", "2"))
	e, err := other.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	rev := mustPut(t, other, "a", "3", e.Revision)
	if err := other.Delete(t.Context(), "a", rev); err != nil {
		t.Fatal(err)
	}
	p.mute.Store(false)
	p.cut()
	if got := <-done; got.err != nil || got.rev != e.Revision {
		t.Fatalf("Put gives %d, %v, want %d", got.rev, got.err, e.Revision)
	}
	if _, err := other.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the entry that was deleted gives %v: it was written twice", err)
	}
}

func TestLostAnswerOfLoserIsConflict(t *testing.T) {
	t.Parallel()
	p, s, other := doubtful(t, patience)
	rev := mustPut(t, s, "a", "1", 0)
	won := mustPut(t, other, "a", "2", rev)
	p.mute.Store(true)
	done := putSoon(t, s, "a", "lost", rev)
	until(t, "the store has tried", func() bool {
		select {
		case got := <-done:
			t.Fatalf("Put gives %d, %v without an answer", got.rev, got.err)
		default:
		}
		return !isAnswered(p, s)
	})
	p.mute.Store(false)
	p.cut()
	got := <-done
	if !errors.Is(got.err, store.ErrConflict) || errors.Is(got.err, natskv.ErrInDoubt) {
		t.Fatalf("Put gives %d, %v", got.rev, got.err)
	}
	if e, err := other.Get(t.Context(), "a"); err != nil || e.Revision != won {
		t.Fatalf("the entry is at %d, %v, want %d", e.Revision, err, won)
	}
}

// isAnswered asks through the mute proxy, which takes as long as one attempt.
func isAnswered(p *proxy, s *natskv.Store) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Now(ctx)
	return err == nil
}

func TestPutWithoutAnswerIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	p, s, other := doubtful(t, 2*time.Second)
	p.mute.Store(true)
	_, err := s.Put(t.Context(), "a", []byte("1"), 0)
	if !errors.Is(err, natskv.ErrInDoubt) || !errors.Is(err, natskv.ErrUnavailable) {
		t.Fatalf("Put without an answer gives %v", err)
	}
	until(t, "the change is stored", valueIs(t, other, "a", "1"))

	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // it is sent by then
	defer cancel()
	_, err = s.Put(ctx, "b", []byte("1"), 0)
	if !errors.Is(err, natskv.ErrInDoubt) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Put whose context ends gives %v", err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, natskv.ErrUnavailable) {
		t.Fatalf("Get without an answer gives %v", err)
	}
}

func TestHealthTurnsWithTheConnection(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	s := b.open(t, natskv.Config{Patience: time.Second})
	list(t, s) // and follow the bucket from now on
	if err := s.Healthy(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	until(t, "the store is unhealthy", func() bool { return s.Healthy() != nil })
	_, err := s.Put(t.Context(), "a", nil, 0)
	if !errors.Is(err, natskv.ErrUnavailable) || errors.Is(err, natskv.ErrInDoubt) {
		t.Fatalf("Put that was never sent gives %v", err)
	}
	hint(t, err, "is the server up")
	b.start(t)
	until(t, "the store is healthy", func() bool { return s.Healthy() == nil })
	mustPut(t, s, "a", "", 0)
	s.Close()
	if err := s.Healthy(); !errors.Is(err, store.ErrClosed) {
		t.Fatalf("Healthy of a closed store gives %v", err)
	}
}

// hint checks the remedy that comes with an error.
func hint(t *testing.T, err error, want string) {
	t.Helper()
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), want) {
		t.Errorf("the error %v has no hint %q", err, want)
	}
}
