// Package sqlite is a [store.Store] in one file, which survives the process, a kill -9 and a loss of
// power.
//
// A change is acknowledged after it is in SQLite's write-ahead log and that is synced to the disk
// (journal_mode=WAL, synchronous=FULL). One goroutine writes. What comes in while it waits for the disk goes
// into the next transaction together, so concurrent callers share a sync and a lone one waits for nobody.
// Conflicts are found change by change: one that loses does not disturb the others of its transaction.
//
// # One process a file
//
// An advisory lock beside the file (its name with ".lock") keeps a second process out; the system
// releases it when the process ends, however it ends. Processes that share a store use PostgreSQL or NATS.
//
// # Watches and restarts
//
// The latest changes are kept in memory for watchers. After a restart a watch goes on from the latest
// revision; from an earlier one it ends with [store.ErrCompacted]. Revisions never go back.
//
// # Damage and failures
//
// Open reads the whole file and refuses one that is damaged; each entry has a checksum that is compared
// when it is read. A full disk is [store.ErrFull], which ends when there is room. After any other error of
// the disk nobody knows what it has kept, so the store stays failed: all calls return [ErrFailed] with the
// cause until it is opened again.
package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

const pageSize = 4096

// Config says where a store lives and what it holds. Only Path is required.
type Config struct {
	// Path names the database file. It and its directory are made if they are missing, with modes 0600
	// and 0700. SQLite keeps files of the same name with -wal and -shm beside it.
	Path string

	MaxBytes int64 // bytes of the file; 0 means 64 GiB. Beyond it changes return store.ErrFull.

	MaxLog      int   // changes kept in memory for watchers; 0 means 262,144
	MaxLogBytes int64 // bytes of those changes; 0 means 64 MiB. The newest change is always kept.

	MaxQueue int // changes that wait for the writer; 0 means 4,096. Beyond it callers wait for room.
	MaxLists int // loops over List and Watch that hold a moment while they run; 0 means 256. Beyond it they get an error.

	Logger *slog.Logger // hears of new, migrated and failed stores; nil means nobody does
}

// withDefaults returns c with its zeros replaced, or an error that names the field at fault.
func (c Config) withDefaults() (Config, error) {
	if c.Path == "" {
		return c, errors.New("sqlite store: Path is missing")
	}
	if c.MaxBytes < 0 || c.MaxLog < 0 || c.MaxLogBytes < 0 || c.MaxQueue < 0 || c.MaxLists < 0 {
		return c, fmt.Errorf("sqlite store: a bound is negative: MaxBytes %d, MaxLog %d, MaxLogBytes %d, MaxQueue %d, MaxLists %d",
			c.MaxBytes, c.MaxLog, c.MaxLogBytes, c.MaxQueue, c.MaxLists)
	}
	c.MaxBytes = cmp.Or(c.MaxBytes, 64<<30)
	c.MaxLog = cmp.Or(c.MaxLog, 1<<18)
	c.MaxLogBytes = cmp.Or(c.MaxLogBytes, 64<<20)
	c.MaxQueue = cmp.Or(c.MaxQueue, 4096)
	c.MaxLists = cmp.Or(c.MaxLists, 256)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c, nil
}

// Store is a [store.Store] in a file. [Open] makes one.
type Store struct {
	config  Config
	lock    *os.File
	log     *changes.Log
	readers *readers
	writer  *writer

	closing  sync.Once
	closeErr error
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Seeker = (*Store)(nil)
)

// Open opens the store at config.Path and makes it if there is none. It returns [ErrLocked] if another
// process has it open, [ErrForeign] or [ErrNewer] for a file that it leaves as it is, and [ErrCorrupt] for one
// that is damaged. Reading a large file takes time; ctx ends that. The store starts one goroutine, which
// [Store.Close] ends.
func Open(ctx context.Context, config Config) (*Store, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", config.Path, err)
	}
	return s, nil
}

func open(ctx context.Context, config Config) (*Store, error) {
	// Process-wide, and as durable as fsync: it leaves out the times of the file. It is what SQLite
	// itself does where its configuration finds fdatasync; elsewhere this is an error and changes nothing.
	sqlite.Fdatasync(true)
	var err error
	if config.Path, err = locate(config.Path); err != nil {
		return nil, err
	}
	if _, err := exists(config.Path); err != nil { // before a lock is left beside something else
		return nil, err
	}
	lock, err := acquire(ctx, config.Path)
	if err != nil {
		return nil, err
	}
	s, err := openLocked(ctx, config)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

func openLocked(ctx context.Context, config Config) (*Store, error) {
	if there, err := exists(config.Path); err != nil { // again: the process that had the lock may have made it
		return nil, err
	} else if !there {
		if err := create(config.Path); err != nil {
			return nil, err
		}
		config.Logger.Info("made a new store", "path", config.Path)
	}
	if err := checkHeader(config.Path); err != nil {
		return nil, err
	}
	if err := os.Chmod(config.Path, 0o600); err != nil {
		return nil, access(err)
	}
	c, err := dial(config.Path, writerSettings)
	if err != nil {
		return nil, explained(err)
	}
	s, err := start(ctx, config, c)
	if code(err) == codes.SQLITE_ERROR { // the statements are right, so what they speak of is wrong
		err = damage("its tables are not those of a store: %w", err)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return s, nil
}

// start makes a store of a connection, which it owns if it succeeds.
func start(ctx context.Context, config Config, c *conn) (*Store, error) {
	if err := prepare(ctx, config, c); err != nil {
		return nil, err
	}
	last, err := lastRevision(c)
	if err != nil {
		return nil, err
	}
	s := &Store{config: config, log: changes.New(config.MaxLog, config.MaxLogBytes, last)}
	s.readers = newReaders(config)
	if s.writer, err = newWriter(c, s.log, last, config); err != nil {
		return nil, explained(err)
	}
	go s.writer.run()
	return s, nil
}

func lastRevision(c *conn) (store.Revision, error) {
	v, err := c.value("SELECT revision FROM counter")
	if err != nil {
		return 0, explained(err)
	}
	last, ok := v.(int64)
	if !ok || last < 0 {
		return 0, damage("the counter of revisions is gone")
	}
	return store.Revision(last), nil
}

// prepare checks a database and brings it up to date.
func prepare(ctx context.Context, config Config, c *conn) error {
	version, err := c.integer("PRAGMA user_version") // that of the header may wait in the log
	if err != nil {
		return explained(err)
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if err := check(ctx, c); err != nil {
		return err
	}
	if version < int64(len(migrations)) {
		config.Logger.Info("migrate the store", "path", config.Path, "from", version, "to", len(migrations))
	}
	if err := migrate(c, migrations); err != nil {
		return explained(err)
	}
	return explained(c.exec(fmt.Sprintf("PRAGMA max_page_count = %d", max(config.MaxBytes/pageSize, 1))))
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	e, err := s.get(ctx, key)
	if err != nil {
		return store.Entry{}, keyError("get", key, err)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, key string) (store.Entry, error) {
	if ctx.Err() != nil {
		return store.Entry{}, context.Cause(ctx)
	}
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	r, err := s.reader(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	defer s.readers.release(r)
	return r.get(key)
}

// reader borrows a connection from a store that works.
func (s *Store) reader(ctx context.Context) (*reader, error) {
	if err := s.writer.check(); err != nil {
		return nil, err
	}
	return s.readers.borrow(ctx)
}

// Put implements [store.Store].
func (s *Store) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if err := store.CheckValue(value); err != nil {
		return 0, keyError("put", key, err)
	}
	written, err := s.change(ctx, key, rev, func() *changes.Change { return changes.Put(key, value) })
	if err != nil {
		return 0, keyError("put", key, err)
	}
	return written, nil
}

// Delete implements [store.Store].
func (s *Store) Delete(ctx context.Context, key string, rev store.Revision) error {
	if _, err := s.change(ctx, key, rev, func() *changes.Change { return changes.Delete(key) }); err != nil {
		return keyError("delete", key, err)
	}
	return nil
}

func (s *Store) change(ctx context.Context, key string, rev store.Revision, to func() *changes.Change) (store.Revision, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err := store.CheckKey(key); err != nil {
		return 0, err
	}
	return s.writer.do(ctx, &request{Change: to(), replaces: rev})
}

// Close implements [store.Store]. What waits for the writer is still written. Loops over List and Watch that
// are under way end with [store.ErrClosed] at their next step. Close moves the log into the database, so
// that afterwards one file holds everything, and releases the lock.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	s.writer.stop()
	s.log.Close(store.ErrClosed)
	errs := []error{s.readers.close(), s.writer.conn.checkpoint(), s.writer.conn.close(), s.lock.Close()}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store %q: %w", s.config.Path, explained(err))
	}
	return nil
}
