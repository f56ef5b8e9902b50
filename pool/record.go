package pool

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// A record is a COSE_Sign1 whose payload is a CBOR map in core deterministic encoding (RFC 8949 §4.2.1),
// with the version under key 1. Each record has one encoding, and unknown keys are refused: a rule that is
// not understood must not be passed over.
const recordVersion = 1

const (
	definitionTyp = "application/converge-pool"
	membershipTyp = "application/converge-member"
)

// payload returns what the owner signs.
func (d *Definition) payload() []byte {
	w := cose.NewMapWriter(nil)
	w.Uint(1, recordVersion)
	w.Text(2, d.Network)
	w.Bytes(3, d.OwnerKey)
	w.Text(4, d.Name)
	w.Uint(5, d.Sequence)
	w.Int(6, d.Created.UnixMilli())
	w.Int(7, d.Issued.UnixMilli())
	w.Texts(8, d.Topics)
	w.Uint(9, uint64(d.Admission))
	writeIDs(&w, 10, d.Allowlist)
	w.Bytes(11, d.salt)
	w.Bytes(12, d.tokenKey)
	w.Text(13, d.Custom)
	w.Uint(14, math.Float64bits(d.Trust))
	w.Text(15, d.Governance)
	w.Uint(16, uint64(d.MaxMembers))
	writeIDs(&w, 17, d.Expelled)
	w.Uint(18, fromBool(d.Dissolved))
	w.Uint(19, d.epoch)
	w.Bytes(20, d.statement)
	return w.End()
}

func parseDefinition(payload []byte) (*Definition, error) {
	d := &Definition{}
	p := newParser(payload)
	p.fields(func(key int64) {
		switch key {
		case 1:
			p.version()
		case 2:
			d.Network = p.text()
		case 3:
			d.OwnerKey = p.bytes()
		case 4:
			d.Name = p.text()
		case 5:
			d.Sequence = p.Uint()
		case 6:
			d.Created = p.time()
		case 7:
			d.Issued = p.time()
		case 8:
			d.Topics = list(&p, MaxTopics, p.text)
		case 9:
			d.Admission = Admission(min(p.Uint(), math.MaxUint8))
		case 10:
			d.Allowlist = list(&p, MaxListed, p.id)
		case 11:
			d.salt = p.bytes()
		case 12:
			d.tokenKey = p.bytes()
		case 13:
			d.Custom = p.text()
		case 14:
			d.Trust = math.Float64frombits(p.Uint())
		case 15:
			d.Governance = p.text()
		case 16:
			d.MaxMembers = int(min(p.Uint(), math.MaxInt32))
		case 17:
			d.Expelled = list(&p, MaxListed, p.id)
		case 18:
			d.Dissolved = p.bool()
		case 19:
			d.epoch = p.Uint()
		case 20:
			d.statement = p.bytes()
		default:
			p.Fail(cose.ErrUnexpected)
		}
	})
	d.Owner = identity.IDOf(d.OwnerKey)
	return d, p.end(d.payload, d.check)
}

// payload returns what the member signs.
func (m *Membership) payload() []byte {
	w := cose.NewMapWriter(nil)
	w.Uint(1, recordVersion)
	w.Text(2, m.Network)
	w.Bytes(3, m.Key)
	w.Text(4, m.Pool)
	w.Bytes(5, m.Owner[:])
	w.Uint(6, m.Sequence)
	w.Int(7, m.Issued.UnixMilli())
	w.Uint(8, fromBool(m.Left))
	w.Bytes(9, m.proof)
	w.Uint(10, m.epoch)
	w.Bytes(11, m.statement)
	return w.End()
}

func parseMembership(payload []byte) (*Membership, error) {
	m := &Membership{}
	p := newParser(payload)
	p.fields(func(key int64) {
		switch key {
		case 1:
			p.version()
		case 2:
			m.Network = p.text()
		case 3:
			m.Key = p.bytes()
		case 4:
			m.Pool = p.text()
		case 5:
			m.Owner = p.id()
		case 6:
			m.Sequence = p.Uint()
		case 7:
			m.Issued = p.time()
		case 8:
			m.Left = p.bool()
		case 9:
			m.proof = p.bytes()
		case 10:
			m.epoch = p.Uint()
		case 11:
			m.statement = p.bytes()
		default:
			p.Fail(cose.ErrUnexpected)
		}
	})
	m.Member = identity.IDOf(m.Key)
	return m, p.end(m.payload, m.check)
}

// errNewer says that a record has a version that this program does not know.
var errNewer = errors.New("it was written by a newer version of the program")

// parser reads a payload.
type parser struct {
	cose.Reader
	payload   []byte
	versioned bool
}

func newParser(payload []byte) parser {
	return parser{Reader: cose.NewReader(payload), payload: payload}
}

// fields reads the payload's map; the version comes first, so that what follows has a meaning.
func (p *parser) fields(field func(key int64)) {
	p.Fields(func(key int64) {
		if key != 1 && !p.versioned {
			p.Fail(cose.ErrUnexpected)
			return
		}
		field(key)
	})
}

func (p *parser) version() {
	p.versioned = true
	switch v := p.Uint(); {
	case v > recordVersion:
		p.Fail(errNewer)
	case v != recordVersion:
		p.Fail(cose.ErrUnexpected)
	}
}

// end makes sure that the payload is what would have been written.
func (p *parser) end(write func() []byte, check func() error) error {
	if err := p.End(); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := check(); err != nil {
		return fmt.Errorf("%w: %v", ErrRecord, err) // no ErrInvalid: it is not the caller's argument
	}
	if !p.versioned || !bytes.Equal(write(), p.payload) {
		return fmt.Errorf("%w: %w", ErrRecord, cose.ErrNotDeterministic)
	}
	return nil
}

func (p *parser) text() string  { return string(p.Text()) }
func (p *parser) bytes() []byte { return bytes.Clone(p.Bytes()) }
func (p *parser) bool() bool    { return p.Uint() == 1 }

func (p *parser) time() time.Time { return time.UnixMilli(p.Int()).UTC() }

func (p *parser) id() (id identity.ID) {
	if copy(id[:], p.Bytes()) != len(id) {
		p.Fail(cose.ErrUnexpected)
	}
	return id
}

// list reads an array of up to most items.
func list[T any](p *parser, most int, item func() T) []T {
	n := p.Array()
	if n > most {
		p.Fail(cose.ErrUnexpected)
		return nil
	}
	all := make([]T, 0, n)
	for i := 0; i < n && p.Err() == nil; i++ {
		all = append(all, item())
	}
	return all
}

func writeIDs(w *cose.MapWriter, key byte, ids []identity.ID) {
	w.Array(key, len(ids), func(buf []byte, i int) []byte { return cose.AppendBytes(buf, ids[i][:]) })
}

func fromBool(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// sign returns the signed bytes of a definition.
func (d *Definition) sign(owner *identity.Identity) ([]byte, error) {
	by, err := signerOf(owner, d.Owner)
	if err != nil {
		return nil, err
	}
	d.OwnerKey, d.epoch, d.statement = by.root, by.epoch, by.statement
	if err := d.check(); err != nil {
		return nil, err
	}
	raw := cose.SignStatement(owner, d.Owner[:], cose.DomainPool, definitionTyp, d.payload())
	if len(raw) > MaxDefinition {
		return nil, invalid("the signed definition has %d bytes where at most %d are allowed", len(raw), MaxDefinition)
	}
	return raw, nil
}

func (m *Membership) sign(member *identity.Identity) ([]byte, error) {
	by, err := signerOf(member, m.Member)
	if err != nil {
		return nil, err
	}
	m.Key, m.epoch, m.statement = by.root, by.epoch, by.statement
	if err := m.check(); err != nil {
		return nil, err
	}
	return cose.SignStatement(member, m.Member[:], cose.DomainMember, membershipTyp, m.payload()), nil
}

// openDefinition returns the definition in raw if its owner signed it.
func openDefinition(raw []byte, by verify) (*Definition, error) {
	s, err := parseSigned(raw, MaxDefinition)
	if err != nil {
		return nil, err
	}
	d, err := parseDefinition(s.Payload)
	if err != nil {
		return nil, err
	}
	return d, by(raw, s, d.author(), cose.DomainPool, definitionTyp)
}

// openMembership returns the membership in raw if its member signed it.
func openMembership(raw []byte, by verify) (*Membership, error) {
	s, err := parseSigned(raw, MaxMembership)
	if err != nil {
		return nil, err
	}
	m, err := parseMembership(s.Payload)
	if err != nil {
		return nil, err
	}
	return m, by(raw, s, m.author(), cose.DomainMember, membershipTyp)
}

func parseSigned(raw []byte, most int) (cose.Sign1, error) {
	if len(raw) > most {
		return cose.Sign1{}, fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrRecord, len(raw), most)
	}
	s, err := cose.Parse(raw)
	if err != nil {
		return cose.Sign1{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return s, nil
}
