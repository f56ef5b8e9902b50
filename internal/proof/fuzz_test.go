package proof_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/proof"
)

// FuzzVerify: what verifies was signed, and has one spelling.
func FuzzVerify(f *testing.F) {
	all, proofs := examples()
	for i, s := range all {
		f.Add(s.Payload, proofs[i])
	}
	f.Add([]byte{}, []byte{})
	f.Add(all[0].Payload, proof.NewSigner(must(alice.Rotate(identity.Rotation{}))).Sign(all[0]))
	f.Add(all[0].Payload, join(proofs[1], proofs[0]))
	v := newVerifier()
	f.Fuzz(func(t *testing.T, payload, p []byte) {
		if proof.Check(p) == nil && !bytes.Equal(again(p), p) {
			t.Fatalf("%x is accepted as a spelling of %x", p, again(p))
		}
		if v.Verify(alice.ID(), proof.Statement{Kind: work, Payload: payload}, p) != nil {
			return
		}
		for i, s := range all {
			if bytes.Equal(s.Payload, payload) && bytes.Equal(proofs[i], p) {
				return
			}
		}
		t.Fatalf("accepted %x with %x, which nobody signed", payload, p)
	})
}

// again writes a proof from its parts.
func again(p []byte) []byte {
	r := cose.NewReader(p)
	n := r.Array()
	b := cose.AppendUint(cose.AppendArray(nil, n), r.Uint())
	for range n - 1 {
		b = cose.AppendBytes(b, r.Bytes())
	}
	return slices.Clip(b)
}
