package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
)

// lifePrefix is where a store holds statements, one entry an agent: an array in deterministic CBOR of the
// version, the signed statement, the one that contradicts it or nothing, and 1 if that was released or else 0.
const lifePrefix = "keys"

const lifeVersion = 1

// ErrKeysVersion says that a newer version of Converge wrote the entry.
var ErrKeysVersion = errors.New("written by a newer version of Converge: upgrade")

func (l *life) encode() []byte {
	b := cose.AppendArray(make([]byte, 0, 16+len(l.raw)+len(l.other)), 4)
	b = cose.AppendUint(b, lifeVersion)
	b = cose.AppendBytes(b, []byte(l.raw))
	b = cose.AppendBytes(b, []byte(l.other))
	if l.released {
		return cose.AppendUint(b, 1)
	}
	return cose.AppendUint(b, 0)
}

// lifeRecord is a decoded entry of which nothing is proved.
type lifeRecord struct {
	raw, other []byte
	released   bool
}

func decodeLife(data []byte) (l lifeRecord, err error) {
	r := cose.NewReader(data)
	items := r.Array()
	if version := r.Uint(); r.Err() == nil && version > lifeVersion {
		return l, ErrKeysVersion
	} else if items != 4 || version != lifeVersion {
		r.Fail(cose.ErrUnexpected)
	}
	l.raw, l.other = r.Bytes(), r.Bytes()
	released := r.Uint()
	if released > 1 || released == 1 && len(l.other) == 0 {
		r.Fail(cose.ErrUnexpected)
	}
	l.released = released == 1
	if err := r.End(); err != nil {
		return l, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	return l, nil
}

// loadLife takes in what an entry says of an agent. It is no failure if more is known already.
func (r *Registry) loadLife(id ID, value []byte) error {
	l, err := decodeLife(value)
	if err != nil {
		return err
	}
	for _, raw := range [][]byte{l.raw, l.other} {
		if len(raw) == 0 {
			continue
		}
		if err := r.loadStatement(id, raw); err != nil {
			return err
		}
	}
	if l.released {
		r.releaseFrom(id, string(l.raw), string(l.other))
	}
	return nil
}

func (r *Registry) loadStatement(id ID, raw []byte) error {
	s, err := OpenKeys(raw)
	if err != nil {
		return err
	}
	if s.ID != id {
		return fmt.Errorf("%w: it is about agent %s", ErrKeyMismatch, s.ID)
	}
	_, err = r.Apply(raw)
	for _, expected := range []error{ErrRolledBack, ErrRevoked, ErrQuarantined} {
		if errors.Is(err, expected) {
			return nil
		}
	}
	return err
}

// releaseFrom is Release if the quarantine is due to these two statements.
func (r *Registry) releaseFrom(id ID, raw, other string) {
	if l := r.entry(id).life; l != nil && l.raw == raw && l.other == other {
		r.Release(id)
	}
}

// saveLife brings the entry of an agent and what r knows of it together: in the end both have what counts.
func (r *Registry) saveLife(ctx context.Context, s store.Store, id ID) error {
	key := store.Key(lifePrefix, id.String())
	for {
		stored, err := r.mergeLife(ctx, s, id, key)
		if err != nil {
			return err
		}
		value := r.entry(id).life.encode()
		if string(stored.Value) == string(value) {
			return nil
		}
		_, err = s.Put(ctx, key, value, stored.Revision)
		if !errors.Is(err, store.ErrConflict) { // or another process was faster: look again
			return err
		}
	}
}

// mergeLife takes in what the store knows, and returns it; the zero Entry if that is nothing. An entry that cannot be read is written
// over, unless a newer version wrote it.
func (r *Registry) mergeLife(ctx context.Context, s store.Store, id ID, key string) (store.Entry, error) {
	entry, err := s.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return store.Entry{}, nil
	}
	if err != nil {
		return store.Entry{}, err
	}
	if err := r.loadLife(id, entry.Value); errors.Is(err, ErrKeysVersion) {
		return store.Entry{}, err
	}
	return entry, nil
}
