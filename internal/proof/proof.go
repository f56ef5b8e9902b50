// Package proof makes and checks proofs that an agent made a statement: a payload of one kind, which is
// kept elsewhere. A proof is what a COSE_Sign1 has besides: the signature over a protected header of alg,
// kid and typ and over the payload (RFC 9052, section 4.4), or the signature over the root of a tree of
// statements that were signed together, with the inclusion proof of this one (RFC 9942). The header is not
// kept, since whoever knows who should have signed what can write it down.
//
// Nothing that is signed as one kind, or by one agent, verifies as another. A statement that has to hold for
// one network, task or moment only has to name it.
package proof

import (
	"crypto/ed25519"
	"errors"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// Kind is a kind of statement.
type Kind struct {
	Domain cose.Domain
	Typ    string // the typ in the protected header (RFC 9596)
}

// Statement is what an agent says.
type Statement struct {
	Kind
	Payload []byte
}

// Errors of [Verifier.Verify].
var (
	ErrMissing   = errors.New("there is no signature")
	ErrMalformed = errors.New("the signature is malformed")
	ErrForged    = errors.New("the agent did not sign this")
)

// MaxSize is how many bytes a proof has at most.
const MaxSize = cose.ProofOverhead + ed25519.SignatureSize + identity.MaxStatement + 32

// sign1 returns what is signed, or is a leaf of the tree whose root is signed.
func (s *Statement) sign1(by identity.ID) cose.Sign1 {
	return cose.Sign1{Protected: cose.StatementHeader(by[:], s.Typ), Payload: s.Payload}
}

// appendProof appends the encoding of a proof: [key epoch, inclusion proof, signature, key statement]. The inclusion
// proof is empty where the signature is over the statement itself. The key statement is that of the epoch, so
// that what was signed can be verified when the agent has long had another key; epoch 0, whose key is the
// root key, has none and ends after the signature.
func appendProof(b []byte, by *identity.Identity, inclusion, signature []byte) []byte {
	epoch, statement := by.Epoch(), by.Statement()
	if epoch == 0 {
		statement = nil
	}
	b = cose.AppendUint(cose.AppendArray(b, fields(epoch)), epoch)
	b = cose.AppendBytes(cose.AppendBytes(b, inclusion), signature)
	if epoch == 0 {
		return b
	}
	return cose.AppendBytes(b, statement)
}

// fields returns how many items a proof has.
func fields(epoch uint64) int {
	if epoch == 0 {
		return 3
	}
	return 4
}

// parts are a decoded proof, which they alias.
type parts struct {
	epoch     uint64
	inclusion []byte
	signature []byte
	statement []byte // about the key of an epoch that is not 0
}

// parse accepts one encoding of given parts only.
func parse(proof []byte) (p parts, err error) {
	if len(proof) == 0 {
		return p, ErrMissing
	}
	r := cose.NewReader(proof)
	n := r.Array()
	p = parts{epoch: r.Uint(), inclusion: r.Bytes(), signature: r.Bytes()}
	if n != fields(p.epoch) {
		r.Fail(ErrMalformed)
	}
	if p.epoch != 0 {
		p.statement = r.Bytes()
	}
	if len(p.signature) != ed25519.SignatureSize {
		r.Fail(ErrMalformed)
	}
	if r.End() != nil {
		return parts{}, ErrMalformed
	}
	return p, nil
}

// Check reports whether proof has the form of one, [ErrMissing] or [ErrMalformed], and nothing about
// whom it is by.
func Check(proof []byte) error {
	p, err := parse(proof)
	if err != nil || len(p.inclusion) == 0 {
		return err
	}
	if _, err := cose.ParseProof(p.inclusion); err != nil {
		return ErrMalformed
	}
	return nil
}
