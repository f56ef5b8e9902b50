package discovery_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.uber.org/goleak"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const network = "test.example"

// noon is when tests without a bubble of their own take place.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// The cast. Mallory can write to the store; the others need not.
var alice, bob, carol, mallory = agent(1), agent(2), agent(3), agent(66)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// described returns a descriptor of id in which every field is set.
func described(id *identity.Identity) discovery.Descriptor {
	return discovery.Descriptor{
		Name:   "Alice, who proofreads",
		Topics: []message.Pattern{message.MustPattern("orders.*"), message.MustPattern("refunds@2?region=eu")},
		Capabilities: []discovery.Capability{
			{Name: "text/proofread", Version: "1.2", Description: "Finds mistakes – and explains them."},
			{Name: "text.translate"},
		},
		Endpoints: []string{"tls://192.0.2.1:7433", "wss://example.org/agents"},
		ID:        id.ID(),
		Key:       id.PublicKey(),
		Network:   network,
		Sequence:  1 << 40,
		Issued:    noon,
		Expires:   noon.Add(time.Hour),
	}
}

// fields is a signed payload that is put together by hand, by the labels of the format: spelled out
// once more, so that a change of the code cannot change them here.
type fields map[int]any

const (
	labelNetwork = iota + 1
	labelKey
	labelSequence
	labelIssued
	labelExpires
	labelName
	labelTopics
	labelCapabilities
	labelEndpoints
	labelWithdrawn
	labelStatement
)

// by returns the fields of a plain descriptor of id.
func by(id *identity.Identity) fields {
	return fields{
		labelNetwork: network, labelKey: []byte(id.PublicKey()), labelSequence: 1,
		labelIssued: noon.UnixMilli(), labelExpires: noon.Add(time.Hour).UnixMilli(),
	}
}

// with returns the fields with another value at the label.
func (f fields) with(label int, value any) fields {
	changed := fields{label: value}
	for other, v := range f {
		if other != label {
			changed[other] = v
		}
	}
	return changed
}

func (f fields) encode() []byte { return must(must(cbor.CoreDetEncOptions().EncMode()).Marshal(f)) }

// kid returns the key identifier that stands for id.
func kid(id *identity.Identity) []byte {
	raw := id.ID()
	return raw[:]
}

const typ = "application/converge-descriptor"

// signed returns a statement that names kid in its header and that signer has signed.
func signed(signer cose.Signer, kid, payload []byte) []byte {
	return cose.SignStatement(signer, kid, cose.DomainDescriptor, typ, payload)
}

type clock = testkit.Clock

func newStore(t testing.TB) *memory.Store {
	t.Helper()
	s := must(memory.New(memory.Config{}))
	t.Cleanup(func() { s.Close() })
	return s
}

// newService returns a service of the test network on s; c may leave open what it likes.
func newService(t testing.TB, s store.Store, c discovery.Config) *discovery.Service {
	t.Helper()
	c.Store = s
	if c.Network == "" {
		c.Network = network
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return must(discovery.New(c))
}

// at returns the configuration of a service whose clock is c.
func at(c *clock) discovery.Config { return discovery.Config{Now: c.Now} }

func register(t testing.TB, s *discovery.Service, id *identity.Identity, d discovery.Descriptor) discovery.Descriptor {
	t.Helper()
	published, err := s.Register(t.Context(), id, d)
	if err != nil {
		t.Fatal(err)
	}
	return published
}

func withdraw(t testing.TB, s *discovery.Service, id *identity.Identity) {
	t.Helper()
	if err := s.Withdraw(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// keyOf is where the entry of an agent stands.
func keyOf(id *identity.Identity) string { return "discovery/" + network + "/" + id.ID().String() }

// entryOf returns the bytes that the store has of an agent.
func entryOf(t testing.TB, s store.Store, id *identity.Identity) []byte {
	t.Helper()
	return must(s.Get(t.Context(), keyOf(id))).Value
}

// overwrite has the store hold value under key, whatever it held before.
func overwrite(t testing.TB, s store.Store, key string, value []byte) {
	t.Helper()
	entry, err := s.Get(t.Context(), key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), key, value, entry.Revision); err != nil {
		t.Fatal(err)
	}
}

// lose has the store forget an entry.
func lose(t testing.TB, s store.Store, id *identity.Identity) {
	t.Helper()
	entry := must(s.Get(t.Context(), keyOf(id)))
	if err := s.Delete(t.Context(), entry.Key, entry.Revision); err != nil {
		t.Fatal(err)
	}
}

// failing is a store whose calls fail where the test says so.
type failing struct {
	store.Store
	get   func() error
	put   func() error
	list  func() error
	watch func() error // before a watch yields anything
	snap  func() error // after its snapshot

	mu  sync.Mutex
	end context.CancelCauseFunc // of the watch that goes on
}

// interrupt ends the watch that goes on.
func (f *failing) interrupt(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(err)
}

func (f *failing) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := call(f.get); err != nil {
		return store.Entry{}, err
	}
	return f.Store.Get(ctx, key)
}

func (f *failing) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if err := call(f.put); err != nil {
		return 0, err
	}
	return f.Store.Put(ctx, key, value, rev)
}

func (f *failing) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	if err := call(f.list); err != nil {
		return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, err) }
	}
	return f.Store.List(ctx, prefix)
}

func (f *failing) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		if err := call(f.watch); err != nil {
			yield(store.Event{}, err)
			return
		}
		ctx, end := context.WithCancelCause(ctx)
		defer end(nil)
		f.mu.Lock()
		f.end = end
		f.mu.Unlock()
		for event, err := range f.Store.Watch(ctx, prefix, after) {
			if !yield(event, err) {
				return
			}
			if event.Op != store.OpSynced {
				continue
			}
			if err := call(f.snap); err != nil {
				yield(store.Event{}, err)
				return
			}
		}
	}
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// lowOrder is the encoding of the neutral element, and its Sign makes a signature of any message that
// Ed25519 verifies under it.
type lowOrder struct{}

func (lowOrder) key() ed25519.PublicKey { return append([]byte{1}, make([]byte, 31)...) }

func (lowOrder) Sign([]byte) []byte { return append([]byte{1}, make([]byte, 63)...) }
