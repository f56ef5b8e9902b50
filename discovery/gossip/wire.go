package gossip

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// ContentType is that of messages between gossips. Agents do not get to see them.
const ContentType = "application/converge-discovery"

// Limits of a message.
const (
	MaxItems = 64
	maxBody  = 128 << 10 // bytes: a descriptor of any size has room
	goodBody = 32 << 10  // bytes after which no other item is added
)

// ErrMalformed says that a message of ContentType is none.
var ErrMalformed = errors.New("discovery message is malformed")

// version is that of the format below.
const version = 1

// kind says what a message is for.
type kind uint64

const (
	announce kind = iota // holds items
	request              // asks everybody for what they know; holds no items
)

// item is a signed descriptor or key statement.
type item struct {
	name  // whose ID is not on the wire
	raw   []byte
	tries int // that were in vain
}

// encode returns the array [version, kind, [[0 or 1, bytes] …]].
func encode(k kind, items []item) []byte {
	b := cose.AppendArray(nil, 3)
	b = cose.AppendUint(b, version)
	b = cose.AppendUint(b, uint64(k))
	b = cose.AppendArray(b, len(items))
	for _, i := range items {
		b = cose.AppendArray(b, 2)
		b = cose.AppendUint(b, flag(i.statement))
		b = cose.AppendBytes(b, i.raw)
	}
	return b
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// parse reads what encode writes. The items share body.
func parse(body []byte) (kind, []item, error) {
	if len(body) > maxBody {
		return 0, nil, fmt.Errorf("%w: %d bytes where at most %d are allowed", ErrMalformed, len(body), maxBody)
	}
	r := cose.NewReader(body)
	if n := r.Array(); n != 3 {
		r.Fail(cose.ErrUnexpected)
	}
	if v := r.Uint(); r.Err() == nil && v != version {
		return 0, nil, fmt.Errorf("%w: it is of version %d and this is version %d: upgrade", ErrMalformed, v, version)
	}
	k := kind(r.Uint())
	n := r.Array()
	if k > request || n > MaxItems || k == request && n > 0 {
		r.Fail(cose.ErrUnexpected)
	}
	items := readItems(&r, n)
	if err := r.End(); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !bytes.Equal(encode(k, items), body) {
		return 0, nil, fmt.Errorf("%w: not the one encoding of what it says", ErrMalformed)
	}
	return k, items, nil
}

func readItems(r *cose.Reader, n int) (items []item) {
	for range n {
		if r.Err() != nil {
			return nil
		}
		if pair := r.Array(); pair != 2 {
			r.Fail(cose.ErrUnexpected)
		}
		which, raw := r.Uint(), r.Bytes()
		if which > 1 || len(raw) > limit(which == 1) {
			r.Fail(cose.ErrUnexpected)
		}
		items = append(items, item{name: name{statement: which == 1}, raw: raw})
	}
	return items
}

func limit(statement bool) int {
	if statement {
		return identity.MaxStatement
	}
	return discovery.MaxDescriptor
}
