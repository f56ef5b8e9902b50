package mcp

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/tool"
)

// Hash is the SHA-256 of the canonical form of a [Definition].
type Hash [sha256.Size]byte

// ParseHash reads a hash as [Hash.String] writes it: 64 lower-case hexadecimal digits.
func ParseHash(s string) (h Hash, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) || strings.ToLower(s) != s {
		return Hash{}, fmt.Errorf("not a hash: want %d lower-case hexadecimal digits", 2*len(h))
	}
	return Hash(raw), nil
}

// String returns the hash in lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Definition is what a server says about one of its tools. All of it counts for the hash.
type Definition struct {
	Name         string          `json:"name"`
	Title        string          `json:"title"`
	Description  string          `json:"description"`
	InputSchema  json.RawMessage `json:"inputSchema"`
	OutputSchema json.RawMessage `json:"outputSchema"` // null if there is none

	// The hints, with the protocol's defaults for those that the server leaves out.
	HintTitle   string `json:"hintTitle"`
	ReadOnly    bool   `json:"readOnly"`
	Destructive bool   `json:"destructive"` // false if ReadOnly, by the protocol
	Idempotent  bool   `json:"idempotent"`
	OpenWorld   bool   `json:"openWorld"`
}

// canonicalDomain begins what is hashed. Another form of definitions needs another one.
const canonicalDomain = "converge mcp tool 1\n"

// canonical returns what is hashed: the domain, and JSON with all fields in the order of the struct and the keys of
// schemas sorted.
func (d Definition) canonical() []byte {
	text, err := json.Marshal(d)
	if err != nil {
		panic("mcp: a definition cannot be marshalled: " + err.Error()) // its schemas were made by json.Marshal
	}
	return append([]byte(canonicalDomain), text...)
}

// Hash returns the hash by which the definition is pinned.
func (d Definition) Hash() Hash { return sha256.Sum256(d.canonical()) }

// Annotations returns the hints, for the guard and approvers.
func (d Definition) Annotations() tool.Annotations {
	return tool.Annotations{ReadOnly: d.ReadOnly, Destructive: d.Destructive, OpenWorld: d.OpenWorld}
}

// define reads what a server says about a tool, and refuses what is too large or hides something.
func define(t *sdk.Tool) (d Definition, err error) {
	d = Definition{Name: t.Name, Title: t.Title, Description: t.Description, Destructive: true, OpenWorld: true}
	if a := t.Annotations; a != nil {
		d.HintTitle, d.ReadOnly, d.Idempotent = a.Title, a.ReadOnlyHint, a.IdempotentHint
		d.Destructive = !a.ReadOnlyHint && (a.DestructiveHint == nil || *a.DestructiveHint)
		d.OpenWorld = a.OpenWorldHint == nil || *a.OpenWorldHint
	}
	if d.InputSchema, err = schemaOf("input schema", t.InputSchema); err != nil {
		return d, err
	}
	if d.OutputSchema, err = schemaOf("output schema", t.OutputSchema); err != nil {
		return d, err
	}
	return d, d.check()
}

func schemaOf(what string, schema any) (json.RawMessage, error) {
	if err := checkValue(schema, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return text, nil
}

func (d Definition) check() error {
	if len(d.Description) > MaxDescription {
		return fmt.Errorf("description: %d bytes where at most %d are allowed", len(d.Description), MaxDescription)
	}
	for _, field := range []struct{ name, text string }{
		{"description", d.Description}, {"title", d.Title}, {"title among the hints", d.HintTitle},
	} {
		if err := checkText(field.text); err != nil {
			return fmt.Errorf("%s: %w", field.name, err)
		}
	}
	if n := len(d.canonical()); n > MaxDefinition {
		return fmt.Errorf("%d bytes where at most %d are allowed", n, MaxDefinition)
	}
	return nil
}

// schema returns the input schema for the registry.
func (d Definition) schema() (*jsonschema.Schema, error) {
	if string(d.InputSchema) == "null" {
		return nil, errors.New("input schema: there is none")
	}
	s := new(jsonschema.Schema)
	if err := json.Unmarshal(d.InputSchema, s); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	return s, nil
}
