package mcp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/store"
)

const pinFolder = "mcp"

// pinVersion is the version of a pin's record, which is a CBOR map with integer keys in core deterministic encoding
// (RFC 8949 §4.2.1).
const pinVersion = 1

// Pin is a hash that a tool's definition has to have.
type Pin struct {
	Server, Tool string
	Hash         Hash
	Since        time.Time // of this hash, to the second
	Approved     bool      // by somebody; false if it was what the server offered first
}

// Pins keeps pins in a store, those of one network. It is safe for concurrent use.
type Pins struct {
	store   store.Store
	network string
}

// NewPins returns the pins of a network in a store.
func NewPins(s store.Store, network string) *Pins { return &Pins{s, network} }

type pinRecord struct {
	Version  uint64 `cbor:"1,keyasint"`
	Hash     []byte `cbor:"2,keyasint"`
	Since    int64  `cbor:"3,keyasint"` // seconds since 1970
	Approved bool   `cbor:"4,keyasint"`
}

var (
	pinEncoding, _ = cbor.CoreDetEncOptions().EncMode()
	pinDecoding, _ = cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
)

func (p Pin) marshal() ([]byte, error) {
	return pinEncoding.Marshal(pinRecord{pinVersion, p.Hash[:], p.Since.Unix(), p.Approved})
}

func parsePin(raw []byte) (p Pin, err error) {
	var r pinRecord
	if err := pinDecoding.Unmarshal(raw, &r); err != nil {
		return p, errors.New("the record of the pin is malformed")
	}
	if r.Version != pinVersion || len(r.Hash) != len(p.Hash) {
		return p, fmt.Errorf("the record of the pin has version %d and a hash of %d bytes where %d and %d are known", r.Version, len(r.Hash), pinVersion, len(p.Hash))
	}
	p = Pin{Hash: Hash(r.Hash), Since: time.Unix(r.Since, 0).UTC(), Approved: r.Approved}
	if again, err := p.marshal(); err != nil || string(again) != string(raw) {
		return Pin{}, errors.New("the record of the pin is not in its canonical form")
	}
	return p, nil
}

func (p *Pins) key(server, tool string) string { return store.Key(pinFolder, p.network, server, tool) }

// Get returns the pin of a tool, or [store.ErrNotFound].
func (p *Pins) Get(ctx context.Context, server, tool string) (Pin, error) {
	pin, _, err := p.get(ctx, server, tool)
	return pin, err
}

func (p *Pins) get(ctx context.Context, server, tool string) (Pin, store.Revision, error) {
	entry, err := p.store.Get(ctx, p.key(server, tool))
	if err != nil {
		return Pin{}, 0, fmt.Errorf("read the pin of %s.%s: %w", server, tool, err)
	}
	pin, err := parsePin(entry.Value)
	if err != nil {
		return Pin{}, 0, fmt.Errorf("read the pin of %s.%s: %w", server, tool, err)
	}
	pin.Server, pin.Tool = server, tool
	return pin, entry.Revision, nil
}

// First returns the pin of a tool. If it has none, the hash that is offered becomes its pin; first reports that.
func (p *Pins) First(ctx context.Context, server, tool string, offered Hash) (pin Pin, first bool, err error) {
	pin = Pin{server, tool, offered, time.Now().Truncate(time.Second).UTC(), false}
	err = p.put(ctx, pin, 0)
	if err == nil {
		return pin, true, nil
	}
	if !errors.Is(err, store.ErrConflict) {
		return Pin{}, false, err
	}
	pin, err = p.Get(ctx, server, tool)
	return pin, false, err
}

func (p *Pins) put(ctx context.Context, pin Pin, rev store.Revision) error {
	raw, err := pin.marshal()
	if err == nil {
		_, err = p.store.Put(ctx, p.key(pin.Server, pin.Tool), raw, rev)
	}
	if err != nil {
		return fmt.Errorf("write the pin of %s.%s: %w", pin.Server, pin.Tool, err)
	}
	return nil
}

// Accept makes a hash the approved pin of a tool, whatever it was before. A server that runs goes on with the pin that
// it started with.
func (p *Pins) Accept(ctx context.Context, server, tool string, hash Hash) error {
	_, rev, err := p.get(ctx, server, tool)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return p.put(ctx, Pin{server, tool, hash, time.Now(), true}, rev)
}

// Forget removes the pin of a tool, so that the next definition that is seen gets it. It returns
// [store.ErrNotFound] if there is none.
func (p *Pins) Forget(ctx context.Context, server, tool string) error {
	entry, err := p.store.Get(ctx, p.key(server, tool))
	if err == nil {
		err = p.store.Delete(ctx, entry.Key, entry.Revision)
	}
	if err != nil {
		return fmt.Errorf("forget the pin of %s.%s: %w", server, tool, err)
	}
	return nil
}
