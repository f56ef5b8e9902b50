package postgres

import (
	"context"
	"errors"

	"github.com/converge-agents/converge/store"
)

// Put implements [store.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if value == nil {
		value = []byte{}
	}
	written, err := s.change(ctx, key, value, rev)
	if err != nil {
		return 0, keyError("put", key, err)
	}
	return written, nil
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, key string, rev store.Revision) error {
	if _, err := s.change(ctx, key, nil, rev); err != nil {
		return keyError("delete", key, err)
	}
	return nil
}

// change deletes if value is nil.
func (s *Store) change(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if err := s.checkKey(ctx, key); err != nil {
		return 0, err
	}
	if err := store.CheckValue(value); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.config.Patience, errPatience)
	defer cancel()
	written, err := s.writer.queue.do(ctx, newChange(key, value, rev))
	switch {
	case errors.Is(err, errWaiting):
		return 0, gaveUp(ctx, s.health.get())
	case errors.Is(err, errSent):
		return 0, doubtful(gaveUp(ctx, s.health.get()))
	}
	return written, err
}
