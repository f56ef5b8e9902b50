package identity_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/converge-agents/converge/identity"
)

func TestSealingSourceFollowsTheStatements(t *testing.T) {
	one, two := newSealingKey(t, identity.X25519).Public(), newSealingKey(t, identity.MLKEM768X25519).Public()
	var encoded []byte
	var failure error
	source := identity.NewSealingSource(func(identity.ID) ([]byte, error) { return encoded, failure })
	agent := identity.ID{1}
	if _, err := source.SealingKey(agent); !errors.Is(err, identity.ErrNoSealingKey) {
		t.Errorf("no key: %v", err)
	}
	for _, want := range []identity.PublicSealingKey{one, one, two, one} {
		encoded = want.Bytes()
		if got, err := source.SealingKey(agent); err != nil || got.ID() != want.ID() {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	encoded[0] = 9
	if got, err := source.SealingKey(agent); !errors.Is(err, identity.ErrSealingSuite) || !got.IsZero() {
		t.Errorf("a bad key after a good one: %s, %v", got, err)
	}
	encoded = nil
	if _, err := source.SealingKey(agent); !errors.Is(err, identity.ErrNoSealingKey) {
		t.Errorf("a key that is no more: %v", err)
	}
	failure = identity.ErrUnknown
	if _, err := source.SealingKey(agent); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("an unknown agent: %v", err)
	}
}

func TestSealingSourceServesMoreAgentsThanItHolds(t *testing.T) {
	key := newSealingKey(t, identity.X25519).Public()
	source := identity.NewSealingSource(func(identity.ID) ([]byte, error) { return key.Bytes(), nil })
	for i := range 1100 { // it holds 1,024
		var id identity.ID
		binary.BigEndian.PutUint32(id[:], uint32(i))
		if got, err := source.SealingKey(id); err != nil || got.ID() != key.ID() {
			t.Fatalf("agent %d: %s, %v", i, got, err)
		}
	}
}
