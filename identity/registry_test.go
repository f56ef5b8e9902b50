package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"maps"
	"sync"
	"testing"

	"filippo.io/edwards25519"

	"github.com/converge-agents/converge/identity"
)

// The encodings of the eight points of low order, and the encodings of them that are not canonical:
// with the sign of a zero x set, and with y + p in place of y. As in table 1 of Chalkias, Garillot and
// Nikolaenko, "Taming the many EdDSAs" (https://eprint.iacr.org/2020/1244).
var lowOrderKeys = []string{
	"0100000000000000000000000000000000000000000000000000000000000000", // order 1
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
	"0000000000000000000000000000000000000000000000000000000000000000", // order 4
	"0000000000000000000000000000000000000000000000000000000000000080", // order 4
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", // order 8
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", // order 8

	"0100000000000000000000000000000000000000000000000000000000000080", // order 1, x = -0
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 1, y = p + 1
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // order 1, y = p + 1, x = -0
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // order 2, x = -0
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 4, y = p
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", // order 4, y = p
}

func TestLowOrderKeysAreRefused(t *testing.T) {
	r := identity.NewRegistry(0)
	for _, text := range lowOrderKeys {
		key := unhex(t, text)
		point, err := new(edwards25519.Point).SetBytes(key)
		if err != nil || new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) != 1 {
			t.Errorf("%s: the list is wrong: not of low order (%v)", text, err)
		}
		if err := r.Register(identity.IDOf(key), key); !errors.Is(err, identity.ErrWeakKey) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if r.Len() != 0 {
		t.Errorf("%d agents are registered", r.Len())
	}
}

// TestNonCanonicalKeysAreRefused tries every encoding with y ≥ p. Most of those that are points are of
// full order, so that only their spelling is at fault.
func TestNonCanonicalKeysAreRefused(t *testing.T) {
	r := identity.NewRegistry(0)
	fullOrder := 0
	for last := 0xed; last <= 0xff; last++ {
		for _, sign := range []byte{0x7f, 0xff} {
			key := bytes.Repeat([]byte{0xff}, 32)
			key[0], key[31] = byte(last), sign
			point, err := new(edwards25519.Point).SetBytes(key)
			if err == nil && new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 0 {
				fullOrder++
				if err := r.Register(identity.IDOf(point.Bytes()), point.Bytes()); err != nil {
					t.Errorf("%x, spelled canonically: %v", key, err)
				}
			}
			if err := r.Register(identity.IDOf(key), key); !errors.Is(err, identity.ErrWeakKey) {
				t.Errorf("%x: %v", key, err)
			}
		}
	}
	if fullOrder == 0 {
		t.Error("no encoding was a point of full order")
	}
}

func TestKeyThatIsNoPointIsRefused(t *testing.T) {
	key := append([]byte{2}, make([]byte, 31)...)
	err := identity.NewRegistry(0).Register(identity.IDOf(key), key)
	if !errors.Is(err, identity.ErrWeakKey) {
		t.Errorf("%v", err)
	}
}

func TestKeyOfWrongLengthIsRefused(t *testing.T) {
	good := fromSeed(t, 1).PublicKey()
	for _, key := range [][]byte{nil, {}, good[:31], append(good, 0), append(good, good...)} {
		err := identity.NewRegistry(0).Register(identity.IDOf(key), key)
		if !errors.Is(err, identity.ErrWeakKey) {
			t.Errorf("%d bytes: %v", len(key), err)
		}
	}
}

func TestKeyUnderForeignIDIsRefused(t *testing.T) {
	victim, attacker := fromSeed(t, 1), fromSeed(t, 2)
	r := identity.NewRegistry(0)
	for _, id := range []identity.ID{victim.ID(), {}} {
		err := r.Register(id, attacker.PublicKey())
		if !errors.Is(err, identity.ErrKeyMismatch) {
			t.Errorf("under %s: %v", id, err)
		}
	}
	if _, err := r.Lookup(victim.ID()); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("lookup: %v", err)
	}
	// Nor does it replace the key of an agent that is known.
	register(t, r, victim)
	if err := r.Register(victim.ID(), attacker.PublicKey()); !errors.Is(err, identity.ErrKeyMismatch) {
		t.Errorf("over the registered one: %v", err)
	}
	if key, err := r.Lookup(victim.ID()); err != nil || !key.Public.Equal(victim.PublicKey()) {
		t.Errorf("lookup: %x, %v", key.Public, err)
	}
}

func TestRegisterLookupUnregister(t *testing.T) {
	a, b := fromSeed(t, 1), fromSeed(t, 2)
	r := identity.NewRegistry(0)
	register(t, r, a, a, b)
	if r.Len() != 2 {
		t.Errorf("%d agents", r.Len())
	}
	if key, err := r.Lookup(a.ID()); err != nil || !key.Public.Equal(a.PublicKey()) {
		t.Errorf("lookup: %x, %v", key.Public, err)
	}
	if !r.Unregister(a.ID()) || r.Unregister(a.ID()) {
		t.Error("Unregister does not say whether the agent was known")
	}
	if _, err := r.Lookup(a.ID()); err != identity.ErrUnknown {
		t.Errorf("lookup after unregistering: %v", err)
	}
	if keys := maps.Collect(r.All()); len(keys) != 1 || !keys[b.ID()].Public.Equal(b.PublicKey()) {
		t.Errorf("All is %v", keys)
	}
}

func TestRegistryKeepsItsOwnCopyOfAKey(t *testing.T) {
	a := fromSeed(t, 1)
	r := identity.NewRegistry(0)
	key := a.PublicKey()
	if err := r.Register(a.ID(), key); err != nil {
		t.Fatal(err)
	}
	key[0] ^= 1
	if got, _ := r.Lookup(a.ID()); !got.Public.Equal(a.PublicKey()) {
		t.Error("a caller changed a registered key")
	}
}

func TestFullRegistryRefusesNewAgentsAndForgetsNone(t *testing.T) {
	a, b, c := fromSeed(t, 1), fromSeed(t, 2), fromSeed(t, 3)
	r := identity.NewRegistry(2)
	register(t, r, a, b)
	if err := r.Register(c.ID(), c.PublicKey()); !errors.Is(err, identity.ErrFull) {
		t.Errorf("third of two: %v", err)
	}
	register(t, r, a, b) // known ones are no news
	r.Unregister(a.ID())
	register(t, r, c)
	if _, err := r.Lookup(b.ID()); err != nil {
		t.Errorf("an agent was forgotten: %v", err)
	}
}

func TestAllIsASnapshot(t *testing.T) {
	r := identity.NewRegistry(0)
	register(t, r, fromSeed(t, 1), fromSeed(t, 2), fromSeed(t, 3))
	seen := 0
	for id := range r.All() { // changes during the loop must neither deadlock nor show
		r.Unregister(id)
		register(t, r, fromSeed(t, 4))
		seen++
	}
	if seen != 3 {
		t.Errorf("saw %d agents", seen)
	}
}

func TestRegistryIsSafeForConcurrentUse(t *testing.T) {
	const size = 8
	r := identity.NewRegistry(size)
	var agents []*identity.Identity
	for i := range byte(2 * size) {
		agents = append(agents, fromSeed(t, i+1))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				for _, a := range agents {
					if err := r.Register(a.ID(), a.PublicKey()); err != nil && !errors.Is(err, identity.ErrFull) {
						t.Error(err)
					}
					if key, err := r.Lookup(a.ID()); err == nil && !key.Public.Equal(a.PublicKey()) {
						t.Errorf("%s has a foreign key", a.ID())
					}
					if n := r.Len(); n > size {
						t.Errorf("%d agents where %d are allowed", n, size)
					}
					for id, key := range r.All() {
						if identity.IDOf(key.Public) != id {
							t.Errorf("%s has a foreign key", id)
						}
					}
					r.Unregister(a.ID())
				}
			}
		})
	}
	wg.Wait()
}

func register(t testing.TB, r *identity.Registry, agents ...*identity.Identity) {
	t.Helper()
	for _, a := range agents {
		if err := r.Register(a.ID(), a.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
}

func unhex(t testing.TB, text string) ed25519.PublicKey {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
