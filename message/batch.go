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
	s.signBatch(batch, &workspace{})
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
	return size+m.sealing.overhead() <= s.maxSize
}

// fixedHeader bounds the protected header without the texts that an agent chooses.
const fixedHeader = 384

// signAlone makes a signature for m alone, or none in mode UnsignedUnsafe.
func (s *Signer) signAlone(m *Message) error {
	id := s.identity.Load()
	m.epoch = id.Epoch()
	header := appendHeader(make([]byte, 0, 512+m.sealing.overhead()), m, false)
	body := m.payload(header)
	sign1 := cose.Sign1{Protected: header, Payload: body, Signature: make([]byte, ed25519.SignatureSize)}
	if size := len(header) + len(body) + cose.Overhead; size > s.maxSize { // a bound; what counts is below
		if size = len(sign1.Append(nil)); size > s.maxSize {
			return draftError("Draft.Body: with its envelope %w", sizeError(size, s.maxSize))
		}
	}
	if s.mode != UnsignedUnsafe {
		sign1 = cose.Sign(id, cose.DomainMessage, header, body)
	}
	m.setRaw(sign1.Append(make([]byte, 0, len(header)+len(body)+cose.Overhead)))
	s.signed.Inc()
	return nil
}

// signBatch makes one signature for all of the batch, each of which can be batched, and for each message
// the proof that it is under it.
func (s *Signer) signBatch(batch []*Message, w *workspace) {
	switch len(batch) {
	case 0:
		return
	case 1:
		_ = s.signAlone(batch[0]) // what fits with a proof fits without
		return
	}
	id := s.identity.Load() // one for all: the root has one signature
	for _, m := range batch {
		m.epoch = id.Epoch()
		start := len(w.headers)
		w.headers = appendHeader(w.headers, m, true)
		w.ends = append(w.ends, len(w.headers))
		w.bodies = append(w.bodies, m.payload(w.headers[start:]))
		w.leaves = append(w.leaves, cose.Sign1{Protected: w.headers[start:], Payload: w.bodies[len(w.bodies)-1]}.Leaf(cose.DomainMessage))
	}
	w.tree.Build(w.leaves)
	sign1 := cose.Sign1{Signature: cose.SignRoot(id, batch[0].sender[:], w.tree.Root())}
	start := 0
	for i, m := range batch {
		w.proof = w.tree.AppendProof(w.proof[:0], i)
		sign1.Protected, sign1.Proof, sign1.Payload = w.headers[start:w.ends[i]], w.proof, w.bodies[i]
		start = w.ends[i]
		m.setRaw(w.frames.keep(sign1.Append(w.frames.room(len(sign1.Protected) + len(w.proof) + len(w.bodies[i]) + cose.Overhead))))
	}
	s.signed.Add(uint64(len(batch)))
	s.batches.Inc()
}

// setRaw makes raw, which ends in the body and the signature, the bytes of m. A sealed message keeps the body
// that it has.
func (m *Message) setRaw(raw []byte) {
	m.raw = raw
	if m.sealed {
		return
	}
	end := len(raw) - ed25519.SignatureSize - 2
	m.body = raw[end-len(m.body) : end : end]
}

// workspace is what signing a batch needs, messages and their bytes included.
type workspace struct {
	messages []Message
	batch    []*Message // those of messages that share a signature
	headers  []byte     // one after the other
	ends     []int      // of the headers
	bodies   [][]byte   // as they are sent
	leaves   []cose.Hash
	tree     cose.Tree
	proof    []byte
	frames   slab
}

// reset makes the workspace ready for another batch, and forgets what drafts brought.
func (w *workspace) reset() {
	clear(w.messages)
	clear(w.batch)
	clear(w.bodies)
	w.messages, w.batch, w.headers, w.ends, w.bodies, w.leaves = w.messages[:0], w.batch[:0], w.headers[:0], w.ends[:0], w.bodies[:0], w.leaves[:0]
	w.frames.reset()
}

// workspaces are used again where messages do not outlive their batch.
var workspaces = sync.Pool{New: func() any { return &workspace{frames: slab{growing: true}} }}

// slab allocates the frames of a batch in few pieces. Pieces are small, since a message that is kept keeps
// its piece alive; those of a slab that is used again grow until one is enough.
type slab struct {
	piece, free []byte
	growing     bool
}

const (
	slabSize    = 16 << 10
	maxSlabSize = 1 << 20 // of a piece that is used again
)

// room returns an empty buffer of at least n bytes.
func (s *slab) room(n int) []byte {
	if n > cap(s.free) {
		size := slabSize
		if s.growing {
			size = max(size, min(2*cap(s.piece), maxSlabSize))
		}
		s.piece = make([]byte, 0, max(n, size))
		s.free = s.piece
	}
	return s.free[:0]
}

// keep takes what was written into the buffer of the last room out of the slab.
func (s *slab) keep(b []byte) []byte {
	s.free = s.free[len(b):len(b):cap(s.free)]
	return b[:len(b):len(b)]
}

// reset makes the last piece free again.
func (s *slab) reset() {
	if cap(s.piece) > maxSlabSize {
		s.piece = nil
	}
	s.free = s.piece
}
