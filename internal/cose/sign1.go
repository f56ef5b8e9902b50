// Package cose encodes and decodes COSE_Sign1 (RFC 9052) in the one shape that Converge signs:
// deterministic CBOR, EdDSA, an unprotected header that is empty or holds one inclusion proof, and a
// domain in external_aad that keeps one kind of signed thing from passing as another. The signature is
// over the parts themselves, or over the root of a Merkle tree of which they are a leaf (RFC 9942).
//
// The reader is ours, not a library's, because it stands before authentication on the hot path: the
// shape is fixed, so a strict reader needs no allocation and a fraction of the time of a general one.
// Tests hold it to what github.com/fxamacker/cbor and github.com/veraison/go-cose say.
package cose

import (
	"crypto/ed25519"
	"errors"
	"sync"
)

// Domain is the external_aad of a kind of signed thing. A signature made under one domain does not
// verify under another.
type Domain string

// The domains of suite 1. All are fixed here, in one place, so that no two kinds can share one.
const (
	DomainMessage    Domain = "converge/message/v1"
	DomainDescriptor Domain = "converge/descriptor/v1"
	DomainKeys       Domain = "converge/keys/v1"
	DomainDelegation Domain = "converge/delegation/v1"
	DomainReceipt    Domain = "converge/receipt/v1"
	DomainBallot     Domain = "converge/ballot/v1"
	DomainHandshake  Domain = "converge/handshake/v1"
	DomainBatch      Domain = "converge/batch/v1"
	DomainTask       Domain = "converge/task/v1"   // what an agent submits
	DomainResult     Domain = "converge/result/v1" // how a task ended, by the agent that held it
	DomainPool       Domain = "converge/pool/v1"
	DomainMember     Domain = "converge/member/v1"
	DomainPoolToken  Domain = "converge/pool-token/v1"
)

// Labels of the COSE header parameters that Converge uses (IANA registry "COSE Header Parameters").
const (
	LabelAlg         = 1
	LabelCrit        = 2
	LabelContentType = 3
	LabelKid         = 4
	LabelCWTClaims   = 15 // RFC 9597
	LabelTyp         = 16 // RFC 9596
)

// AlgEdDSA is the value of [LabelAlg]: EdDSA with the curve of the key, here always Ed25519.
const AlgEdDSA = -8

const (
	tagSign1 = 18
	// context is the first element of a Sig_structure (RFC 9052, section 4.4).
	context = "Signature1"
)

// ErrUnprotected says that the unprotected header holds something other than one inclusion proof:
// nothing else outside the signature counts.
var ErrUnprotected = errors.New("cose: the unprotected header holds something other than an inclusion proof")

// Sign1 holds the parts of a COSE_Sign1. Parts of a parsed one alias the input.
type Sign1 struct {
	Protected []byte // the encoded protected header, as it was signed
	Proof     []byte // the encoded inclusion proof of a batch, or nil if the signature is this one's own
	Payload   []byte
	Signature []byte // 64 bytes: over these parts, or over the root of the batch
}

// Parse takes a tagged COSE_Sign1 apart without checking its signature or proof. It accepts exactly one
// encoding of given parts, so flipping any bit changes a part or is an error.
func Parse(raw []byte) (Sign1, error) {
	r := NewReader(raw)
	if r.Tag() != tagSign1 || r.Array() != 4 {
		r.Fail(ErrUnexpected)
	}
	var s Sign1
	s.Protected = r.Bytes()
	s.Proof = readUnprotected(&r)
	s.Payload = r.Bytes()
	s.Signature = r.Bytes()
	if len(s.Signature) != ed25519.SignatureSize {
		r.Fail(ErrUnexpected)
	}
	if err := r.End(); err != nil {
		return Sign1{}, err
	}
	return s, nil
}

// readUnprotected reads {} or {396: {-1: [proof]}}.
func readUnprotected(r *Reader) (proof []byte) {
	switch r.Map() {
	case 0:
		return nil
	case 1:
	default:
		r.Fail(ErrUnprotected)
		return nil
	}
	if r.Int() != LabelVDP || r.Map() != 1 || r.Int() != labelInclusion || r.Array() != 1 {
		r.Fail(ErrUnprotected)
	}
	if proof = r.Bytes(); len(proof) == 0 {
		r.Fail(ErrUnprotected)
	}
	return proof
}

func appendUnprotected(b, proof []byte) []byte {
	if proof == nil {
		return AppendMap(b, 0)
	}
	b = AppendInt(AppendMap(b, 1), LabelVDP)
	b = AppendInt(AppendMap(b, 1), labelInclusion)
	return AppendBytes(AppendArray(b, 1), proof)
}

// Append appends the encoding of s, which [Parse] reads back.
func (s Sign1) Append(b []byte) []byte {
	b = appendHead(b, majorTag, tagSign1)
	b = AppendArray(b, 4)
	b = AppendBytes(b, s.Protected)
	b = appendUnprotected(b, s.Proof)
	b = AppendBytes(b, s.Payload)
	return AppendBytes(b, s.Signature)
}

// Overhead bounds what [Sign1.Append] adds to the protected header, the payload and, without its own
// [ProofOverhead], the proof.
const Overhead = 96

// Signer makes raw Ed25519 signatures; an identity.Identity is one.
type Signer interface{ Sign(message []byte) []byte }

// Sign returns a Sign1 of payload under the domain.
func Sign(key Signer, domain Domain, protected, payload []byte) Sign1 {
	s := Sign1{Protected: protected, Payload: payload}
	buf := getBuffer()
	tbs := s.appendSigned((*buf)[:0], domain)
	s.Signature = key.Sign(tbs)
	putBuffer(buf, tbs)
	return s
}

// Verify reports whether key made s under the domain. Nothing verifies under a key of another length
// than Ed25519's, and nothing that has a proof: its signature is over a root, see [VerifyRoot].
func (s Sign1) Verify(key ed25519.PublicKey, domain Domain) bool {
	if len(key) != ed25519.PublicKeySize || s.Proof != nil {
		return false
	}
	buf := getBuffer()
	tbs := s.appendSigned((*buf)[:0], domain)
	ok := ed25519.Verify(key, tbs, s.Signature)
	putBuffer(buf, tbs)
	return ok
}

// appendSigned appends the Sig_structure of s (RFC 9052, section 4.4): what is signed, or is a leaf.
func (s Sign1) appendSigned(b []byte, domain Domain) []byte {
	b = AppendArray(b, 4)
	b = AppendText(b, context)
	b = AppendBytes(b, s.Protected)
	b = appendHead(b, majorBytes, uint64(len(domain)))
	b = append(b, domain...)
	return AppendBytes(b, s.Payload)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

func getBuffer() *[]byte { return buffers.Get().(*[]byte) }

// maxPooledBuffer keeps a single huge message from pinning its buffer.
const maxPooledBuffer = 64 << 10

// putBuffer gives back a buffer that may have grown into b.
func putBuffer(buf *[]byte, b []byte) {
	if cap(b) <= maxPooledBuffer {
		*buf = b
		buffers.Put(buf)
	}
}
