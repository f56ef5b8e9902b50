package discovery_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

func TestNewNamesTheFieldAtFault(t *testing.T) {
	s := newStore(t)
	for field, c := range map[string]discovery.Config{
		"Store":   {Network: network},
		"Network": {Store: s, Network: "No Such"},
		"TTL":     {Store: s, Network: network, TTL: time.Millisecond},
	} {
		if _, err := discovery.New(c); err == nil || !strings.HasPrefix(err.Error(), "discovery.Config."+field+": ") {
			t.Errorf("bad %s: %v", field, err)
		}
	}
	if _, err := discovery.New(discovery.Config{Store: s, Network: network, TTL: -1}); err == nil {
		t.Error("a negative TTL is accepted")
	}
	if got := newService(t, s, discovery.Config{}).TTL(); got != discovery.DefaultTTL {
		t.Errorf("the TTL is %v unless told otherwise, not DefaultTTL", got)
	}
}

func TestRegisterPublishesWhatItReturns(t *testing.T) {
	s := newService(t, newStore(t), discovery.Config{TTL: time.Minute, Now: func() time.Time { return noon.Add(1234567) }})
	hostile := described(alice)
	hostile.ID, hostile.Key, hostile.Network, hostile.Sequence = mallory.ID(), mallory.PublicKey(), "other", 9
	hostile.Withdrawn, hostile.Expires = true, noon.AddDate(100, 0, 0)
	published := register(t, s, alice, hostile)

	want := described(alice)
	want.Sequence = uint64(noon.UnixMilli()) + 1
	want.Issued, want.Expires = noon.Add(time.Millisecond), noon.Add(time.Minute+time.Millisecond)
	if !sameDescriptor(published, want) {
		t.Errorf("published\n%+v\nwant\n%+v", published, want)
	}
	if found, err := s.Lookup(t.Context(), alice.ID()); err != nil || !sameDescriptor(found, published) {
		t.Errorf("found\n%+v, %v\npublished\n%+v", found, err, published)
	}
}

// TestSequenceRises has an agent register, renew, leave and come back while the store and the clock
// misbehave.
func TestSequenceRises(t *testing.T) {
	c, memory := testkit.ClockAt(noon), newStore(t)
	s := newService(t, memory, at(c))
	var last uint64
	step := func(what string, do func()) {
		t.Helper()
		do()
		d := must(discovery.Open(entryOf(t, memory, alice)))
		if d.Sequence <= last {
			t.Errorf("%s: the sequence went from %d to %d", what, last, d.Sequence)
		}
		last = d.Sequence
	}
	renew := func() {
		if _, err := s.Renew(t.Context(), alice, discovery.Descriptor{}); err != nil {
			t.Fatal(err)
		}
	}
	leave := func() { withdraw(t, s, alice) }
	step("registered", func() { register(t, s, alice, discovery.Descriptor{}) })
	step("renewed at the same moment", renew)
	step("left", leave)
	step("came back", renew)
	c.Add(-time.Hour)
	step("clock set back", renew)
	step("left by a clock set back", leave)
	c.Add(time.Hour + time.Minute)
	lose(t, memory, alice)
	step("store lost the entry", renew)
	c.Add(time.Millisecond)
	overwrite(t, memory, keyOf(alice), []byte("rubbish"))
	step("entry overwritten with rubbish", renew)
	c.Add(time.Millisecond)
	overwrite(t, memory, keyOf(alice), must(discovery.Sign(mallory, described(mallory))))
	step("entry overwritten with another's", renew)
	overwrite(t, memory, keyOf(alice), must(discovery.Sign(alice, described(alice))))
	c.Add(time.Millisecond)
	step("entry rolled back", leave)
}

// TestTombstoneOutlivesEveryEarlierDescriptor withdraws what another process published for longer.
func TestTombstoneOutlivesEveryEarlierDescriptor(t *testing.T) {
	c, memory := testkit.ClockAt(noon), newStore(t)
	long := newService(t, memory, discovery.Config{Now: c.Now, TTL: time.Hour})
	short := newService(t, memory, discovery.Config{Now: c.Now, TTL: time.Second})
	before := register(t, long, alice, discovery.Descriptor{})
	c.Add(-time.Minute)
	withdraw(t, short, alice)
	tombstone := must(discovery.Open(entryOf(t, memory, alice)))
	if !tombstone.Withdrawn || tombstone.Expires.Before(before.Expires) {
		t.Errorf("the tombstone %+v runs out before %v", tombstone, before.Expires)
	}
	if tombstone.Name != "" || tombstone.Capabilities != nil {
		t.Errorf("the tombstone says more than that: %+v", tombstone)
	}
}

func TestPublishTriesAgainAgainstOtherWriters(t *testing.T) {
	memory := newStore(t)
	left := 3
	s := newService(t, &failing{Store: memory, put: func() error {
		if left--; left < 0 {
			return nil
		}
		return store.ErrConflict
	}}, discovery.Config{})
	register(t, s, alice, discovery.Descriptor{})
	left = 1000
	if _, err := s.Register(t.Context(), alice, discovery.Descriptor{}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Register against endless conflicts: %v", err)
	}
	if left < 900 {
		t.Errorf("%d attempts", 1000-left)
	}
}

func TestErrorsOfTheStoreAreReturned(t *testing.T) {
	broken := errors.New("disk on fire")
	fail := func() error { return broken }
	memory := newStore(t)
	register(t, newService(t, memory, discovery.Config{}), alice, discovery.Descriptor{})
	for name, f := range map[string]*failing{"get": {get: fail}, "put": {put: fail}} {
		f.Store = memory
		s := newService(t, f, discovery.Config{})
		if _, err := s.Register(t.Context(), alice, discovery.Descriptor{}); !errors.Is(err, broken) {
			t.Errorf("%s: Register: %v", name, err)
		}
		if err := s.Withdraw(t.Context(), alice); !errors.Is(err, broken) {
			t.Errorf("%s: Withdraw: %v", name, err)
		}
	}
	s := newService(t, &failing{Store: memory, get: fail, list: fail}, discovery.Config{})
	if _, err := s.Lookup(t.Context(), alice.ID()); !errors.Is(err, broken) {
		t.Errorf("Lookup: %v", err)
	}
	if _, err := s.Query(t.Context(), discovery.Query{}); !errors.Is(err, broken) {
		t.Errorf("Query: %v", err)
	}
}

func TestRegisterRefusesWhatCannotBeSigned(t *testing.T) {
	memory := newStore(t)
	s := newService(t, memory, discovery.Config{})
	if _, err := s.Register(t.Context(), alice, discovery.Descriptor{Name: "\xff"}); err == nil {
		t.Error("registered")
	}
	if _, err := memory.Get(t.Context(), keyOf(alice)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the store has it: %v", err)
	}
}

func expectNotFound(t *testing.T, s *discovery.Service, id *identity.Identity, what string) {
	t.Helper()
	if d, err := s.Lookup(t.Context(), id.ID()); !errors.Is(err, discovery.ErrNotFound) {
		t.Errorf("%s: Lookup returns %+v, %v; want ErrNotFound", what, d, err)
	}
	if all := must(s.Query(t.Context(), discovery.Query{})); slices.ContainsFunc(all, func(d discovery.Descriptor) bool { return d.ID == id.ID() }) {
		t.Errorf("%s: Query finds it", what)
	}
}

func TestAgentIsFoundFromRegistrationToExpiryOrWithdrawal(t *testing.T) {
	c, memory := testkit.ClockAt(noon), newStore(t)
	s := newService(t, memory, discovery.Config{Now: c.Now, TTL: time.Minute})
	expectNotFound(t, s, alice, "before it registers")
	register(t, s, alice, discovery.Descriptor{})
	register(t, s, bob, discovery.Descriptor{})
	c.Add(time.Minute - time.Millisecond)
	if _, err := s.Lookup(t.Context(), alice.ID()); err != nil {
		t.Errorf("before it expires: %v", err)
	}
	c.Add(time.Millisecond)
	expectNotFound(t, s, alice, "at its expiry")
	register(t, s, bob, discovery.Descriptor{})
	if _, err := s.Lookup(t.Context(), bob.ID()); err != nil {
		t.Errorf("renewed: %v", err)
	}
	withdraw(t, s, bob)
	expectNotFound(t, s, bob, "withdrawn")
	expectNotFound(t, newService(t, memory, at(c)), bob, "withdrawn, for another service")
}

func TestDescriptorOfAnotherNetworkDoesNotCount(t *testing.T) {
	memory := newStore(t)
	elsewhere, here := newService(t, memory, discovery.Config{Network: "elsewhere"}), newService(t, memory, discovery.Config{})
	register(t, elsewhere, alice, discovery.Descriptor{})
	expectNotFound(t, here, alice, "of another network")
	foreign := must(memory.Get(t.Context(), "discovery/elsewhere/"+alice.ID().String()))
	overwrite(t, memory, keyOf(alice), foreign.Value)
	expectNotFound(t, here, alice, "of another network, in the place of one of this network")
}

func TestNetworksShareAStore(t *testing.T) {
	memory := newStore(t)
	elsewhere, here := newService(t, memory, discovery.Config{Network: "elsewhere"}), newService(t, memory, discovery.Config{})
	register(t, elsewhere, alice, discovery.Descriptor{Name: "there"})
	register(t, here, alice, discovery.Descriptor{Name: "here"})
	for s, want := range map[*discovery.Service]string{elsewhere: "there", here: "here"} {
		if d, err := s.Lookup(t.Context(), alice.ID()); err != nil || d.Name != want {
			t.Errorf("Lookup = %q, %v, want %q", d.Name, err, want)
		}
	}
}

func TestDescriptorFromTheFutureDoesNotCount(t *testing.T) {
	c, memory := testkit.ClockAt(noon.Add(message.DefaultSkew+time.Second)), newStore(t)
	register(t, newService(t, memory, at(c)), alice, discovery.Descriptor{})
	expectNotFound(t, newService(t, memory, at(testkit.ClockAt(noon))), alice, "issued in the future")
}

// TestForgedEntriesArePassedOver fills the store with whatever Mallory can come up with.
func TestForgedEntriesArePassedOver(t *testing.T) {
	c, memory := testkit.ClockAt(noon), newStore(t)
	s := newService(t, memory, at(c))
	for key, value := range map[string][]byte{
		keyOf(alice): []byte("rubbish"),
		keyOf(bob):   must(discovery.Sign(mallory, described(mallory))), // spliced
		keyOf(carol): signed(mallory, kid(carol), by(carol).encode()),
		"discovery/test.example/" + strings.ToUpper(carol.ID().String()): must(discovery.Sign(carol, described(carol))),
		"discovery/test.example/x/" + carol.ID().String():                must(discovery.Sign(carol, described(carol))),
		keyOf(carol) + "/x":         must(discovery.Sign(carol, described(carol))),
		"discovery/test.example/x":  {},
		"discovery/test.examplex/y": must(discovery.Sign(carol, described(carol))),
	} {
		overwrite(t, memory, key, value)
	}
	for _, victim := range []*identity.Identity{alice, bob, carol, mallory} {
		expectNotFound(t, s, victim, "forged")
	}
	register(t, s, alice, described(alice))
	if found := must(s.Query(t.Context(), discovery.Query{})); len(found) != 1 || found[0].ID != alice.ID() {
		t.Errorf("once Alice has registered, Query finds %+v", found)
	}
}

// TestStoreThatGoesBackIsNotFollowed puts older descriptors in the place of newer ones. A service that
// has seen the newer one keeps to it.
func TestStoreThatGoesBackIsNotFollowed(t *testing.T) {
	c, memory := testkit.ClockAt(noon), newStore(t)
	s := newService(t, memory, discovery.Config{Now: c.Now, TTL: time.Minute})
	register(t, s, alice, discovery.Descriptor{Name: "old"})
	old := entryOf(t, memory, alice)
	register(t, s, alice, discovery.Descriptor{Name: "new"})
	expect := func(want string) {
		t.Helper()
		if d, err := s.Lookup(t.Context(), alice.ID()); err != nil || d.Name != want {
			t.Errorf("Lookup: %q, %v; want %q", d.Name, err, want)
		}
	}
	expect("new")
	overwrite(t, memory, keyOf(alice), old)
	expect("new")

	withdraw(t, s, alice)
	expectNotFound(t, s, alice, "withdrawn")
	lose(t, memory, alice)
	expectNotFound(t, s, alice, "withdrawn, and the store forgot it")
	overwrite(t, memory, keyOf(alice), old)
	expectNotFound(t, s, alice, "withdrawn, and the store went back")
	c.Add(time.Minute)
	expectNotFound(t, s, alice, "withdrawn, and run out")
	register(t, s, alice, discovery.Descriptor{Name: "back"})
	expect("back")
}

func TestQuery(t *testing.T) {
	s := newService(t, newStore(t), discovery.Config{})
	can := func(names ...string) (all []discovery.Capability) {
		for _, name := range names {
			all = append(all, discovery.Capability{Name: name})
		}
		return all
	}
	listen := func(patterns ...string) (all []message.Pattern) {
		for _, p := range patterns {
			all = append(all, message.MustPattern(p))
		}
		return all
	}
	agents := map[string]*identity.Identity{}
	for i, d := range []discovery.Descriptor{
		{Name: "a", Capabilities: can("read", "write"), Topics: listen("orders.*")},
		{Name: "b", Capabilities: can("read"), Topics: listen("refunds", "orders.eu")},
		{Name: "c", Capabilities: can("write", "readonly")},
		{Name: "d", Topics: listen("orders.>@2")},
	} {
		agents[d.Name] = agent(byte(10 + i))
		register(t, s, agents[d.Name], d)
	}
	topics := func(names ...string) (all []message.Topic) {
		for _, name := range names {
			all = append(all, message.MustTopic(name))
		}
		return all
	}
	for _, c := range []struct {
		query discovery.Query
		want  string
	}{
		{discovery.Query{}, "abcd"},
		{discovery.Query{Capabilities: []string{"read"}}, "ab"},
		{discovery.Query{Capabilities: []string{"write", "read"}}, "a"},
		{discovery.Query{Capabilities: []string{"read", "fly"}}, ""},
		{discovery.Query{Topics: topics("orders.eu")}, "ab"},
		{discovery.Query{Topics: topics("orders.eu@2")}, "abd"},
		{discovery.Query{Topics: topics("refunds", "orders.us")}, "ab"},
		{discovery.Query{Topics: topics("orders")}, ""},
		{discovery.Query{Topics: topics("refunds"), Capabilities: []string{"write"}}, ""},
		{discovery.Query{Topics: topics("orders.eu"), Capabilities: []string{"write"}}, "a"},
	} {
		var want []string // in the order of IDs
		for _, name := range strings.Split(c.want, "") {
			want = append(want, agents[name].ID().String())
		}
		slices.Sort(want)
		var got []string
		for _, d := range must(s.Query(t.Context(), c.query)) {
			got = append(got, d.ID.String())
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v finds %v; want %v (%s)", c.query, got, want, c.want)
		}
	}
}
