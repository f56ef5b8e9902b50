package identity

import (
	"bytes"
	"encoding/pem"
	"fmt"
)

const (
	statementBlockType = "CONVERGE KEY STATEMENT"
	maxStatementText   = 4 * MaxStatement
)

// EncodeStatement returns the text form of a signed statement: a PEM block (RFC 7468) of the type "CONVERGE KEY
// STATEMENT". It holds nothing secret.
func EncodeStatement(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: statementBlockType, Bytes: raw})
}

// DecodeStatement returns the signed statement in a text that holds one block of [EncodeStatement] and, before
// it, lines of other text. It checks the block as [OpenKeys] does.
func DecodeStatement(text []byte) ([]byte, error) {
	if len(text) > maxStatementText {
		return nil, fmt.Errorf("%w: the text is larger than %d bytes", ErrStatement, maxStatementText)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != statementBlockType || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: expected one PEM block %q", ErrStatement, statementBlockType)
	}
	if _, err := OpenKeys(block.Bytes); err != nil {
		return nil, err
	}
	return block.Bytes, nil
}
