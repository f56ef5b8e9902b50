package remote

import (
	"bytes"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/message"
)

// version is that of requests and replies. Another one is refused.
const version = 1

// reader reads fields that are left out when they are zero, and therefore must not be zero.
type reader struct{ cose.Reader }

// set holds a field to be set; reading on after an error does no harm.
func (r *reader) set(is bool) {
	if !is {
		r.Fail(cose.ErrNotDeterministic)
	}
}

// some reads a map that is not empty.
func (r *reader) some(field func(key int64)) {
	is := false
	r.Fields(func(key int64) {
		is = true
		field(key)
	})
	r.set(is)
}

func (r *reader) unknown() { r.Fail(cose.ErrUnexpected) }

func (r *reader) uint() uint64 {
	n := r.Uint()
	r.set(n != 0)
	return n
}

// upTo reads a number of at most most.
func (r *reader) upTo(most uint64) uint64 {
	n := r.uint()
	if n > most {
		r.Fail(cose.ErrUnexpected)
		return 0
	}
	return n
}

func (r *reader) int() int64 {
	n := r.Int()
	r.set(n != 0)
	return n
}

func (r *reader) bytes() []byte {
	b := r.Bytes()
	r.set(len(b) != 0)
	return bytes.Clone(b)
}

func (r *reader) text(most int) string {
	b := r.Text()
	r.set(len(b) != 0)
	if len(b) > most {
		r.Fail(cose.ErrUnexpected)
		return ""
	}
	return string(b)
}

func (r *reader) id() (id identity.ID) {
	b := r.Bytes()
	if len(b) != len(id) {
		r.Fail(cose.ErrUnexpected)
		return id
	}
	id = identity.ID(b)
	r.set(!id.IsZero())
	return id
}

// array reads an array of 1 to most items, each by item.
func (r *reader) array(most int, item func()) {
	n := r.Array()
	r.set(n != 0)
	if n > most {
		r.Fail(cose.ErrUnexpected)
	}
	for ; n > 0 && r.Err() == nil; n-- {
		item()
	}
}

func (r *reader) texts(most int) (all []string) {
	r.array(most, func() { all = append(all, r.text(maxText)) })
	return all
}

func (r *reader) topic() (t message.Topic) {
	if err := t.UnmarshalText([]byte(r.text(maxPattern))); err != nil {
		r.Fail(err)
	}
	return t
}

func (r *reader) pattern() message.Pattern {
	p, err := message.ParsePattern(r.text(maxPattern))
	if err != nil {
		r.Fail(err)
	}
	return p
}

// open reads the version, which comes first, and then the other fields.
func open(body []byte, field func(r *reader, key int64)) failure {
	r := &reader{cose.NewReader(body)}
	var found uint64
	r.Fields(func(key int64) {
		switch {
		case key == 1:
			if found = r.uint(); found != version {
				r.Fail(errVersion)
			}
		case found == 0:
			r.unknown()
		default:
			field(r, key)
		}
	})
	switch err := r.End(); {
	case found > version:
		return failure{codeUnsupported, fmt.Sprintf("version %d; it knows version %d", found, version)}
	case err != nil:
		return failure{codeMalformed, cut.Marked(err.Error(), maxText)}
	case found == 0:
		return failure{codeMalformed, "it has no version"}
	}
	return failure{}
}

var errVersion = fmt.Errorf("%w: another version", ErrUnsupported)
