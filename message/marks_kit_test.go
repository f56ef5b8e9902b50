package message_test

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)

// life is one process of Bob's: a verifier with marks.
type life struct {
	*message.Verifier
	marks *message.Marks
	log   *logged
}

// born returns a process that is not open yet.
func born(t testing.TB, s store.Store, c message.MarksConfig) *life {
	t.Helper()
	log := &logged{}
	c.Store, c.Network, c.Logger = s, network, slog.New(slog.NewTextHandler(log, nil))
	if c.Agent.IsZero() {
		c.Agent = bob.ID()
	}
	marks := must(message.NewMarks(c))
	v := configured(message.VerifierConfig{Self: c.Agent, Marks: marks, Now: c.Now}, ">")
	return &life{v, marks, log}
}

// starts returns a process whose marks are open. If the test ends before it does, it has crashed.
func starts(t testing.TB, s store.Store) *life {
	t.Helper()
	return startsWith(t, s, message.MarksConfig{})
}

func startsWith(t testing.TB, s store.Store, c message.MarksConfig) *life {
	t.Helper()
	l := born(t, s, c)
	if err := l.marks.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.crash() })
	return l
}

// stop ends the process in order.
func (l *life) stop(t testing.TB) {
	t.Helper()
	if err := l.marks.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash ends the goroutines of a process that is over. What it still writes counts for nothing: the next
// process gets a copy of the store that was made before.
func (l *life) crash() {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	l.marks.Close(gone)
}

// warnings returns how many lines at warn and above there are.
func (l *life) warnings() int { return l.log.count("level=WARN") + l.log.count("level=ERROR") }

// logged is a log that can be asked.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func newStore(t testing.TB) *memory.Store {
	t.Helper()
	s := must(memory.New(memory.Config{}))
	t.Cleanup(func() { s.Close() })
	return s
}

// copyOf returns a store that holds what s holds now: what a crash leaves.
func copyOf(t testing.TB, s store.Store) *memory.Store {
	t.Helper()
	c := newStore(t)
	for entry, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), entry.Key, entry.Value, 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func keysOf(t testing.TB, s store.Store) (keys []string) {
	t.Helper()
	for entry, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, entry.Key)
	}
	return keys
}

func ceilingKey() string { return store.Key("replay", network, bob.ID().String(), "ceiling") }

func markKey(sender *identity.Identity) string {
	return store.Key("replay", network, bob.ID().String(), sender.ID().String())
}

// overwrite replaces what is under a key, or deletes it if there is to be nothing.
func overwrite(t testing.TB, s store.Store, key string, value []byte) {
	t.Helper()
	entry, err := s.Get(t.Context(), key)
	switch {
	case value == nil && err == nil:
		err = s.Delete(t.Context(), key, entry.Revision)
	case value != nil:
		_, err = s.Put(t.Context(), key, value, entry.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// change is what becomes of a change of a store: it happens by calling do, or not, and the caller is told
// what is returned.
type change = func(ctx context.Context, op, key string, do func() error) error

// tampered is a store whose changes pass through a hook.
type tampered struct {
	store.Store
	mu     sync.Mutex
	change change
	list   func() error
}

func (s *tampered) tamper(c change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change = c
}

func (s *tampered) hook() change {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change
}

func (s *tampered) Put(ctx context.Context, key string, value []byte, at store.Revision) (revision store.Revision, err error) {
	hook := s.hook()
	if hook == nil {
		return s.Store.Put(ctx, key, value, at)
	}
	err = hook(ctx, "put", key, func() error {
		var err error
		revision, err = s.Store.Put(ctx, key, value, at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

func (s *tampered) Delete(ctx context.Context, key string, at store.Revision) error {
	hook := s.hook()
	if hook == nil {
		return s.Store.Delete(ctx, key, at)
	}
	return hook(ctx, "delete", key, func() error { return s.Store.Delete(ctx, key, at) })
}

func (s *tampered) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	if s.list != nil {
		if err := s.list(); err != nil {
			return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, err) }
		}
	}
	return s.Store.List(ctx, prefix)
}

// slow makes each change take d.
func slow(s store.Store, d time.Duration) *tampered {
	return &tampered{Store: s, change: func(ctx context.Context, _, _ string, do func() error) error {
		select {
		case <-time.After(d):
			return do()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

// sessionOf returns a new session of a sender whose clock is ahead, or behind if that is negative.
func sessionOf(id *identity.Identity, ahead time.Duration) *message.Signer {
	return must(message.NewSigner(message.SignerConfig{
		Identity: id, Network: network, Now: func() time.Time { return time.Now().Add(ahead) },
	}))
}

// toBob returns a message to Bob.
func toBob(t testing.TB, s *message.Signer) []byte {
	t.Helper()
	return sign(t, s, message.Draft{To: bob.ID()})
}

// refusesAll holds that nothing in frames is accepted, for whatever reason.
func refusesAll(t testing.TB, v *message.Verifier, frames [][]byte, when string) {
	t.Helper()
	for i, raw := range frames {
		if _, err := v.Verify(bytes.Clone(raw)); err == nil {
			t.Fatalf("%s: message %d of %d is accepted a second time", when, i+1, len(frames))
		}
	}
}
