package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store"
)

func TestLifeOfAPool(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		one, two := manager(), manager()
		d := create(t, one, pool.Spec{Name: "painters", Topics: []string{"b", "a.c", "b"}, Admission: pool.Open, Governance: "majority"})
		if d.Owner != alice.ID() || d.MaxMembers != pool.DefaultMaxMembers || !slices.Equal(d.Topics, []string{"a.c", "b"}) {
			t.Errorf("created %+v", d)
		}
		if _, err := two.Create(t.Context(), bob, open("painters")); !errors.Is(err, pool.ErrExists) {
			t.Errorf("a second pool of the name: %v", err)
		}
		expectMembers(t, two, "painters") // the owner is none yet
		join(t, two, bob, "painters")
		join(t, one, alice, "painters")
		first := must(one.Join(t.Context(), carol, "painters", nil))
		again := must(two.Join(t.Context(), carol, "painters", nil))
		if first.Sequence != again.Sequence {
			t.Error("joining twice makes two memberships")
		}
		expectMembers(t, one, "painters", alice, bob, carol)
		expectMembers(t, two, "painters", alice, bob, carol)

		if err := one.Leave(t.Context(), bob, "painters"); err != nil {
			t.Fatal(err)
		}
		expectError(t, "leaving twice", two.Leave(t.Context(), bob, "painters"), pool.ErrNotMember)
		expectError(t, "leaving without having joined", two.Leave(t.Context(), mallory, "painters"), pool.ErrNotMember)
		expectMembers(t, two, "painters", alice, carol)
		join(t, two, bob, "painters")
		expectMembers(t, one, "painters", alice, bob, carol)

		expectError(t, "expelling as somebody else", two.Expel(t.Context(), bob, "painters", carol.ID()), pool.ErrNotOwner)
		if err := two.Expel(t.Context(), alice, "painters", carol.ID()); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, one, "painters", alice, bob)
		_, err := one.Join(t.Context(), carol, "painters", nil)
		expectError(t, "joining after having been expelled", err, pool.ErrNotAdmitted)
		if err := one.Pardon(t.Context(), alice, "painters", carol.ID()); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, two, "painters", alice, bob, carol)

		expectError(t, "dissolving as somebody else", one.Dissolve(t.Context(), bob, "painters"), pool.ErrNotOwner)
		if err := one.Dissolve(t.Context(), alice, "painters"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, m := range []*pool.Manager{one, two} {
			if m.IsMember("painters", alice.ID()) || len(m.Pools(bob.ID())) > 0 || len(must(m.List(t.Context()))) > 0 {
				t.Error("a dissolved pool has members")
			}
			if _, err := m.Create(t.Context(), alice, open("painters")); !errors.Is(err, pool.ErrExists) {
				t.Errorf("a pool over a dissolved one: %v", err)
			}
			_, err := m.Join(t.Context(), bob, "painters", nil)
			expectError(t, "joining a dissolved pool", err, pool.ErrDissolved)
			if d := must(m.Get(t.Context(), "painters")); !d.Dissolved {
				t.Error("it is not shown as dissolved")
			}
		}
	})
}

func TestEdit(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		m := manager()
		create(t, m, open("p"))
		join(t, m, bob, "p")
		join(t, m, carol, "p")
		edit := func(change func(*pool.Spec)) error {
			_, err := m.Edit(t.Context(), alice, "p", func(s *pool.Spec) error { change(s); return nil })
			return err
		}
		if err := edit(func(s *pool.Spec) { s.Admission, s.Allowlist = pool.Allowlist, []identity.ID{carol.ID()} }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p", carol)
		if err := edit(func(s *pool.Spec) { s.Allowlist = nil }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p") // an empty list admits nobody
		if err := edit(func(s *pool.Spec) { s.Admission = pool.Open; s.Topics = []string{"x"} }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p", bob, carol)
		if topics := m.Topics(bob.ID()); len(topics) != 1 || topics[0].String() != "pool.p.x" {
			t.Errorf("Bob's topics: %v", topics)
		}
		expectError(t, "another name", edit(func(s *pool.Spec) { s.Name = "q" }), pool.ErrInvalid)
		expectError(t, "NaN", edit(func(s *pool.Spec) { s.Trust = math.NaN() }), pool.ErrInvalid)
		_, err := m.Edit(t.Context(), bob, "p", func(*pool.Spec) error { return nil })
		expectError(t, "not the owner", err, pool.ErrNotOwner)
		mine := errors.New("mine")
		_, err = m.Edit(t.Context(), alice, "p", func(*pool.Spec) error { return mine })
		expectError(t, "change's error", err, mine)
		_, err = m.Edit(t.Context(), alice, "none", func(*pool.Spec) error { return nil })
		expectError(t, "no pool", err, pool.ErrNotFound)
	})
}

func TestTokenAdmission(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		m, other := manager(), manager()
		create(t, m, pool.Spec{Name: "p", Admission: pool.ByToken, Token: secret})
		almost := slices.Clone(secret)
		almost[3] ^= 1
		var texts []string
		for _, wrong := range []pool.Token{nil, {}, almost, secret[:5], secret[:len(secret)-1], append(slices.Clone(secret), 'x'), make([]byte, 1<<16)} {
			_, err := m.Join(t.Context(), bob, "p", wrong)
			expectError(t, fmt.Sprintf("a token of %d bytes", len(wrong)), err, pool.ErrNotAdmitted)
			texts = append(texts, err.Error())
		}
		if len(slices.Compact(texts)) != 1 {
			t.Errorf("wrong tokens are told apart: %q", texts)
		}
		if _, err := m.Join(t.Context(), bob, "p", secret); err != nil {
			t.Fatal(err)
		}
		join(t, m, alice, "p") // the owner needs none
		expectMembers(t, other, "p", alice, bob)
		// An edit that does not name a token keeps it; another token ends what the old one began.
		if _, err := other.Edit(t.Context(), alice, "p", func(s *pool.Spec) error { s.Topics = []string{"t"}; return nil }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p", alice, bob)
		if _, err := other.Edit(t.Context(), alice, "p", func(s *pool.Spec) error { s.Token = slices.Clone(secret); return nil }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p", alice, bob) // it is the same
		next := pool.NewToken()
		if _, err := m.Edit(t.Context(), alice, "p", func(s *pool.Spec) error { s.Token = next; return nil }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, other, "p", alice)
		_, err := other.Join(t.Context(), bob, "p", secret)
		expectError(t, "the old token", err, pool.ErrNotAdmitted)
		if _, err := other.Join(t.Context(), bob, "p", next); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p", alice, bob)
	})
}

func TestTokenIsNowhereToBeSeen(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var logged strings.Builder
	m := newManager(t, s, func(c *pool.Config) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
	d := create(t, m, pool.Spec{Name: "p", Admission: pool.ByToken, Token: secret})
	_, wrong := m.Join(t.Context(), bob, "p", append(slices.Clone(secret), "!"...))
	_, short := m.Create(t.Context(), alice, pool.Spec{Name: "q", Admission: pool.ByToken, Token: secret[:8]})
	if _, err := m.Join(t.Context(), bob, "p", secret); err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprint(wrong, short, logged.String()) + fmt.Sprintf("%v %+v %#v %s %x %q", d, d, d, secret, secret, secret)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("join", "token", secret)
	shown += logged.String()
	for e := range s.List(t.Context(), "") {
		shown += string(e.Value)
	}
	if strings.Contains(shown, string(secret[:8])) || strings.Contains(shown, fmt.Sprintf("%x", []byte(secret[:8]))) || len(d.Token) > 0 {
		t.Error("the token can be seen")
	}
	if text, err := json.Marshal(pool.Spec{Name: "p", Admission: pool.ByToken, Token: secret}); err == nil {
		t.Errorf("a token was written down: %s", text)
	}
	expectError(t, "a token of 8 bytes", short, pool.ErrInvalid)
	if a, b := pool.NewToken(), pool.NewToken(); len(a) != 43 || string(a) == string(b) {
		t.Error("NewToken is not random")
	}
}

func TestCustomAdmission(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		with := func(f pool.AdmitFunc) *pool.Manager {
			return manager(func(c *pool.Config) { c.Admit = map[string]pool.AdmitFunc{"staff": f} })
		}
		staff := func(_ context.Context, c pool.Candidate) bool {
			if c.Member == carol.ID() {
				panic("no idea")
			}
			return c.Member == bob.ID() && (!c.Joining || string(c.Token) == "shown")
		}
		m, unknowing := with(staff), manager()
		create(t, m, pool.Spec{Name: "p", Admission: pool.Custom, Custom: "staff"})
		if _, err := m.Join(t.Context(), bob, "p", pool.Token("shown")); err != nil {
			t.Fatal(err)
		}
		for _, id := range []*identity.Identity{carol, mallory} {
			_, err := m.Join(t.Context(), id, "p", pool.Token("shown"))
			expectError(t, "not of the staff", err, pool.ErrNotAdmitted)
		}
		_, err := unknowing.Join(t.Context(), bob, "p", pool.Token("shown"))
		expectError(t, "where the function is not known", err, pool.ErrNotAdmitted)
		expectMembers(t, m, "p", bob)
		expectMembers(t, unknowing, "p") // whose admission is unknown, has no members
		// Another process has let somebody in that this one would not have.
		lax := with(func(context.Context, pool.Candidate) bool { return true })
		join(t, lax, mallory, "p")
		expectMembers(t, m, "p", bob)
		expectMembers(t, lax, "p", bob, mallory)
	})
}

func TestTrust(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		trust := map[identity.ID]float64{bob.ID(): 0.5, carol.ID(): 0.49, mallory.ID(): math.NaN()}
		m := manager(func(c *pool.Config) { c.Trust = func(id identity.ID) float64 { return trust[id] } })
		create(t, m, pool.Spec{Name: "p", Admission: pool.Open, Trust: 0.5})
		join(t, m, bob, "p")
		for _, id := range []*identity.Identity{carol, mallory} {
			_, err := m.Join(t.Context(), id, "p", nil)
			expectError(t, "not trusted enough", err, pool.ErrNotAdmitted)
		}
		expectMembers(t, m, "p", bob)
		for _, lost := range []float64{0.4, math.NaN(), math.Inf(1), 1.5, -1} {
			trust[bob.ID()] = lost
			expectMembers(t, m, "p")
		}
		trust[bob.ID()] = 1
		expectMembers(t, m, "p", bob)
		untrusting, panicking := manager(), manager(func(c *pool.Config) { c.Trust = func(identity.ID) float64 { panic("no idea") } })
		expectMembers(t, untrusting, "p")
		expectMembers(t, panicking, "p")
	})
}

// revoking is a source of keys that says no to some agents.
type revoking struct {
	registry *identity.Registry
	revoked  *identity.ID
}

var errRevoked = errors.New("revoked")

func (r revoking) Lookup(id identity.ID) (identity.Key, error) {
	if id == *r.revoked {
		return identity.Key{}, errRevoked
	}
	return r.registry.Lookup(id)
}

func TestRevokedKeyEndsMembershipAndPool(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		var revoked identity.ID
		m := manager(func(c *pool.Config) { c.Keys = revoking{identity.NewRegistry(0), &revoked} })
		create(t, m, open("p"))
		join(t, m, bob, "p")
		join(t, m, carol, "p")
		revoked = bob.ID()
		expectMembers(t, m, "p", carol)
		_, err := m.Join(t.Context(), bob, "p", nil)
		expectError(t, "joining with a revoked key", err, pool.ErrNotAdmitted)
		revoked = alice.ID()
		expectMembers(t, m, "p")
	})
}

// rotating is a source of keys that has other keys for agents than those that they signed with, as after a
// rotation, and knows which of the earlier ones were withdrawn.
type rotating struct {
	revoking
}

func (rotating) Lookup(identity.ID) (identity.Key, error) {
	return identity.Key{Public: mallory.PublicKey()}, nil
}

func (r rotating) Recheck(id identity.ID, epoch uint64) error {
	if id == *r.revoked || epoch != 0 {
		return errRevoked
	}
	return nil
}

// TestAgentsWithoutTheirRootKeysHavePools has owner and member work with operational keys, and one of them be withdrawn.
func TestAgentsWithoutTheirRootKeysHavePools(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		registry := identity.NewRegistryWith(identity.RegistryConfig{Logger: slog.New(slog.DiscardHandler)})
		rotate := func(root *identity.Identity, r identity.Rotation) *identity.Identity {
			r.Current = registry.Statement(root.ID())
			working, err := root.Rotate(r)
			if err == nil {
				_, err = registry.RegisterKeys(working.Statement())
			}
			if err != nil {
				t.Fatal(err)
			}
			return working
		}
		m := manager(func(c *pool.Config) { c.Keys = registry })
		owner, member := rotate(alice, identity.Rotation{}), rotate(bob, identity.Rotation{})
		if _, err := m.Create(t.Context(), owner, open("p")); err != nil {
			t.Fatal(err)
		}
		join(t, m, member, "p")
		expectMembers(t, m, "p", bob)
		next := rotate(bob, identity.Rotation{NoOverlap: true}) // the key before was stolen
		expectMembers(t, m, "p")
		_, err := m.Join(t.Context(), member, "p", nil)
		expectError(t, "joining with a key that was withdrawn", err, pool.ErrNotAdmitted)
		join(t, m, next, "p")
		expectMembers(t, m, "p", bob)
		if err := m.Leave(t.Context(), next, "p"); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, m, "p")
	})
}

func TestRotatedKeyEndsNothingUnlessItIsWithdrawn(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		m := manager()
		create(t, m, open("p"))
		join(t, m, bob, "p")
		join(t, m, carol, "p")
		var withdrawn identity.ID
		source := rotating{revoking{identity.NewRegistry(0), &withdrawn}}
		knowing := manager(func(c *pool.Config) { c.Keys = source })
		unknowing := manager(func(c *pool.Config) { c.Keys = onlyLookup{source} })
		expectMembers(t, knowing, "p", bob, carol)
		expectMembers(t, unknowing, "p") // which can only see that the keys are others
		withdrawn = bob.ID()
		expectMembers(t, knowing, "p", carol)
	})
}

type onlyLookup struct{ pool.KeySource }

func TestFullPool(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		m, other := manager(), manager()
		spec := open("p")
		spec.MaxMembers = 2
		create(t, m, spec)
		join(t, m, bob, "p")
		join(t, other, carol, "p")
		synctest.Wait()
		_, err := m.Join(t.Context(), mallory, "p", nil)
		expectError(t, "a third member", err, pool.ErrFull)
		if err := m.Leave(t.Context(), bob, "p"); err != nil {
			t.Fatal(err)
		}
		join(t, m, mallory, "p")
		expectMembers(t, other, "p", carol, mallory)
		// With fewer seats, those who came last lose theirs.
		if _, err := m.Edit(t.Context(), alice, "p", func(s *pool.Spec) error { s.MaxMembers = 1; return nil }); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, other, "p", carol)
		if err := m.Leave(t.Context(), carol, "p"); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, other, "p", mallory)
	})
}

func TestMaxPools(t *testing.T) {
	t.Parallel()
	inBoth(t, func(t *testing.T, s store.Store, manager func(...func(*pool.Config)) *pool.Manager) {
		m := manager(func(c *pool.Config) { c.MaxPools = 2 })
		create(t, m, open("a"))
		create(t, m, open("b"))
		_, err := m.Create(t.Context(), alice, open("c"))
		expectError(t, "a third pool", err, pool.ErrFull)
		if err := m.Dissolve(t.Context(), alice, "a"); err != nil {
			t.Fatal(err)
		}
		create(t, m, open("c"))
	})
}

func TestSpecIsChecked(t *testing.T) {
	t.Parallel()
	m := newManager(t, newStore(t))
	many := make([]string, pool.MaxTopics+1)
	ids := make([]identity.ID, pool.MaxListed+1)
	for i := range many {
		many[i] = fmt.Sprint("t", i)
	}
	for i := range ids {
		ids[i] = identity.ID{1, byte(i), byte(i >> 8)}
	}
	for want, change := range map[string]func(*pool.Spec){
		"Admission is not set":      func(s *pool.Spec) { s.Admission = 0 },
		"Admission is not set; wit": func(s *pool.Spec) { s.Admission = 9 },
		"Allowlist is set":          func(s *pool.Spec) { s.Allowlist = ids[:1] },
		"Allowlist names 4097":      func(s *pool.Spec) { s.Admission, s.Allowlist = pool.Allowlist, ids },
		"Allowlist[0] is the zero":  func(s *pool.Spec) { s.Admission, s.Allowlist = pool.Allowlist, make([]identity.ID, 1) },
		"Token is set":              func(s *pool.Spec) { s.Token = secret },
		"Token has 0 bytes":         func(s *pool.Spec) { s.Admission = pool.ByToken },
		"Token has 15 bytes":        func(s *pool.Spec) { s.Admission, s.Token = pool.ByToken, secret[:15] },
		"Token has 1025 bytes":      func(s *pool.Spec) { s.Admission, s.Token = pool.ByToken, make(pool.Token, 1025) },
		"Custom is set":             func(s *pool.Spec) { s.Custom = "staff" },
		"Custom has 0 bytes":        func(s *pool.Spec) { s.Admission = pool.Custom },
		"Trust is NaN":              func(s *pool.Spec) { s.Trust = math.NaN() },
		"Trust is 1.5":              func(s *pool.Spec) { s.Trust = 1.5 },
		"Trust is -0":               func(s *pool.Spec) { s.Trust = math.Copysign(0, -1) },
		"Governance":                func(s *pool.Spec) { s.Governance = "a b" },
		"MaxMembers is -1":          func(s *pool.Spec) { s.MaxMembers = -1 },
		"MaxMembers is 65537":       func(s *pool.Spec) { s.MaxMembers = pool.MaxMembers + 1 },
		"Topics names 65":           func(s *pool.Spec) { s.Topics = many },
		"Topics: a name has 0":      func(s *pool.Spec) { s.Topics = []string{""} },
		"Topics: \"a@2\"":           func(s *pool.Spec) { s.Topics = []string{"a@2"} },
		"Topics: \">\"":             func(s *pool.Spec) { s.Topics = []string{">"} },
		"Topics: \"a..b\"":          func(s *pool.Spec) { s.Topics = []string{"a..b"} },
	} {
		s := open("p")
		change(&s)
		_, err := m.Create(t.Context(), alice, s)
		if !errors.Is(err, pool.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	m := newManager(t, s)
	for _, name := range []string{"", " ", "a b", "../../etc/passwd\x00", "a\nb", "ä", "p\x1b[2J", "{}", "%2e", strings.Repeat("x", 65), "\xff", "a>b", "*"} {
		_, err := m.Create(t.Context(), alice, open(name))
		expectError(t, "create", err, pool.ErrInvalid)
		_, err = m.Join(t.Context(), bob, name, nil)
		expectError(t, "join", err, pool.ErrInvalid)
		expectError(t, "leave", m.Leave(t.Context(), bob, name), pool.ErrInvalid)
		if _, err := m.Get(t.Context(), name); err == nil || strings.ContainsAny(err.Error(), "\n\x1b\x00") {
			t.Errorf("get: %q", err)
		}
		if m.IsMember(name, bob.ID()) {
			t.Errorf("a member of %q", name)
		}
	}
	for e := range s.List(t.Context(), "") {
		t.Errorf("the store holds %s", e.Key)
	}
	// What looks like a path is a name like any other, and different ones do not meet.
	names := []string{"..", "../p", "p", "P", "p/d", "p_2F", "p/", "_", "_5F", ".", "@", "+", strings.Repeat("/", 64)}
	topics := map[string]string{}
	for _, name := range names {
		spec := open(name)
		spec.Topics = []string{"t"}
		create(t, m, spec)
		join(t, m, bob, name)
		topic := must(pool.Topic(name, "t")).String()
		if other, twice := topics[topic]; twice {
			t.Errorf("%q and %q share topic %s", name, other, topic)
		}
		topics[topic] = name
		if err := m.Allowed(bob.ID(), must2(pool.Topic(name, "t"))); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(names)
	if got := m.Pools(bob.ID()); !slices.Equal(got, names) {
		t.Errorf("Bob's pools: %q", got)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m, other := newManager(t, s), newManager(t, s)
		create(t, other, open("p"))
		create(t, other, open("q"))
		join(t, other, bob, "p")
		names := map[identity.ID]string{alice.ID(): "alice", bob.ID(): "bob", carol.ID(): "carol"}
		var seen []string
		var end error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for e, err := range m.Watch(t.Context(), "p") {
				if err != nil {
					end = err
					break
				}
				seen = append(seen, fmt.Sprint(names[e.Member], e.Joined))
			}
		}()
		for _, step := range []func() error{
			func() error { _, err := other.Join(t.Context(), carol, "p", nil); return err },
			func() error { _, err := other.Join(t.Context(), carol, "q", nil); return err },
			func() error { return other.Leave(t.Context(), bob, "p") },
			func() error { return other.Expel(t.Context(), alice, "p", carol.ID()) },
			func() error { _, err := other.Join(t.Context(), alice, "p", nil); return err },
			func() error { return other.Dissolve(t.Context(), alice, "p") },
		} {
			synctest.Wait()
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		<-done
		if want := []string{"bobtrue", "caroltrue", "bobfalse", "carolfalse", "alicetrue", "alicefalse"}; !slices.Equal(seen, want) {
			t.Errorf("saw %v, want %v", seen, want)
		}
		expectError(t, "the end", end, pool.ErrDissolved)
		for _, err := range m.Watch(t.Context(), "none") {
			expectError(t, "no such pool", err, pool.ErrNotFound)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		cause := errors.New("enough")
		steps := 0
		for _, err := range m.Watch(ctx, "q") {
			if steps++; steps == 1 && err == nil {
				cancel(cause)
			} else {
				expectError(t, "cancelled", err, cause)
			}
		}
	})
}

// TestManyCreateOnePool: of managers that share a store, one creates a pool, and its definition stands.
func TestManyCreateOnePool(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const racers = 8
	managers := make([]*pool.Manager, racers)
	for i := range managers {
		managers[i] = newManager(t, s)
		if i%2 == 0 {
			follow(t, managers[i])
		}
	}
	for round := range 5 {
		name := fmt.Sprint("p", round)
		errs := race(racers, func(i int) error {
			_, err := managers[i].Create(background, agent(byte(100+i)), open(name))
			return err
		})
		winner := slices.Index(errs, nil)
		for i, err := range errs {
			if i != winner && !errors.Is(err, pool.ErrExists) {
				t.Errorf("racer %d: %v", i, err)
			}
		}
		if winner < 0 || must(newManager(t, s).Get(t.Context(), name)).Owner != agent(byte(100+winner)).ID() {
			t.Errorf("winner %d is not the owner", winner)
		}
	}
}

// TestManyJoinForTheLastSeats: however many managers let agents in at the same time, nobody sees more members
// than there are seats, and who was told that it is a member is one for everybody.
func TestManyJoinForTheLastSeats(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const racers, seats = 8, 3
	spec := open("p")
	spec.MaxMembers = seats
	create(t, newManager(t, s), spec)
	managers := make([]*pool.Manager, racers)
	for i := range managers {
		managers[i] = newManager(t, s)
		if i%2 == 0 {
			follow(t, managers[i])
		}
	}
	for range 3 {
		errs := race(racers, func(i int) error {
			_, err := managers[i].Join(background, agent(byte(100+i)), "p", nil)
			if n := len(must(managers[i].Members(background, "p"))); n > seats {
				t.Errorf("%d members", n)
			}
			return err
		})
		fresh := newManager(t, s)
		members := 0
		for i, err := range errs {
			isMember := fresh.IsMember("p", agent(byte(100+i)).ID())
			if err == nil && !isMember || err != nil && !errors.Is(err, pool.ErrFull) {
				t.Errorf("racer %d: %v, member %v", i, err, isMember)
			}
			if isMember {
				members++
				if err := managers[i].Leave(t.Context(), agent(byte(100+i)), "p"); err != nil {
					t.Error(err)
				}
			}
		}
		if members == 0 || members > seats {
			t.Errorf("%d members", members)
		}
	}
}

func TestConcurrentEditsAllCount(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	create(t, newManager(t, s), open("p"))
	errs := race(8, func(i int) error {
		return newManager(t, s).Expel(background, alice, "p", agent(byte(100+i)).ID())
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := len(must(newManager(t, s).Get(t.Context(), "p")).Expelled); n != 8 {
		t.Errorf("%d are expelled, want 8", n)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]pool.Config{
		"Store":    {},
		"Keys":     {Store: newStore(t), Network: network},
		"Network":  {Store: newStore(t), Keys: identity.NewRegistry(0), Network: "A B"},
		"MaxPools": {Store: newStore(t), Keys: identity.NewRegistry(0), Network: network, MaxPools: -1},
		"Admit":    {Store: newStore(t), Keys: identity.NewRegistry(0), Network: network, Admit: map[string]pool.AdmitFunc{"x": nil}},
	} {
		if _, err := pool.New(c); err == nil || !strings.Contains(err.Error(), "pool.Config."+want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
