package identity_test

import (
	"bytes"
	"testing"

	"github.com/converge-agents/converge/identity"
)

func TestQuarantinedSaysWhoAndWhy(t *testing.T) {
	s := newScene(t)
	first := s.rotate(s.root, identity.Rotation{})
	second, fork := s.rotate(first, identity.Rotation{}), s.rotate(first, identity.Rotation{})
	later, err := identity.OpenKeys(fork.Statement())
	if err != nil {
		t.Fatal(err)
	}
	later.Sequence = 9
	for contrary, want := range map[string]string{
		string(fork.Statement()):       "two statements have the number 2",
		string(sign(t, s.root, later)): "two keys are stated for one epoch (statements 2 and 9)",
	} {
		s := newScene(t)
		if all := s.registry.Quarantined(); all != nil {
			t.Errorf("nobody is quarantined: %v", all)
		}
		s.apply(second.Statement())
		s.registry.Apply([]byte(contrary))
		all := s.registry.Quarantined()
		if len(all) != 1 || all[0].ID != s.root.ID() || !all[0].Since.Equal(s.clock.Now()) || all[0].Why() != want ||
			!bytes.Equal(all[0].Statement, second.Statement()) || string(all[0].Contrary) != contrary {
			t.Errorf("quarantined: %v, why %q, want %q", all, all[0].Why(), want)
		}
		s.registry.Release(s.root.ID())
		if all := s.registry.Quarantined(); all != nil {
			t.Errorf("released: %v", all)
		}
	}
	s.apply(second.Statement())
	s.registry.Apply(fork.Statement())
	raw, err := s.root.Revoke(second.Statement())
	if err != nil {
		t.Fatal(err)
	}
	s.apply(raw)
	if all := s.registry.Quarantined(); all != nil {
		t.Errorf("revoked: %v", all)
	}
	if why := (identity.Quarantine{}).Why(); why == "" {
		t.Error("an empty one says nothing")
	}
}
