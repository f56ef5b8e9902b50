package task_test

import (
	"bytes"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

const network = "test.example"

// The cast of tests about signatures: Ann submits, Ben and Cleo work, and Mallory is an agent of bad faith.
var ann, ben, cleo, mallory = seeded(1), seeded(2), seeded(3), seeded(66)

func seeded(n byte) *identity.Identity {
	id, err := identity.FromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	return id
}

// newVerifier returns a verifier that knows the cast.
func newVerifier(t testing.TB) *task.Verifier {
	t.Helper()
	registry := identity.NewRegistry(0)
	for _, id := range []*identity.Identity{ann, ben, cleo, mallory} {
		if err := registry.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	v, err := task.NewVerifier(registry, network)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signerOf returns the signer of an agent of the network.
func signerOf(t testing.TB, id *identity.Identity) *task.Signer {
	t.Helper()
	s, err := task.NewSigner(id, network)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
