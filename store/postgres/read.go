package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/store"
)

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	e, err := s.get(ctx, key)
	if err != nil {
		return store.Entry{}, keyError("get", key, err)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, key string) (store.Entry, error) {
	if err := s.checkKey(ctx, key); err != nil {
		return store.Entry{}, err
	}
	ctx, end := s.begin(ctx)
	defer end()
	e, found := store.Entry{Key: key}, true
	err := s.retry(ctx, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, s.sql.get, key).Scan(&e.Value, &e.Revision)
		if found = !errors.Is(err, pgx.ErrNoRows); !found {
			return nil
		}
		return err
	})
	if err == nil && !found {
		err = store.ErrNotFound
	}
	return e, err
}

// Now implements [store.Clock] with the server's clock.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	if err := s.closed(); err != nil {
		return time.Time{}, err
	}
	ctx, end := s.begin(ctx)
	defer end()
	var now time.Time
	err := s.retry(ctx, func(ctx context.Context) error {
		return s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now)
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	return now, nil
}
