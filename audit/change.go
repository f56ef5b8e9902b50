package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// MaxRotations is how often the key of a log can change. Each file says who named whom, from the first key on.
const MaxRotations = 500

// Rotation is a change of the key that signs a log.
type Rotation struct {
	From, To identity.ID
	Receipt  uint64 // the last one that From has signed
	Time     time.Time
}

// changeTyp is the typ of a signed change of the key.
const changeTyp = "application/converge-audit-key"

// change is what the key that signs says of the one after it.
type change struct {
	at       checkpoint // the last receipt that it signs itself, and the chain's hash before the next file
	from, to []byte     // Ed25519
}

func (c *change) payload() []byte {
	w := cose.NewMapWriter(make([]byte, 0, 256))
	c.at.write(&w)
	w.Bytes(6, c.from)
	w.Bytes(7, c.to)
	return w.End()
}

// sign returns the statement of the key that is followed by another.
func (c *change) sign(key *identity.Identity) []byte {
	kid := key.ID()
	return cose.SignStatement(key, kid[:], cose.DomainReceipt, changeTyp, c.payload())
}

func (c *change) rotation() Rotation {
	return Rotation{From: identity.IDOf(c.from), To: identity.IDOf(c.to), Receipt: c.at.seq, Time: cose.ToTime(c.at.time)}
}

// Errors of changes of the key.
var (
	errUnnamed   = errors.New("the key changes, and the one before has not named it")
	errForgedKey = errors.New("the change of the key is not signed by the key before it")
	errOldKeys   = errors.New("the file tells of other changes of the key than the one before it")
	errKeyPlace  = errors.New("the change of the key is of another place in the log")
	errKeyLog    = errors.New("the change of the key is of another log")
	errKeyAgain  = errors.New("the key changes to one that has signed before")
)

// decodeChange reads and verifies a signed change of the key.
func decodeChange(raw []byte) (c change, err error) {
	s, err := cose.Parse(raw)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errForgedKey, err)
	}
	r := cose.NewReader(s.Payload)
	r.Fields(func(key int64) { c.field(&r, key) })
	if err := r.End(); err != nil {
		return c, fmt.Errorf("%w: %w", errForgedKey, err)
	}
	if len(c.from) != ed25519.PublicKeySize || len(c.to) != ed25519.PublicKeySize || !bytes.Equal(c.payload(), s.Payload) {
		return c, errForgedKey
	}
	kid := identity.IDOf(c.from)
	if err := s.VerifyStatement(c.from, kid[:], cose.DomainReceipt, changeTyp); err != nil {
		return c, fmt.Errorf("%w: %w", errForgedKey, err)
	}
	return c, nil
}

func (c *change) field(r *cose.Reader, key int64) {
	switch key {
	case 6:
		c.from = bytes.Clone(r.Bytes())
	case 7:
		c.to = bytes.Clone(r.Bytes())
	default:
		c.at.field(r, key)
	}
}

// follow takes in what a header says of its key: that of the file before, or one that this has named, at this place.
func (v *verifier) follow(h *header, first bool) error {
	before := len(v.head.changes)
	if len(h.changes) < before || !slices.EqualFunc(h.changes[:before], v.head.changes, bytes.Equal) {
		return errOldKeys
	}
	added := h.changes[before:]
	switch {
	case first:
	case len(added) > 1:
		return errOldKeys
	case len(added) == 0 && !bytes.Equal(h.key, v.head.key):
		return errUnnamed
	}
	changes := slices.Clip(v.changes)
	for _, raw := range added {
		c, err := decodeChange(raw)
		if err == nil {
			err = checkChange(&c, h, changes)
		}
		if err != nil {
			return err
		}
		changes = append(changes, c)
	}
	if err := checkLast(h, changes); err != nil {
		return err
	}
	if !first && len(added) > 0 && !v.endsAt(&changes[len(changes)-1]) {
		return errKeyPlace
	}
	if first || len(added) > 0 {
		v.changes, v.rotations = changes, rotations(changes)
		v.named = leadsTo(changes, h.keyID(), v.check.Key)
	}
	return nil
}

// checkChange reports why a change cannot follow those before it.
func checkChange(c *change, h *header, before []change) error {
	if c.at.log != h.log || c.at.network != h.network {
		return errKeyLog
	}
	if n := len(before); n > 0 {
		if last := &before[n-1]; !bytes.Equal(c.from, last.to) || c.at.seq <= last.at.seq {
			return errUnnamed
		}
	}
	for i := range before {
		if bytes.Equal(c.to, before[i].from) {
			return errKeyAgain
		}
	}
	if bytes.Equal(c.to, c.from) {
		return errKeyAgain
	}
	return nil
}

// checkLast holds the header of a file to the last change of the key.
func checkLast(h *header, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	switch last := &changes[len(changes)-1]; {
	case !bytes.Equal(last.to, h.key):
		return errUnnamed
	case last.at.seq >= h.first, last.at.seq == h.first-1 && last.at.head != h.previous:
		return errKeyPlace
	}
	return nil
}

// endsAt reports whether a change was made where the file before ends, by its key.
func (v *verifier) endsAt(c *change) bool {
	return bytes.Equal(c.from, v.head.key) && c.at.seq == v.sum.Last && c.at.head == v.hash
}

// leadsTo reports whether a key is the one, or one that was before it.
func leadsTo(changes []change, last, key identity.ID) bool {
	return key == last || slices.ContainsFunc(changes, func(c change) bool { return identity.IDOf(c.from) == key })
}

// names reports whether a key is the header's, or one that led to it, as far as it says.
func (h *header) names(key identity.ID) bool {
	return h.keyID() == key || slices.ContainsFunc(h.changes, func(raw []byte) bool {
		c, err := decodeChange(raw)
		return err == nil && identity.IDOf(c.from) == key
	})
}

func rotations(changes []change) (all []Rotation) {
	for i := range changes {
		all = append(all, changes[i].rotation())
	}
	return all
}
