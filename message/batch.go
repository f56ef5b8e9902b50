package message

import (
	"crypto/ed25519"
	"sync"

	"github.com/converge-agents/converge/internal/cose"
)

// maxBatch is how many messages share a signature at most. More would make every inclusion path longer
// and a signature hardly cheaper: the 256th part of one costs less than a hash.
const maxBatch = 256

// group is a group commit: whoever finds nobody signing signs at once; those who come meanwhile wait, and
// the first of them then signs for all. Each caller adds one entry, so the callers bound the list.
type group struct {
	mu      sync.Mutex
	signing bool
	waiting []*waiter
}

// waiter is a caller whose message waits for a signature.
type waiter struct {
	m    *Message
	turn chan bool // true: sign for all that wait; false: the message is signed
}

// enter returns nil if the caller is to sign at once, and otherwise the place where it waits.
func (g *group) enter(m *Message) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.signing {
		g.signing = true
		return nil
	}
	w := &waiter{m, make(chan bool, 1)}
	g.waiting = append(g.waiting, w)
	return w
}

// take removes those for whom the next signature is made.
func (g *group) take() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), maxBatch)
	taken := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return taken
}

// leave lets the first of those who wait sign next.
func (g *group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.signing, g.waiting = false, nil
		return
	}
	g.waiting[0].turn <- true
}

// joinGroup signs m, alone or with others that are being signed at the time.
func (s *Signer) joinGroup(m *Message) error {
	w := s.group.enter(m)
	if w == nil {
		defer s.group.leave()
		return s.signAlone(m)
	}
	if !<-w.turn {
		return nil
	}
	taken := s.group.take()
	batch := make([]*Message, len(taken))
	for i, t := range taken {
		batch[i] = t.m
	}
	s.signBatch(batch)
	s.group.leave()
	for _, t := range taken {
		if t != w {
			t.turn <- false
		}
	}
	return nil
}

// canBatch reports whether m may share a signature: its envelope has room for an inclusion proof.
func (s *Signer) canBatch(m *Message) bool {
	if s.mode != Batch {
		return false
	}
	size := cose.Overhead + cose.ProofOverhead + fixedHeader + len(m.body) + len(m.contentType) + len(m.taskID) + len(m.trace)
	for _, t := range m.topics {
		size += len(m.network) + len(topicInfix) + len(t.text) + 9
	}
	return size <= s.maxSize
}

// fixedHeader bounds the protected header without the texts that an agent chooses.
const fixedHeader = 384

// signAlone makes a signature for m alone, or none in mode UnsignedUnsafe.
func (s *Signer) signAlone(m *Message) error {
	header := appendHeader(make([]byte, 0, 512), m, false)
	sign1 := cose.Sign1{Protected: header, Payload: m.body, Signature: make([]byte, ed25519.SignatureSize)}
	if size := len(header) + len(m.body) + cose.Overhead; size > s.maxSize { // a bound; what counts is below
		if size = len(sign1.Append(nil)); size > s.maxSize {
			return draftError("Draft.Body: with its envelope %w", sizeError(size, s.maxSize))
		}
	}
	if s.mode != UnsignedUnsafe {
		sign1 = cose.Sign(s.identity, cose.DomainMessage, header, m.body)
	}
	m.setRaw(sign1.Append(make([]byte, 0, len(header)+len(m.body)+cose.Overhead)))
	s.signed.Inc()
	return nil
}

// signBatch makes one signature for all of the batch, each of which can be batched, and for each message
// the proof that it is under it.
func (s *Signer) signBatch(batch []*Message) {
	if len(batch) == 1 {
		_ = s.signAlone(batch[0]) // what fits with a proof fits without
		return
	}
	headers := make([][]byte, len(batch))
	leaves := make([]cose.Hash, len(batch))
	var memory slab
	for i, m := range batch {
		headers[i] = memory.keep(appendHeader(memory.room(fixedHeader+len(m.contentType)+len(m.taskID)+len(m.trace)), m, true))
		leaves[i] = cose.Sign1{Protected: headers[i], Payload: m.body}.Leaf(cose.DomainMessage)
	}
	tree := cose.NewTree(leaves)
	signature := cose.SignRoot(s.identity, batch[0].sender[:], tree.Root())
	proof := make([]byte, 0, cose.ProofOverhead)
	for i, m := range batch {
		proof = tree.AppendProof(proof[:0], i)
		sign1 := cose.Sign1{Protected: headers[i], Proof: proof, Payload: m.body, Signature: signature}
		m.setRaw(memory.keep(sign1.Append(memory.room(len(headers[i]) + len(proof) + len(m.body) + cose.Overhead))))
	}
	s.signed.Add(uint64(len(batch)))
	s.batches.Inc()
}

// setRaw makes raw, which ends in the body and the signature, the bytes of m.
func (m *Message) setRaw(raw []byte) {
	m.raw = raw
	end := len(raw) - ed25519.SignatureSize - 2
	m.body = raw[end-len(m.body) : end : end]
}

// slab allocates the buffers of a batch in few pieces. A message that is kept keeps its piece alive, so
// pieces are small.
type slab struct{ free []byte }

const slabSize = 16 << 10

// room returns an empty buffer of at least n bytes.
func (s *slab) room(n int) []byte {
	if n > cap(s.free) {
		s.free = make([]byte, 0, max(n, slabSize))
	}
	return s.free[:0]
}

// keep takes what was written into the buffer of the last room out of the slab.
func (s *slab) keep(b []byte) []byte {
	if cap(b) == cap(s.free) {
		s.free = s.free[len(b):len(b):cap(s.free)]
	}
	return b[:len(b):len(b)]
}
