package message_test

import (
	"bytes"
	"math"
	"testing"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// FuzzVerify holds that nothing is accepted that the registered key did not sign, and that what is
// decoded has one encoding.
func FuzzVerify(f *testing.F) {
	signed := map[string]bool{}
	for _, e := range []*envelope{
		newEnvelope(noon, direct(bob)),
		newEnvelope(noon, network),
		newEnvelope(noon, topicAudience("orders.created@2?a=b", "c")),
		edited(direct(bob), claim(claimTaskID, "t"), claim(claimInReplyTo, bytes.Repeat([]byte{1}, 16)), claim(claimTrace, "00")),
	} {
		signed[string(e.raw())] = true
		f.Add(e.raw())
	}
	for _, v := range refusedVectors() {
		f.Add(unhex(f, v.Envelope))
		if v.Reason != message.ErrBadSignature.String() { // some are refused for the moment only
			signed[string(unhex(f, v.Envelope))] = true
		}
	}
	clock := newClock()
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := newVerifier(bob, clock, ">").Verify(bytes.Clone(raw))
		if err == nil && !signed[string(raw)] {
			t.Fatalf("accepted %x as %v", raw, m)
		}
		if m, err := message.ParseUnsafe(bytes.Clone(raw)); err == nil {
			expectOneEncoding(t, m, raw)
		}
	})
}

// FuzzVerifyProof offers a message of a batch, whose root the receiver knows, with other proofs.
func FuzzVerifyProof(f *testing.F) {
	b := newBatch(numbered(6)...)
	for i := range b.entries {
		f.Add(proofOf(b.frame(i)))
		f.Add(proofOf(b.withProof(3, 6, i, inclusionPath(3, b.entries))))
		f.Add(proofOf(b.withProof(3, 4+i, 3, inclusionPath(3, b.entries))))
	}
	genuine := proofOf(b.frame(3))
	clock := newClock()
	f.Fuzz(func(t *testing.T, proof []byte) {
		v := newVerifier(bob, clock)
		accepts(t, v, b.frame(0), "a message by which the root is known")
		raw := b.withUnprotected(3, labels{labelVDP: labels{-1: []any{proof}}})
		if m, err := v.Verify(raw); (err == nil) != bytes.Equal(proof, genuine) {
			t.Fatalf("with the proof %x: %v, %v", proof, m, err)
		}
	})
}

// FuzzVerifySignedHeader lets Alice sign arbitrary header bytes, so that the signature stops nothing: a
// registered agent may be hostile, too.
func FuzzVerifySignedHeader(f *testing.F) {
	f.Add(newEnvelope(noon, direct(bob)).protected(), []byte("{}"))
	for _, v := range append(refusedVectors(), acceptedVectors()...) {
		if s, err := cose.Parse(unhex(f, v.Envelope)); err == nil {
			f.Add(s.Protected, s.Payload)
		}
	}
	clock := newClock()
	verifier := must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))
	f.Fuzz(func(t *testing.T, protected, body []byte) {
		e := newEnvelope(noon, nil)
		e.body = body
		raw := e.sign(protected)
		v := newVerifier(bob, clock, ">")
		m, err := v.Verify(bytes.Clone(raw))
		if err != nil {
			return
		}
		expectOneEncoding(t, m, raw)
		refuses(t, v, raw, message.ErrReplayed, "a second time")
		if m.Sender() != alice.ID() || m.Network() != network || m.ID().IsZero() || !bytes.Equal(m.Body(), body) ||
			m.Sequence() == 0 || m.Sequence() > math.MaxInt64 || len(m.Topics()) > message.MaxTopics ||
			!m.To().IsZero() && (m.To() != bob.ID() || len(m.Topics()) > 0) {
			t.Fatalf("%x is accepted as %v", raw, m)
		}
		var sign1 veraison.Sign1Message
		if err := sign1.UnmarshalCBOR(raw); err != nil {
			if onlyKnownLabels(t, protected) { // go-cose has rules for headers that we ignore
				t.Fatalf("%x: go-cose: %v", raw, err)
			}
		} else if err := sign1.Verify([]byte(cose.DomainMessage), verifier); err != nil {
			t.Fatal(err)
		}
	})
}

// expectOneEncoding encodes what was decoded once more, by other code.
func expectOneEncoding(t *testing.T, m *message.Message, raw []byte) {
	t.Helper()
	s, err := cose.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var header map[any]any
	if err := strict.Unmarshal(s.Protected, &header); err != nil {
		t.Fatalf("%x: %v", raw, err)
	}
	unprotected := labels{}
	fromFields := rebuild(m)
	fromFields.header[labelKid] = header[uint64(labelKid)]
	if s.Proof != nil {
		unprotected[labelVDP] = labels{-1: []any{s.Proof}}
		fromFields.header[labelVDS] = 1
	}
	again := append([]byte{0xd2}, must(core.Marshal([]any{must(core.Marshal(header)), unprotected, m.Body(), s.Signature}))...)
	if !bytes.Equal(again, raw) {
		t.Fatalf("%x is encoded again as %x", raw, again)
	}
	if onlyKnownLabels(t, s.Protected) && !bytes.Equal(fromFields.protected(), s.Protected) {
		t.Fatalf("%x, and from its fields %x", s.Protected, fromFields.protected())
	}
}

func onlyKnownLabels(t *testing.T, protected []byte) bool {
	t.Helper()
	var header map[any]any
	if err := strict.Unmarshal(protected, &header); err != nil {
		t.Fatalf("%x: %v", protected, err)
	}
	claims, _ := header[uint64(labelClaims)].(map[any]any)
	for key := range claims {
		switch key {
		case uint64(claimAud), uint64(claimExp), uint64(claimIat), uint64(claimCti), claimIssuedMillis, claimSession,
			claimSequence, claimTaskID, claimInReplyTo, claimTrace:
		default:
			return false
		}
	}
	return len(header) == 5
}
