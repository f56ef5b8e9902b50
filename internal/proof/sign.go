package proof

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/group"
	"github.com/converge-agents/converge/internal/stat"
)

// maxBatch is how many statements share a signature at most, as with messages.
const maxBatch = 256

// Signer signs the statements of one agent. It is safe for concurrent use. Statements that come while a
// signature is being made share the next one; one that comes alone is signed at once.
type Signer struct {
	identity atomic.Pointer[identity.Identity]
	group    group.Commit[*entry]
	signed   stat.Counter
	shared   stat.Counter
}

// entry is a statement and, later, its proof.
type entry struct {
	statement Statement
	proof     []byte
}

// NewSigner returns a signer for an agent.
func NewSigner(id *identity.Identity) *Signer {
	s := &Signer{group: group.Commit[*entry]{Yield: true}}
	s.identity.Store(id)
	return s
}

// ErrOtherAgent says that an identity is of another agent than the signer's.
var ErrOtherAgent = errors.New("the identity is of another agent")

// Rotate has s sign with another key of its agent from now on.
func (s *Signer) Rotate(id *identity.Identity) error {
	if id.ID() != s.ID() {
		return fmt.Errorf("rotate the key of agent %s: %w, %s", s.ID().Short(), ErrOtherAgent, id.ID().Short())
	}
	s.identity.Store(id)
	return nil
}

// ID returns the agent whose statements s signs.
func (s *Signer) ID() identity.ID { return s.identity.Load().ID() }

// Signed returns how many statements s has signed.
func (s *Signer) Signed() uint64 { return s.signed.Load() }

// Shared returns how many signatures s has made for more than one statement.
func (s *Signer) Shared() uint64 { return s.shared.Load() }

// Sign returns the proof of a statement. It does not keep the payload.
func (s *Signer) Sign(statement Statement) []byte {
	e := &entry{statement: statement}
	_ = s.group.Do(e, maxBatch, s.signAlone, s.signTogether) // signing does not go wrong
	return e.proof
}

// SignAll returns the proofs of several statements, which share signatures.
func (s *Signer) SignAll(statements []Statement) [][]byte {
	entries := make([]entry, len(statements))
	together := make([]*entry, len(statements))
	for i := range entries {
		entries[i].statement, together[i] = statements[i], &entries[i]
	}
	for first := 0; first < len(together); first += maxBatch {
		s.signTogether(together[first:min(first+maxBatch, len(together))])
	}
	proofs := make([][]byte, len(entries))
	for i := range entries {
		proofs[i] = entries[i].proof
	}
	return proofs
}

func (s *Signer) signAlone(e *entry) error {
	by := s.identity.Load()
	parts := e.statement.sign1(by.ID())
	signed := cose.Sign(by, e.statement.Domain, parts.Protected, parts.Payload)
	e.proof = appendProof(nil, by, nil, signed.Signature)
	s.signed.Inc()
	return nil
}

// signTogether makes one signature for up to maxBatch statements.
func (s *Signer) signTogether(batch []*entry) {
	if len(batch) == 1 {
		_ = s.signAlone(batch[0])
		return
	}
	by := s.identity.Load() // one for all: the root has one signature
	id := by.ID()
	leaves := make([]cose.Hash, len(batch))
	for i, e := range batch {
		leaves[i] = e.statement.sign1(id).Leaf(e.statement.Domain)
	}
	var tree cose.Tree
	tree.Build(leaves)
	signature := cose.SignRoot(by, id[:], tree.Root())
	var scratch [cose.ProofOverhead]byte
	for i, e := range batch {
		inclusion := tree.AppendProof(scratch[:0], i)
		e.proof = appendProof(make([]byte, 0, len(inclusion)+len(signature)+16), by, inclusion, signature)
	}
	s.signed.Add(uint64(len(batch)))
	s.shared.Inc()
}
