// Package postgres is a [store.Store] in a PostgreSQL database, shared by any number of processes.
//
// All that it has lies in one schema of the database, which [Open] makes and brings up to date. A change is
// acknowledged when PostgreSQL has committed it with synchronous_commit on or stronger; a server that does not
// sync its disk is refused.
//
// Revisions come from one row that each writing transaction locks, so changes become visible in the order of
// their revisions and a watch has no gaps. To make that quick, the changes of a process that are asked for at
// the same time share one transaction; each has its own outcome. A change that comes alone waits for no other.
//
// When the connection breaks, calls try again with growing pauses until their context ends or
// [Config.Patience] is over. Whether a transaction that was on its way has happened is found out before anything
// is said or tried again: each leaves its number behind, and one that has not arrived yet is locked out. A call
// that cannot wait for the answer gets an error which says that the change may have happened.
//
// A watch reads a bounded log of changes. One connection of the process reads it for all watchers, woken by
// NOTIFY, and every few seconds in case a notification is lost. Watches go on after a lost connection; nothing is
// missed, since they go on from a revision.
//
// What is stored is bytes and stays bytes: no value is interpreted, and keys and values reach the server as
// parameters only. The connection has to be one to the server itself or to a proxy that keeps sessions: poolers that
// hand out a session for each transaction break LISTEN.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/converge-agents/converge/store"
)

// Store is a [store.Store] in PostgreSQL. Make one with [Open].
type Store struct {
	config Config
	link   *pgx.ConnConfig // never altered
	sql    statements
	log    *slog.Logger

	pool   *pgxpool.Pool // for reads; nothing that waits for a loop's body holds one of its connections
	lists  chan struct{} // one for each long list
	writer *writer
	tail   *tail
	health health

	ctx     context.Context // ends with ErrClosed
	end     context.CancelCauseFunc
	closing sync.Once
	running sync.WaitGroup
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Seeker = (*Store)(nil)
	_ store.Clock  = (*Store)(nil)
)

// Open connects, makes or brings up to date what the database has to hold, and returns the store. It fails at
// once, with an error that often has a method Hint() string, if the server cannot be reached or does not suit:
// [ErrNewerSchema], [ErrUnsynced], [ErrOldServer]. The context bounds Open alone.
func Open(ctx context.Context, config Config) (*Store, error) {
	s, err := open(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open store in PostgreSQL: %w", err)
	}
	return s, nil
}

func open(ctx context.Context, config Config) (*Store, error) {
	config, pool, err := config.check()
	if err != nil {
		return nil, err
	}
	s := &Store{config: config, link: pool.ConnConfig.Copy(), sql: newStatements(config.Schema), log: config.Logger, lists: make(chan struct{}, maxLists)}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	if err := s.migrate(ctx); err != nil {
		s.end(nil)
		return nil, err
	}
	if s.pool, err = s.newPool(pool); err != nil {
		s.end(nil)
		return nil, err
	}
	s.start()
	return s, nil
}

func (s *Store) start() {
	s.writer, s.tail = newWriter(s), newTail(s)
	s.running.Go(s.writer.run)
	s.running.Go(s.tail.run)
	s.running.Go(s.writer.prune)
}

// Close implements [store.Store]. A transaction that is on its way gets two seconds to be acknowledged; other calls
// end at once with [store.ErrClosed].
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.end(store.ErrClosed)
		grace := s.writer.stop()
		s.running.Wait()
		grace.Stop()
		s.pool.Close()
	})
	return nil
}

// closed returns ErrClosed after Close.
func (s *Store) closed() error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return nil
}

// begin returns a context for the part of a call in which it waits for the server. It ends with Close and after
// the patience of the store as well, with a cause that says so.
func (s *Store) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, expire := context.WithTimeoutCause(ctx, s.config.Patience, errPatience)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(store.ErrClosed) })
	return ctx, func() { stop(); cancel(nil); expire() }
}

// checkKey refuses what no server has to be asked for.
func (s *Store) checkKey(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(store.CheckKey(key), s.closed())
}

func keyError(op, key string, err error) error {
	return fmt.Errorf("%s %.80q: %w", op, key, err)
}

func prefixError(op, prefix string, err error) error {
	return fmt.Errorf("%s keys with prefix %.80q: %w", op, prefix, err)
}
