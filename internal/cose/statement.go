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
	return Sign(key, domain, statementHeader(kid, typ), payload).Append(nil)
}

func statementHeader(kid []byte, typ string) []byte {
	b := AppendMap(nil, 3)
	b = AppendInt(b, LabelAlg)
	b = AppendInt(b, AlgEdDSA)
	b = AppendInt(b, LabelKid)
	b = AppendBytes(b, kid)
	b = AppendInt(b, LabelTyp)
	return AppendText(b, typ)
}

// OpenStatement returns the payload that key signed under domain and typ. The header has to be, byte
// for byte, the one that [SignStatement] makes for kid.
func OpenStatement(raw []byte, key ed25519.PublicKey, kid []byte, domain Domain, typ string) ([]byte, error) {
	s, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	if string(s.Protected) != string(statementHeader(kid, typ)) {
		return nil, ErrHeader
	}
	if !s.Verify(key, domain) {
		return nil, ErrSignature
	}
	return s.Payload, nil
}

// ErrSignature says that a signature does not verify.
var ErrSignature = errors.New("cose: the signature does not verify")
