package postgres

import (
	"context"
	"time"
)

// WithPoll sets how often the log is read without a notification.
func WithPoll(c Config, every time.Duration) Config {
	c.poll = every
	return c
}

// SchemaVersion is the newest that this program knows.
var SchemaVersion = len(migrations)

// Suits says what is wrong with a server, Explained what an error of the driver means, Passing whether to try again.
var (
	Suits     = suits
	Explained = explained
	Passing   = passing
)

// Schema is where the store lies.
func (s *Store) Schema() string { return s.config.Schema }

// Settings returns a setting of the session that writes and of one that reads. Nothing may be written meanwhile.
func (s *Store) Settings(ctx context.Context, name string) [2]string {
	var found [2]string
	s.writer.session.conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&found[0])
	s.pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&found[1])
	return found
}

// Prune removes old changes from the log now.
func (s *Store) Prune(ctx context.Context) error { return s.prune(ctx) }

// Logged counts the changes that the log holds.
func (s *Store) Logged(ctx context.Context) (n int, err error) {
	err = s.pool.QueryRow(ctx, s.sql.text(`SELECT count(*) FROM converge.changes`)).Scan(&n)
	return n, err
}

// AwaitSent returns when nothing waits to be sent, and something was on its way.
func (s *Store) AwaitSent() {
	for s.writer.queue.room.TryAcquire(maxQueueBytes) {
		s.writer.queue.room.Release(maxQueueBytes)
		time.Sleep(time.Millisecond)
	}
	for s.writer.queue.length() > 0 {
		time.Sleep(time.Millisecond)
	}
}
