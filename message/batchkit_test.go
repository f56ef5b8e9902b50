package message_test

import (
	"crypto/sha256"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

const labelVDS, labelVDP, labelTreeSize int64 = 395, 396, -65543

// treeHash is MTH of RFC 9162, section 2.1.1, word for word.
func treeHash(d [][]byte) []byte {
	if len(d) == 1 {
		return digest([]byte{0}, d[0])
	}
	k := split(len(d))
	return digest([]byte{1}, treeHash(d[:k]), treeHash(d[k:]))
}

// inclusionPath is PATH of RFC 9162, section 2.1.3.1, word for word.
func inclusionPath(m int, d [][]byte) [][]byte {
	if len(d) == 1 {
		return nil
	}
	k := split(len(d))
	if m < k {
		return append(inclusionPath(m, d[:k]), treeHash(d[k:]))
	}
	return append(inclusionPath(m-k, d[k:]), treeHash(d[:k]))
}

// split returns the largest power of two smaller than n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func digest(parts ...[]byte) []byte {
	sum := sha256.Sum256(slices.Concat(parts...))
	return sum[:]
}

// batch is messages under one signature, put together by hand.
type batch struct {
	headers, bodies, entries [][]byte
	signature                []byte
}

// newBatch signs envelopes of one agent together.
func newBatch(envelopes ...*envelope) *batch {
	b := &batch{}
	for _, e := range envelopes {
		e.header[labelVDS] = 1
		header := e.protected()
		b.headers, b.bodies = append(b.headers, header), append(b.bodies, e.body)
		b.entries = append(b.entries, must(core.Marshal([]any{"Signature1", header, []byte(e.domain), e.body})))
	}
	b.signature = signRoot(envelopes[0].signer, envelopes[0].header[labelKid].([]byte), len(b.entries), treeHash(b.entries), "converge/batch/v1")
	return b
}

// signRoot signs a root as docs/wire.md says.
func signRoot(signer *identity.Identity, kid []byte, size int, root []byte, domain string) []byte {
	header := must(core.Marshal(labels{
		labelAlg: -8, labelKid: kid, labelTyp: "application/converge-batch", labelVDS: 1, labelTreeSize: size,
	}))
	return signer.Sign(must(core.Marshal([]any{"Signature1", header, []byte(domain), root})))
}

// frame returns message i with its own proof.
func (b *batch) frame(i int) []byte {
	return b.withProof(i, len(b.entries), i, inclusionPath(i, b.entries))
}

// withProof returns message i with a proof that says what it is told to.
func (b *batch) withProof(i, size, index int, path [][]byte) []byte {
	if path == nil {
		path = [][]byte{}
	}
	return b.withUnprotected(i, labels{labelVDP: labels{-1: []any{must(core.Marshal([]any{size, index, path}))}}})
}

func (b *batch) withUnprotected(i int, unprotected any) []byte {
	return slices.Concat([]byte{0xd2}, must(core.Marshal([]any{b.headers[i], unprotected, b.bodies[i], b.signature})))
}

// numbered returns n envelopes of Alice to Bob, of one session, from sequence number 1 on.
func numbered(n int) []*envelope {
	all := make([]*envelope, n)
	for i := range all {
		all[i] = newEnvelope(noon, direct(bob)).numbered(1, i+1)
		all[i].claims[claimCti] = digest([]byte{byte(i), byte(i >> 8)})[:16]
	}
	return all
}

// proofOf returns the inclusion proof of a frame, or nil.
func proofOf(raw []byte) []byte { return must(cose.Parse(raw)).Proof }
