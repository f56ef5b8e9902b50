// Package discovery lets agents find each other, and lets verifiers find their keys.
//
// A [Descriptor] says what an agent is and does. It names the agent's root key, which the agent's ID is the
// hash of, and is signed by that key or by the one that a key statement in it names, so a descriptor cannot
// lie about whose it is, wherever it comes from. A [Service] keeps descriptors in a store, answers queries,
// and keeps an identity.Registry current ([Service.Populate]), keys that were rotated or revoked included, so
// that verified receive works without keys typed in by hand. The store is not trusted: it can withhold
// descriptors and statements, but not alter, splice or revive them. Package gossip does without a store that
// all share.
package discovery

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/message"
)

// Limits of a [Descriptor].
const (
	MaxDescriptor   = 64 << 10 // bytes, signed
	MaxCapabilities = 256
	MaxPatterns     = 256
	MaxEndpoints    = 16
	maxText         = 1024 // bytes of a name, version, description or endpoint
)

// Errors of descriptors, to be compared with [errors.Is].
var (
	ErrForged    = errors.New("descriptor is not signed by the agent's key")
	ErrMalformed = errors.New("descriptor is malformed")
	ErrExpired   = errors.New("descriptor has expired")
	ErrNotFound  = errors.New("no descriptor of this agent")
)

// Capability is something that an agent can do for others.
type Capability struct {
	Name        string // what tasks ask for; made of letters, digits, '.', '_', '/' and '-'
	Version     string // optional
	Description string // optional, for people and models
}

// Descriptor says what an agent is and does. [Service.Register] fills in the fields after Endpoints.
type Descriptor struct {
	Name         string            // for people; not unique, proves nothing
	Topics       []message.Pattern // what it listens to
	Capabilities []Capability      // what it can do
	Endpoints    []string          // where it can be reached, as URLs

	ID        identity.ID
	Key       ed25519.PublicKey // the root key, which ID is the hash of
	Network   string
	Sequence  uint64 // rises with each descriptor of the agent
	Issued    time.Time
	Expires   time.Time
	Withdrawn bool // the agent has left; nothing else in the descriptor counts

	// Statement is the agent's signed key statement (identity.OpenKeys). It says which key signed the
	// descriptor; without it that is the root key.
	Statement []byte
}

// Can reports whether the agent has a capability of that name.
func (d Descriptor) Can(capability string) bool {
	return slices.ContainsFunc(d.Capabilities, func(c Capability) bool { return c.Name == capability })
}

const descriptorTyp = "application/converge-descriptor"

// record is the signed payload: a CBOR map with integer keys, so that fields can be added.
type record struct {
	Network      string             `cbor:"1,keyasint"`
	Key          []byte             `cbor:"2,keyasint"`
	Sequence     uint64             `cbor:"3,keyasint"`
	Issued       int64              `cbor:"4,keyasint"` // milliseconds since 1970
	Expires      int64              `cbor:"5,keyasint"` // milliseconds since 1970
	Name         string             `cbor:"6,keyasint,omitempty"`
	Topics       []string           `cbor:"7,keyasint,omitempty"`
	Capabilities []capabilityRecord `cbor:"8,keyasint,omitempty"`
	Endpoints    []string           `cbor:"9,keyasint,omitempty"`
	Withdrawn    bool               `cbor:"10,keyasint,omitempty"`
	Statement    []byte             `cbor:"11,keyasint,omitempty"`
}

type capabilityRecord struct {
	Name        string `cbor:"1,keyasint"`
	Version     string `cbor:"2,keyasint,omitempty"`
	Description string `cbor:"3,keyasint,omitempty"`
}

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  1024,
		MaxMapPairs:       64,
		ExtraReturnErrors: cbor.ExtraDecErrorNone, // later versions may add fields
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are constants
	}
	return v
}

// Sign returns the signed bytes of d, which has to name id's ID and root key, and, unless id signs with that
// key, hold the statement about the key that id signs with.
func Sign(id *identity.Identity, d Descriptor) ([]byte, error) {
	if d.ID != id.ID() {
		return nil, fmt.Errorf("sign descriptor: it names agent %s or its key, and not the signer, %s", d.ID, id.ID())
	}
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("sign descriptor: %w", err)
	}
	switch key, err := d.signer(); {
	case err != nil:
		return nil, fmt.Errorf("sign descriptor: %w", err)
	case !key.public.Equal(id.PublicKey()):
		return nil, fmt.Errorf("sign descriptor: it names another key than the one that %s signs with", id.ID())
	}
	payload, err := encMode.Marshal(d.record())
	if err != nil {
		return nil, fmt.Errorf("sign descriptor: %w", err)
	}
	kid := id.ID()
	raw := cose.SignStatement(id, kid[:], cose.DomainDescriptor, descriptorTyp, payload)
	if len(raw) > MaxDescriptor {
		return nil, fmt.Errorf("sign descriptor: %d bytes where at most %d are allowed", len(raw), MaxDescriptor)
	}
	return raw, nil
}

// Open returns the descriptor in raw if the agent that it names signed it: with the key that its statement
// names, or with the root key if it has none. It does not look at the time (see [Descriptor.CheckTime]), nor
// at what else the agent has signed: a [Service] does. Errors: [ErrMalformed], [ErrForged].
func Open(raw []byte) (Descriptor, error) {
	d, _, err := open(raw)
	return d, err
}

// signerKey is the key that a descriptor has to be signed with.
type signerKey struct {
	public ed25519.PublicKey
	epoch  uint64
}

func open(raw []byte) (Descriptor, signerKey, error) {
	d, s, err := decode(raw)
	if err != nil {
		return Descriptor{}, signerKey{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	key, err := d.signer()
	if err != nil {
		return Descriptor{}, signerKey{}, fmt.Errorf("%w: %w", ErrForged, err)
	}
	if err := s.VerifyStatement(key.public, d.ID[:], cose.DomainDescriptor, descriptorTyp); err != nil {
		return Descriptor{}, signerKey{}, fmt.Errorf("%w: %w", ErrForged, err)
	}
	return d, key, nil
}

// decode reads a descriptor and verifies nothing.
func decode(raw []byte) (Descriptor, cose.Sign1, error) {
	if len(raw) > MaxDescriptor {
		return Descriptor{}, cose.Sign1{}, fmt.Errorf("%d bytes where at most %d are allowed", len(raw), MaxDescriptor)
	}
	s, err := cose.Parse(raw)
	if err != nil {
		return Descriptor{}, s, err
	}
	var r record
	if err := decMode.Unmarshal(s.Payload, &r); err != nil {
		return Descriptor{}, s, err
	}
	d, err := r.descriptor()
	return d, s, err
}

// signer returns the key that the descriptor has to be signed with, by what it says and proves itself.
func (d Descriptor) signer() (signerKey, error) {
	if err := identity.CheckKey(d.ID, d.Key); err != nil {
		return signerKey{}, err
	}
	if len(d.Statement) == 0 {
		return signerKey{public: d.Key}, nil
	}
	s, err := identity.OpenKeys(d.Statement)
	switch {
	case err != nil:
		return signerKey{}, err
	case s.ID != d.ID:
		return signerKey{}, fmt.Errorf("it holds the key statement of agent %s: %w", s.ID, identity.ErrKeyMismatch)
	case s.Revoked:
		return signerKey{}, identity.ErrRevoked
	}
	return signerKey{s.Operational, s.Epoch}, nil
}

// CheckTime returns [ErrExpired] if d is not in force at now, clocks differing by up to
// message.DefaultSkew.
func (d Descriptor) CheckTime(now time.Time) error {
	if d.Issued.After(now.Add(message.DefaultSkew)) {
		return fmt.Errorf("%w: issued in the future, at %v", ErrExpired, d.Issued.UTC())
	}
	if !now.Before(d.Expires) {
		return fmt.Errorf("%w at %v", ErrExpired, d.Expires.UTC())
	}
	return nil
}

// check holds the limits of a descriptor.
func (d Descriptor) check() error {
	if err := message.CheckNetwork(d.Network); err != nil {
		return err
	}
	for _, list := range []struct {
		name       string
		size, most int
	}{
		{"Topics", len(d.Topics), MaxPatterns},
		{"Capabilities", len(d.Capabilities), MaxCapabilities},
		{"Endpoints", len(d.Endpoints), MaxEndpoints},
	} {
		if list.size > list.most {
			return fmt.Errorf("%d %s where a descriptor has at most %d", list.size, list.name, list.most)
		}
	}
	for i, p := range d.Topics {
		if p.String() == "" {
			return fmt.Errorf("topic %d of the descriptor is the zero pattern", i+1)
		}
	}
	for i, c := range d.Capabilities {
		if !isCapability(c.Name) {
			return fmt.Errorf("Descriptor.Capabilities[%d].Name: %.80q is not made of letters, digits, '.', '_', '/' and '-'", i, c.Name)
		}
		if !isText(c.Version) || !isText(c.Description) {
			return fmt.Errorf("Descriptor.Capabilities[%d]: version or description is not up to %d bytes of UTF-8", i, maxText)
		}
	}
	for _, text := range append(slices.Clone(d.Endpoints), d.Name) {
		if !isText(text) {
			return fmt.Errorf("name or endpoint %.40q is not up to %d bytes of UTF-8", text, maxText)
		}
	}
	return nil
}

func isText(text string) bool { return len(text) <= maxText && utf8.ValidString(text) }

func isCapability(name string) bool { return names.Is(name, maxText, "._-/") }

func (d Descriptor) record() record {
	r := record{
		Network:   d.Network,
		Key:       d.Key,
		Sequence:  d.Sequence,
		Issued:    d.Issued.UnixMilli(),
		Expires:   d.Expires.UnixMilli(),
		Name:      d.Name,
		Endpoints: d.Endpoints,
		Withdrawn: d.Withdrawn,
		Statement: d.Statement,
	}
	for _, p := range d.Topics {
		r.Topics = append(r.Topics, p.String())
	}
	for _, c := range d.Capabilities {
		r.Capabilities = append(r.Capabilities, capabilityRecord(c))
	}
	return r
}

func (r record) descriptor() (Descriptor, error) {
	d := Descriptor{
		Name:      r.Name,
		Endpoints: r.Endpoints,
		ID:        identity.IDOf(r.Key),
		Key:       r.Key,
		Network:   r.Network,
		Sequence:  r.Sequence,
		Issued:    time.UnixMilli(r.Issued),
		Expires:   time.UnixMilli(r.Expires),
		Withdrawn: r.Withdrawn,
		Statement: r.Statement,
	}
	for _, text := range r.Topics {
		p, err := message.ParsePattern(text)
		if err != nil {
			return Descriptor{}, err
		}
		d.Topics = append(d.Topics, p)
	}
	for _, c := range r.Capabilities {
		d.Capabilities = append(d.Capabilities, Capability(c))
	}
	return d, d.check()
}
