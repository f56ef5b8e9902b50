package cose

import (
	"crypto/ed25519"
	"errors"
)

// ErrHeader says that a statement's protected header is not the one that its kind has.
var ErrHeader = errors.New("cose: not the protected header of this kind of statement")

// SignStatement returns the encoded Sign1 of a statement other than a message: a payload that says
// everything, under a protected header of alg, kid and typ.
func SignStatement(key Signer, kid []byte, domain Domain, typ string, payload []byte) []byte {
	return Sign(key, domain, StatementHeader(kid, typ), payload).Append(nil)
}

// StatementHeader returns the encoded protected header of a statement: alg, kid and typ.
func StatementHeader(kid []byte, typ string) []byte {
	b := AppendMap(nil, 3)
	b = AppendInt(b, LabelAlg)
	b = AppendInt(b, AlgEdDSA)
	b = AppendInt(b, LabelKid)
	b = AppendBytes(b, kid)
	b = AppendInt(b, LabelTyp)
	return AppendText(b, typ)
}

// VerifyStatement reports why key did not sign s under domain and typ. The header has to be, byte
// for byte, the one that [SignStatement] makes for kid.
func (s Sign1) VerifyStatement(key ed25519.PublicKey, kid []byte, domain Domain, typ string) error {
	if string(s.Protected) != string(StatementHeader(kid, typ)) {
		return ErrHeader
	}
	if !s.Verify(key, domain) {
		return ErrSignature
	}
	return nil
}

// ErrSignature says that a signature does not verify.
var ErrSignature = errors.New("cose: the signature does not verify")
