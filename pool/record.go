package pool

import (
	"bytes"
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
	w.Flag(18, d.Dissolved)
	w.Uint(19, d.epoch)
	w.Bytes(20, d.statement)
	return w.End()
}

func parseDefinition(payload []byte) (*Definition, error) {
	d := &Definition{}
	p := parser{cose.NewReader(payload)}
	p.Record(recordVersion, func(key int64) {
		switch key {
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
			d.Topics = cose.List(&p.Reader, MaxTopics, p.text)
		case 9:
			d.Admission = Admission(min(p.Uint(), math.MaxUint8))
		case 10:
			d.Allowlist = cose.List(&p.Reader, MaxListed, p.id)
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
			d.Expelled = cose.List(&p.Reader, MaxListed, p.id)
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
	return d, p.end(payload, d)
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
	w.Flag(8, m.Left)
	w.Bytes(9, m.proof)
	w.Uint(10, m.epoch)
	w.Bytes(11, m.statement)
	return w.End()
}

func parseMembership(payload []byte) (*Membership, error) {
	m := &Membership{}
	p := parser{cose.NewReader(payload)}
	p.Record(recordVersion, func(key int64) {
		switch key {
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
	return m, p.end(payload, m)
}

// parser reads a payload.
type parser struct{ cose.Reader }

// end makes sure that the payload is what would have been written of r.
func (p *parser) end(payload []byte, r record) error {
	if err := p.End(); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("%w: %v", ErrRecord, err) // no ErrInvalid: it is not the caller's argument
	}
	if !bytes.Equal(r.payload(), payload) {
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

func writeIDs(w *cose.MapWriter, key byte, ids []identity.ID) {
	w.Array(key, len(ids), func(buf []byte, i int) []byte { return cose.AppendBytes(buf, ids[i][:]) })
}

// record is a definition or a membership.
type record interface {
	author() author
	setAuthor(author)
	check() error
	payload() []byte
}

// form is what tells one sort of records from the other.
type form[R record] struct {
	most   int // bytes, signed
	domain cose.Domain
	typ    string
	parse  func(payload []byte) (R, error)
}

var (
	definitionForm = form[*Definition]{MaxDefinition, cose.DomainPool, definitionTyp, parseDefinition}
	membershipForm = form[*Membership]{MaxMembership, cose.DomainMember, membershipTyp, parseMembership}
)

// sign returns the signed bytes of a record, and names in it whoever signs.
func (f form[R]) sign(r R, signer *identity.Identity) ([]byte, error) {
	by, err := signerOf(signer, r.author().id)
	if err != nil {
		return nil, err
	}
	r.setAuthor(by)
	if err := r.check(); err != nil {
		return nil, err
	}
	raw := cose.SignStatement(signer, by.id[:], f.domain, f.typ, r.payload())
	if len(raw) > f.most {
		return nil, invalid("the signed record has %d bytes where at most %d are allowed", len(raw), f.most)
	}
	return raw, nil
}

// open returns the record in raw if its author signed it.
func (f form[R]) open(raw []byte, by verify) (none R, err error) {
	if len(raw) > f.most {
		return none, fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrRecord, len(raw), f.most)
	}
	s, err := cose.Parse(raw)
	if err != nil {
		return none, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	r, err := f.parse(s.Payload)
	if err != nil {
		return none, err
	}
	return r, by(raw, s, r.author(), f.domain, f.typ)
}

func (d *Definition) sign(owner *identity.Identity) ([]byte, error) {
	return definitionForm.sign(d, owner)
}

func (m *Membership) sign(member *identity.Identity) ([]byte, error) {
	return membershipForm.sign(m, member)
}

// openDefinition returns the definition in raw if its owner signed it.
func openDefinition(raw []byte, by verify) (*Definition, error) { return definitionForm.open(raw, by) }

// openMembership returns the membership in raw if its member signed it.
func openMembership(raw []byte, by verify) (*Membership, error) { return membershipForm.open(raw, by) }
