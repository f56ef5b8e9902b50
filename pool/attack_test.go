package pool_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store"
)

// payloadOf returns what is signed in a record.
func payloadOf(t testing.TB, raw []byte) []byte {
	t.Helper()
	return must(cose.Parse(raw)).Payload
}

// resigned returns the statement of somebody with another payload, by another signer.
func resigned(as, signer *identity.Identity, domain cose.Domain, typ string, payload []byte) []byte {
	id := as.ID()
	return cose.SignStatement(signer, id[:], domain, typ, payload)
}

const (
	poolTyp   = "application/converge-pool"
	memberTyp = "application/converge-member"
)

// underAttack runs an attack on the store, in which Alice owns pools p, of Bob, and q, of nobody. The attack is
// seen by a manager that follows, one that has read before, and one that comes afterwards, which are then to
// see Bob as the only member of p still, and nobody in q.
func underAttack(t *testing.T, attack func(t *testing.T, s store.Store)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		following, reading := follow(t, newManager(t, s)), newManager(t, s)
		create(t, following, pool.Spec{Name: "p", Admission: pool.Allowlist, Allowlist: []identity.ID{bob.ID()}, Topics: []string{"t"}})
		create(t, following, pool.Spec{Name: "q", Admission: pool.ByToken, Token: secret})
		join(t, following, bob, "p")
		expectMembers(t, reading, "p", bob)
		attack(t, s)
		for _, m := range []*pool.Manager{following, reading, newManager(t, s), follow(t, newManager(t, s))} {
			expectMembers(t, m, "p", bob)
			if d := must(m.Get(t.Context(), "p")); d.Owner != alice.ID() || d.Admission != pool.Allowlist {
				t.Errorf("the pool has become %+v", d)
			}
			expectMembers(t, m, "q")
		}
	})
}

func TestAlteredAdmissionIsRefused(t *testing.T) {
	underAttack(t, func(t *testing.T, s store.Store) {
		raw := entryOf(t, s, definitionKey("p"))
		id := bob.ID()
		altered := bytes.Replace(payloadOf(t, raw), id[:], kid(mallory), 1)
		genuine := must(cose.Parse(raw))
		genuine.Payload = altered
		other := newStore(t) // only to see that Mallory may do as she likes there
		for _, forged := range [][]byte{
			genuine.Append(nil), // the old signature
			resigned(alice, mallory, cose.DomainPool, poolTyp, altered),     // her signature in Alice's name
			resigned(mallory, mallory, cose.DomainPool, poolTyp, altered),   // and in her own
			resigned(alice, alice, cose.DomainMember, poolTyp, altered),     // Alice's signature of something else
			resigned(alice, alice, cose.DomainDescriptor, poolTyp, altered), //
		} {
			overwrite(t, other, definitionKey("p"), forged)
			if d, err := newManager(t, other).Get(t.Context(), "p"); err == nil {
				t.Errorf("a forged pool: %+v", d)
			}
			overwrite(t, s, definitionKey("p"), forged)
			synctest.Wait()
		}
		overwrite(t, s, definitionKey("p"), raw)
	})
}

func kid(id *identity.Identity) []byte {
	raw := id.ID()
	return raw[:]
}

// TestPoolIsNotRecreatedOverItsOwnList: the store drops Alice's pool, and Mallory makes one of the same name.
func TestPoolIsNotRecreatedOverItsOwnList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := follow(t, newManager(t, s))
		create(t, m, pool.Spec{Name: "p", Admission: pool.Allowlist, Allowlist: []identity.ID{bob.ID()}})
		join(t, m, bob, "p")
		lose(t, s, definitionKey("p"))
		synctest.Wait()
		if m.IsMember("p", bob.ID()) {
			t.Error("a pool that the store withholds has members")
		}
		_, err := m.Create(t.Context(), mallory, open("p"))
		expectError(t, "creating it again here", err, pool.ErrExists)
		elsewhere := newManager(t, s)
		if _, err := elsewhere.Create(t.Context(), mallory, open("p")); err != nil {
			t.Fatal(err) // a manager that has never seen it cannot know
		}
		if elsewhere.IsMember("p", bob.ID()) {
			t.Error("Bob is a member of a pool that he has not joined")
		}
		join(t, elsewhere, mallory, "p")
		synctest.Wait()
		if _, err := m.Members(t.Context(), "p"); !errors.Is(err, pool.ErrNotFound) || m.IsMember("p", mallory.ID()) {
			t.Errorf("who has seen Alice's pool takes Mallory's for it: %v", err)
		}
	})
}

func TestMembershipSplicedElsewhereIsRefused(t *testing.T) {
	underAttack(t, func(t *testing.T, s store.Store) {
		raw := entryOf(t, s, memberKey("p", bob))
		overwrite(t, s, memberKey("q", bob), raw)                              // into another pool
		overwrite(t, s, memberKey("p", mallory), raw)                          // under another agent
		overwrite(t, s, store.Key("pool", "other", "m", "p", hex(bob)), raw)   // into another network
		overwrite(t, s, store.Key("pool", network, "m", "p", "nobody"), raw)   // under no agent
		overwrite(t, s, store.Key("pool", network, "x", "p"), raw)             // nowhere
		overwrite(t, s, definitionKey("r"), entryOf(t, s, definitionKey("p"))) // a pool under another name
		overwrite(t, s, store.Key("pool", "other", "d", "p"), entryOf(t, s, definitionKey("p")))
		other := newManager(t, s, func(c *pool.Config) { c.Network = "other" })
		if other.IsMember("p", bob.ID()) {
			t.Error("a pool of another network counts")
		}
		if _, err := newManager(t, s).Get(t.Context(), "r"); !errors.Is(err, pool.ErrNotFound) {
			t.Errorf("a pool under another name: %v", err)
		}
	})
}

func hex(id *identity.Identity) string { return id.ID().String() }

// TestNobodyIsEnrolledByOthers: Mallory writes memberships past the managers that should have admitted them.
func TestNobodyIsEnrolledByOthers(t *testing.T) {
	underAttack(t, func(t *testing.T, s store.Store) {
		// A store of her own has the same pools, which let her in.
		own := newStore(t)
		lax := newManager(t, own)
		create(t, lax, open("p"))
		create(t, lax, pool.Spec{Name: "q", Admission: pool.ByToken, Token: secret[:16]})
		join(t, lax, mallory, "p")
		must(lax.Join(t.Context(), mallory, "q", secret[:16]))
		join(t, lax, carol, "p")
		for _, name := range []string{"p", "q"} { // not on the list; with the proof of another token
			overwrite(t, s, memberKey(name, mallory), entryOf(t, own, memberKey(name, mallory)))
		}
		genuine := must(cose.Parse(entryOf(t, own, memberKey("p", carol)))).Payload
		overwrite(t, s, memberKey("p", carol), resigned(carol, mallory, cose.DomainMember, memberTyp, genuine))
		// Bob's proof of the token does not make Mallory a member.
		must(newManager(t, own).Join(t.Context(), bob, "q", secret[:16]))
		bobs := must(cose.Parse(entryOf(t, own, memberKey("q", bob)))).Payload
		stolen := bytes.Replace(bobs, bob.PublicKey(), mallory.PublicKey(), 1)
		overwrite(t, own, memberKey("q", mallory), resigned(mallory, mallory, cose.DomainMember, memberTyp, stolen))
		if newManager(t, own).IsMember("q", mallory.ID()) {
			t.Error("a proof that somebody else has made admits")
		}
	})
}

func TestRolledBackDefinitionIsNotFollowed(t *testing.T) {
	t.Parallel()
	for name, attached := range map[string]bool{"following": true, "reading": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				m := newManager(t, s)
				if attached {
					follow(t, m)
				}
				create(t, m, open("p"))
				join(t, m, bob, "p")
				join(t, m, carol, "p")
				before := entryOf(t, s, definitionKey("p"))
				if err := m.Expel(t.Context(), alice, "p", bob.ID()); err != nil {
					t.Fatal(err)
				}
				overwrite(t, s, definitionKey("p"), before)
				expectMembers(t, m, "p", carol)
				_, err := m.Join(t.Context(), bob, "p", nil)
				expectError(t, "joining what was rolled back", err, pool.ErrStale)
				lose(t, s, definitionKey("p"))
				synctest.Wait()
				overwrite(t, s, definitionKey("p"), before)
				synctest.Wait()
				if m.IsMember("p", bob.ID()) {
					t.Error("forgetting the definition first, the store can roll it back")
				}
			})
		})
	}
}

func TestMembershipReplayedAfterLeavingDoesNotCount(t *testing.T) {
	t.Parallel()
	for name, attached := range map[string]bool{"following": true, "reading": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				m := newManager(t, s)
				if attached {
					follow(t, m)
				}
				create(t, m, open("p"))
				join(t, m, bob, "p")
				before := entryOf(t, s, memberKey("p", bob))
				if err := m.Leave(t.Context(), bob, "p"); err != nil {
					t.Fatal(err)
				}
				overwrite(t, s, memberKey("p", bob), before)
				expectMembers(t, m, "p")
				lose(t, s, memberKey("p", bob))
				synctest.Wait()
				overwrite(t, s, memberKey("p", bob), before)
				expectMembers(t, m, "p")
				join(t, m, bob, "p") // he can come back himself
				expectMembers(t, m, "p", bob)
			})
		})
	}
}

func TestDissolvedPoolIsNotRevived(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := follow(t, newManager(t, s))
		create(t, m, open("p"))
		join(t, m, bob, "p")
		definition, member := entryOf(t, s, definitionKey("p")), entryOf(t, s, memberKey("p", bob))
		if err := m.Dissolve(t.Context(), alice, "p"); err != nil {
			t.Fatal(err)
		}
		overwrite(t, s, definitionKey("p"), definition)
		overwrite(t, s, memberKey("p", bob), member)
		synctest.Wait()
		if m.IsMember("p", bob.ID()) || len(must(m.List(t.Context()))) > 0 {
			t.Error("a dissolved pool is back")
		}
	})
}

// TestRubbishTakesNobodysPlace: whoever can write to the store can withhold, but what a manager knows stays.
func TestRubbishTakesNobodysPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		f := &failing{Store: s}
		m := follow(t, newManager(t, f))
		create(t, m, open("p"))
		join(t, m, bob, "p")
		for _, rubbish := range [][]byte{nil, {0}, bytes.Repeat([]byte{0xff}, 1000), make([]byte, store.MaxValue)} {
			overwrite(t, s, definitionKey("p"), rubbish)
			overwrite(t, s, memberKey("p", bob), rubbish)
			overwrite(t, s, memberKey("p", carol), rubbish)
			expectMembers(t, m, "p", bob)
			f.interrupt(store.ErrCompacted) // it reads everything again
			time.Sleep(time.Minute)
			expectMembers(t, m, "p", bob)
		}
		if err := m.Leave(t.Context(), bob, "p"); err != nil { // in spite of what stands in the place
			t.Error(err)
		}
		expectMembers(t, m, "p")
		fresh := newManager(t, s)
		_, err := fresh.Join(t.Context(), bob, "p", nil)
		expectError(t, "joining rubbish", err, pool.ErrRecord)
		_, err = fresh.Edit(t.Context(), alice, "p", func(*pool.Spec) error { return nil })
		expectError(t, "editing rubbish", err, pool.ErrRecord)
	})
}

// failing is a store whose watches can be ended.
type failing struct {
	store.Store
	end atomic.Pointer[context.CancelCauseFunc]
}

func (f *failing) interrupt(err error) { (*f.end.Load())(err) }

func (f *failing) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	ctx, end := context.WithCancelCause(ctx)
	f.end.Store(&end)
	return f.Store.Watch(ctx, prefix, after)
}

// TestChangesWhileTheStoreCannotBeFollowed are all there afterwards.
func TestChangesWhileTheStoreCannotBeFollowed(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{"compacted": store.ErrCompacted, "broken": errors.New("broken")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				f := &failing{Store: s}
				m, other := follow(t, newManager(t, f)), newManager(t, s)
				create(t, m, open("p"))
				join(t, m, bob, "p")
				synctest.Wait()
				f.interrupt(cause)
				synctest.Wait()
				if err := m.Healthy(); !errors.Is(err, cause) {
					t.Errorf("health: %v, want %v", err, cause)
				}
				join(t, other, carol, "p")
				lose(t, s, memberKey("p", bob))
				create(t, other, open("q"))
				join(t, other, bob, "q")
				time.Sleep(time.Minute)
				if err := m.Healthy(); err != nil {
					t.Errorf("health: %v", err)
				}
				expectMembers(t, m, "p", carol)
				expectMembers(t, m, "q", bob)
			})
		})
	}
}

// TestStoreThatHangsHoldsUpNobodyWhoAsks: what strangers can cause does not wait for the store.
func TestStoreThatHangsHoldsUpNobodyWhoAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		create(t, newManager(t, s), open("p"))
		join(t, newManager(t, s), bob, "p")
		broken := newManager(t, hanging{s})
		defer broken.Attach(func(pool.Change) {})() // in vain
		start := time.Now()
		if broken.IsMember("p", bob.ID()) || len(broken.Pools(bob.ID())) > 0 || time.Since(start) > 0 {
			t.Errorf("attached: a member after %v", time.Since(start))
		}
		if newManager(t, hanging{s}).IsMember("p", bob.ID()) || time.Since(start) > 5*time.Second {
			t.Errorf("reading: a member after %v", time.Since(start))
		}
		if broken.Healthy() == nil {
			t.Error("it says that it follows the store")
		}
	})
}

// hanging is a store that answers no question, and cannot be watched.
type hanging struct{ store.Store }

func (hanging) Get(ctx context.Context, _ string) (store.Entry, error) {
	<-ctx.Done()
	return store.Entry{}, context.Cause(ctx)
}

func (hanging) Watch(context.Context, string, store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) { yield(store.Event{}, errors.New("broken")) }
}

func TestOnlyMembersPublishOnAPoolsTopics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := follow(t, newManager(t, newStore(t)))
		create(t, m, pool.Spec{Name: "p", Admission: pool.Open, Topics: []string{"a", "b.c"}})
		create(t, m, pool.Spec{Name: "q", Admission: pool.Open, Topics: []string{"a"}})
		join(t, m, bob, "p")
		tests := []struct {
			topics []string
			bob    bool
			carol  bool
		}{
			{nil, true, true}, // direct, or to all
			{[]string{"orders.eu", "pools.p.a", "po"}, true, true},
			{[]string{"pool.p.a"}, true, false},
			{[]string{"pool.p.b.c@2?x=y"}, true, false},
			{[]string{"orders.eu", "pool.p.a", "pool.p.b.c"}, true, false},
			{[]string{"pool.p.a", "pool.q.a"}, false, false}, // in one of two
			{[]string{"pool.p.b"}, false, false},             // no such topic
			{[]string{"pool.p.a.b"}, false, false},
			{[]string{"pool.p"}, false, false},
			{[]string{"pool"}, false, false},
			{[]string{"pool.none.a"}, false, false},
			{[]string{"pool._70.a"}, false, false}, // another spelling
		}
		for _, test := range tests {
			var topics []message.Topic
			for _, text := range test.topics {
				topics = append(topics, message.MustTopic(text))
			}
			for id, want := range map[*identity.Identity]bool{bob: test.bob, carol: test.carol} {
				g := pool.NewGate(m, id.ID())
				d, err := g.PreSend(t.Context(), message.Draft{Topics: topics})
				if (err == nil) != want || (d != nil) != want || err != nil && !errors.Is(err, pool.ErrNotMember) {
					t.Errorf("%s to %v: %v, want %v", id, test.topics, err, want)
				}
				got := received(t, id, topics)
				passed, err := pool.NewGate(m, alice.ID()).PostReceive(t.Context(), got)
				if err != nil || (passed != nil) != want {
					t.Errorf("%s to %v is received as %v, %v", id, test.topics, passed, err)
				}
				none := pool.NewGate(nil, id.ID())
				if err := none.Allowed(id.ID(), topics); (err == nil) != (test.carol) {
					t.Errorf("without a manager, %v: %v", test.topics, err)
				}
			}
		}
		g := pool.NewGate(m, alice.ID())
		former := received(t, bob, []message.Topic{message.MustTopic("pool.p.a")})
		if err := m.Leave(t.Context(), bob, "p"); err != nil {
			t.Fatal(err)
		}
		if passed, err := g.PostReceive(t.Context(), former); passed != nil || err != nil || g.Dropped() != 1 {
			t.Errorf("from a former member: %v, %v, %d dropped", passed, err, g.Dropped())
		}
	})
}

// received returns a message as it comes out of verification.
func received(t testing.TB, from *identity.Identity, topics []message.Topic) *message.Message {
	t.Helper()
	s := must(message.NewSigner(message.SignerConfig{Identity: from, Network: network}))
	return must(s.Sign(t.Context(), message.Draft{Topics: topics, Body: []byte("x")}))
}

// TestIdentityChurnFillsNeitherMemoryNorStore: agents that come and go under ever new identities leave a bounded
// number of tombstones, and the pool goes on.
func TestIdentityChurnFillsNeitherMemoryNorStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := follow(t, newManager(t, s))
		m.RememberGone(10)
		spec := open("p")
		spec.MaxMembers = 5
		create(t, m, spec)
		for i := range byte(25) {
			time.Sleep(time.Second) // the longest gone are forgotten first
			join(t, m, agent(100+i), "p")
			if err := m.Leave(t.Context(), agent(100+i), "p"); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for range s.List(t.Context(), store.Key("pool", network, "m", "p")) {
			n++
		}
		if n > 10 || m.Known("p") > 2*5+10 {
			t.Errorf("%d tombstones in the store, %d in memory", n, m.Known("p"))
		}
		join(t, m, bob, "p")
		expectMembers(t, m, "p", bob)
	})
}

// TestFloodOfMemberships: Mallory writes more memberships of identities of her own into the store than there
// are seats. Who was there before keeps its seat, and memory is bounded.
func TestFloodOfMemberships(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, own := newStore(t), newStore(t)
		m := follow(t, newManager(t, s))
		m.RememberGone(10)
		spec := open("p")
		spec.MaxMembers = 3
		create(t, m, spec)
		join(t, m, bob, "p")
		other := newManager(t, own)
		create(t, other, open("p"))
		for i := range byte(25) {
			join(t, other, agent(100+i), "p")
			overwrite(t, s, memberKey("p", agent(100+i)), entryOf(t, own, memberKey("p", agent(100+i))))
		}
		synctest.Wait()
		for _, m := range []*pool.Manager{m, newManager(t, s)} {
			if n := len(must(m.Members(t.Context(), "p"))); n != 3 || !m.IsMember("p", bob.ID()) {
				t.Errorf("%d members, Bob among them: %v", n, m.IsMember("p", bob.ID()))
			}
		}
		if m.Known("p") > 2*3+10 {
			t.Errorf("%d agents are known", m.Known("p"))
		}
	})
}
