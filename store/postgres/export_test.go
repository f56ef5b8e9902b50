package postgres

import "time"

// WithPoll sets how often the log is read without a notification.
func WithPoll(c Config, every time.Duration) Config {
	c.poll = every
	return c
}

// SchemaVersion is the newest that this program knows.
var SchemaVersion = len(migrations)

// Suits says what is wrong with a server.
var Suits = suits

// Schema is where the store lies.
func (s *Store) Schema() string { return s.config.Schema }
