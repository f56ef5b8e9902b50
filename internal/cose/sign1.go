// Package cose encodes and decodes COSE_Sign1 (RFC 9052) in the one shape that Converge signs:
// deterministic CBOR, EdDSA, an empty unprotected header, and a domain in external_aad that keeps one
// kind of signed thing from passing as another.
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

// ErrUnprotected says that the unprotected header is not empty: nothing outside the signature counts.
var ErrUnprotected = errors.New("cose: the unprotected header is not empty")

// Sign1 holds the parts of a COSE_Sign1. Parts of a parsed one alias the input.
type Sign1 struct {
	Protected []byte // the encoded protected header, as it was signed
	Payload   []byte
	Signature []byte // 64 bytes
}

// Parse takes a tagged COSE_Sign1 apart without checking its signature. It accepts exactly one
// encoding of given parts, so flipping any bit changes a part or is an error.
func Parse(raw []byte) (Sign1, error) {
	r := NewReader(raw)
	if r.Tag() != tagSign1 || r.Array() != 4 {
		r.Fail(ErrUnexpected)
	}
	var s Sign1
	s.Protected = r.Bytes()
	if r.Map() != 0 {
		r.Fail(ErrUnprotected)
	}
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

// Append appends the encoding of s, which [Parse] reads back.
func (s Sign1) Append(b []byte) []byte {
	b = appendHead(b, majorTag, tagSign1)
	b = AppendArray(b, 4)
	b = AppendBytes(b, s.Protected)
	b = AppendMap(b, 0)
	b = AppendBytes(b, s.Payload)
	return AppendBytes(b, s.Signature)
}

// Overhead bounds what [Sign1.Append] adds to the protected header and the payload.
const Overhead = 96

// Signer makes raw Ed25519 signatures; an identity.Identity is one.
type Signer interface{ Sign(message []byte) []byte }

// Sign returns a Sign1 of payload under the domain.
func Sign(key Signer, domain Domain, protected, payload []byte) Sign1 {
	s := Sign1{Protected: protected, Payload: payload}
	s.overSignedBytes(domain, func(tbs []byte) { s.Signature = key.Sign(tbs) })
	return s
}

// Verify reports whether key made s under the domain. Nothing verifies under a key of another length
// than Ed25519's.
func (s Sign1) Verify(key ed25519.PublicKey, domain Domain) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	var ok bool
	s.overSignedBytes(domain, func(tbs []byte) { ok = ed25519.Verify(key, tbs, s.Signature) })
	return ok
}

// overSignedBytes calls use with the Sig_structure of s (RFC 9052, section 4.4), in a buffer that is
// used again afterwards.
func (s Sign1) overSignedBytes(domain Domain, use func([]byte)) {
	buf := buffers.Get().(*[]byte)
	b := AppendArray((*buf)[:0], 4)
	b = AppendText(b, context)
	b = AppendBytes(b, s.Protected)
	b = appendHead(b, majorBytes, uint64(len(domain)))
	b = append(b, domain...)
	b = AppendBytes(b, s.Payload)
	use(b)
	if cap(b) <= maxPooledBuffer {
		*buf = b
		buffers.Put(buf)
	}
}

// maxPooledBuffer keeps a single huge message from pinning its buffer.
const maxPooledBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}
