package identity_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

func signSealing(t *testing.T, root *identity.Identity, current []byte, key identity.PublicSealingKey) []byte {
	t.Helper()
	raw, err := root.SignSealing(current, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func generate(t *testing.T) *identity.Identity {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestRegistryKnowsTheSealingKeyOfTheStatement goes through a life: no statement, a sealing key, another one, a
// rotated operational key, and the end.
func TestRegistryKnowsTheSealingKeyOfTheStatement(t *testing.T) {
	root, r := generate(t), identity.NewRegistry(0)
	source := r.SealingSource()
	expect := func(what string, want identity.PublicSealingKey, cause error) {
		t.Helper()
		got, err := source.SealingKey(root.ID())
		if got.ID() != want.ID() || !errors.Is(err, cause) {
			t.Errorf("%s: %s, %v; want %s, %v", what, got, err, want, cause)
		}
	}
	apply := func(raw []byte) {
		t.Helper()
		if _, err := r.Apply(raw); err != nil {
			t.Fatal(err)
		}
	}
	var none identity.PublicSealingKey
	expect("a stranger", none, identity.ErrUnknown)
	if err := r.Register(root.ID(), root.PublicKey()); err != nil {
		t.Fatal(err)
	}
	expect("no statement", none, identity.ErrNoSealingKey)
	one, two := newSealingKey(t, identity.MLKEM768X25519).Public(), newSealingKey(t, identity.X25519).Public()
	first := signSealing(t, root, nil, one)
	apply(first)
	expect("a statement", one, nil)
	second := signSealing(t, root, r.Statement(root.ID()), two)
	apply(second)
	expect("another one", two, nil)
	if _, err := r.Apply(first); !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("the first one again: %v", err)
	}
	expect("rolled back", two, nil)

	operational, err := root.Rotate(identity.Rotation{Current: second, Sealing: two.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	apply(operational.Statement())
	expect("another operational key", two, nil)
	third := signSealing(t, root, operational.Statement(), one)
	before, _ := identity.OpenKeys(operational.Statement())
	after, err := identity.OpenKeys(third)
	if err != nil || !after.Operational.Equal(before.Operational) || !after.Previous.Equal(before.Previous) ||
		!after.Expires.Equal(before.Expires) || after.Epoch != 1 || after.Sequence != before.Sequence+1 || !bytes.Equal(after.Sealing, one.Bytes()) {
		t.Errorf("the statement says %+v, %v", after, err)
	}
	apply(third)
	expect("another sealing key in the epoch", one, nil)
	revoked, err := root.Revoke(third)
	if err != nil {
		t.Fatal(err)
	}
	apply(revoked)
	expect("revoked", none, identity.ErrRevoked)
}

func TestSealingKeyTakesTheRootKeyToSign(t *testing.T) {
	root, key := generate(t), newSealingKey(t, identity.X25519).Public()
	operational, err := root.Rotate(identity.Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operational.SignSealing(operational.Statement(), key); err == nil {
		t.Error("an operational key signs statements")
	}
	if _, err := root.SignSealing(nil, identity.PublicSealingKey{}); !errors.Is(err, identity.ErrNoSealingKey) {
		t.Errorf("no key: %v", err)
	}
	other := generate(t)
	if _, err := other.SignSealing(operational.Statement(), key); err == nil {
		t.Error("another agent's statement is followed")
	}
	s, err := identity.OpenKeys(signSealing(t, root, nil, key))
	if err != nil || s.Epoch != 0 || time.Until(s.Expires) < identity.DefaultKeyLifetime-time.Minute {
		t.Errorf("the simple mode's statement says %+v, %v", s, err)
	}
}
