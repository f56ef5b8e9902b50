package natskv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// Store is a [store.Store] on a bucket. Make one with [Open].
type Store struct {
	config Config
	conn   *client.Conn
	stream jetstream.Stream
	log    *slog.Logger

	marks  string        // starts the mark of each publication of this store
	marked atomic.Uint64 // counts them
	puts   puts
	view   *view
	era    atomic.Pointer[era]
	purge  pruner
	room   room
	ask    questions
	health health
	rarely rarely // for messages that are no entries
	origin origin

	settling sync.Mutex

	mu       sync.Mutex
	closed   bool
	lastCall uint64
	calls    map[uint64]context.CancelCauseFunc
	feeding  bool
	running  sync.WaitGroup
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Seeker = (*Store)(nil)
	_ store.Clock  = (*Store)(nil)
)

// Open opens a bucket, and makes it unless it exists. It refuses one whose settings do not keep what a store
// promises. A cluster that is about to start is waited for, for [Config.Patience].
func Open(ctx context.Context, config Config) (*Store, error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
		return nil, err
	}
	s := &Store{
		config: config,
		conn:   config.JetStream.Conn(),
		log:    config.Logger.With("bucket", config.Bucket),
		marks:  rand.Text() + ".",
		calls:  map[uint64]context.CancelCauseFunc{},
	}
	s.view = newView(config.MaxLog)
	s.purge.age, s.purge.every = markerAge, pruneEvery
	s.room.asking = make(chan struct{}, 1)
	s.era.Store(newEra())
	if err := s.ensure(ctx); err != nil {
		return nil, explain(fmt.Errorf("open bucket %q: %w", config.Bucket, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawn(s.watchConnection)
	return s, nil
}

// errRivals says that another process is making the bucket, so that it has to be looked for again. It wraps nothing: what
// the server says is final elsewhere.
var errRivals = errors.New("another process is making it")

// ensure finds the bucket's stream or makes it.
func (s *Store) ensure(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		s.stream, err = s.config.JetStream.Stream(ctx, s.config.stream())
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s.stream, err = s.make(ctx)
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return errRivals
		}
		if err != nil {
			return err
		}
		return s.config.checkSettings(s.stream.CachedInfo().Config)
	})
	if err != nil {
		return err
	}
	if most := s.conn.MaxPayload(); most < store.MaxValue+headerRoom {
		s.log.Warn("natskv: the server's max_payload is too small for the largest values", "max_payload", most, "want", store.MaxValue+headerRoom)
	}
	if s.conn.ConnectedClusterName() != "" && s.stream.CachedInfo().Config.Replicas == 1 {
		s.log.Warn("natskv: the bucket is on one server of the cluster only; it is gone for as long as that server is")
	}
	s.room.limit = roomFor(s.stream.CachedInfo().Config.MaxBytes)
	s.room.set(s.stream.CachedInfo().State.Bytes)
	return nil
}

// make makes the bucket's stream, and changes it to what it is. A server that was killed while it made a stream has written
// its settings and not their checksum: it does not find the stream when it starts again, and when it is asked to make it, it
// takes the settings that are there and leaves the checksum missing; the next time it starts, it would not find what was
// written in the meantime. A change writes both.
func (s *Store) make(ctx context.Context) (jetstream.Stream, error) {
	settings := s.config.settings(s.replicas(), time.Now())
	if _, err := s.config.JetStream.CreateStream(ctx, settings); err != nil {
		return nil, err
	}
	return s.config.JetStream.UpdateStream(ctx, settings)
}

func (s *Store) replicas() int {
	switch {
	case s.config.Replicas > 0:
		return s.config.Replicas
	case s.conn.ConnectedClusterName() != "":
		return 3
	default:
		return 1
	}
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
	if err := store.CheckKey(key); err != nil {
		return store.Entry{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return store.Entry{}, err
	}
	defer done()
	d, err := s.last(ctx, key)
	if err != nil {
		return store.Entry{}, err
	}
	if !d.isEntry() {
		return store.Entry{}, store.ErrNotFound
	}
	return d.entry(), nil
}

// Put implements [store.Store]. An error that wraps [ErrInDoubt] leaves open whether the entry was written.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	written, err := s.put(ctx, key, value, rev)
	if err != nil {
		return 0, keyError("put", key, err)
	}
	return store.Revision(written), nil
}

func (s *Store) put(ctx context.Context, key string, value []byte, rev store.Revision) (uint64, error) {
	if err := errors.Join(store.CheckKey(key), store.CheckValue(value)); err != nil {
		return 0, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := s.checkRoom(ctx, len(key)+len(value)); err != nil {
		return 0, err
	}
	if rev == 0 {
		return s.create(ctx, key, value)
	}
	return s.replace(ctx, &change{key: key, value: value}, uint64(rev))
}

// create writes an entry where there is none: no message, or the marker of a deletion.
func (s *Store) create(ctx context.Context, key string, value []byte) (uint64, error) {
	expect := uint64(0)
	for {
		written, last, err := s.write(ctx, &change{key: key, value: value}, expect)
		switch {
		case err == nil:
			return written, nil
		case !errors.Is(err, store.ErrConflict) || last.isEntry():
			return 0, err
		case last == nil:
			expect = 0
		default:
			expect = last.sequence
		}
	}
}

// replace makes a change to the entry that is at rev, and returns store.ErrConflict if there is none.
func (s *Store) replace(ctx context.Context, d *change, rev uint64) (uint64, error) {
	if err := s.wasPut(ctx, d.key, rev); err != nil {
		return 0, err
	}
	written, _, err := s.write(ctx, d, rev)
	return written, err
}

// wasPut returns store.ErrConflict unless rev is the revision of an entry. The stream would take a change that
// expects the marker of a deletion.
func (s *Store) wasPut(ctx context.Context, key string, rev uint64) error {
	if s.puts.has(rev) {
		return nil
	}
	d, err := s.at(ctx, rev)
	if err == nil && (!d.isEntry() || d.key != key) {
		err = store.ErrConflict
	}
	return err
}

// Delete implements [store.Store]. An error that wraps [ErrInDoubt] leaves open whether the entry is gone.
func (s *Store) Delete(ctx context.Context, key string, rev store.Revision) error {
	if err := s.delete(ctx, key, uint64(rev)); err != nil {
		return keyError("delete", key, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, key string, rev uint64) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = store.ErrConflict
	if rev != 0 {
		err = s.remove(ctx, key, rev)
	}
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	switch last, lastErr := s.last(ctx, key); {
	case lastErr != nil:
		return lastErr
	case !last.isEntry():
		return store.ErrNotFound
	default:
		return err
	}
}

// remove writes the marker of a deletion, in a bucket that is full to the last byte too.
func (s *Store) remove(ctx context.Context, key string, rev uint64) error {
	sequence, err := s.replace(ctx, &change{key: key, deleted: true}, rev)
	if errors.Is(err, store.ErrFull) && s.squeezeNow(ctx) == nil {
		sequence, err = s.replace(ctx, &change{key: key, deleted: true}, rev)
	}
	if err == nil {
		s.removed(ctx, key, sequence)
	}
	return err
}

// Now implements [store.Clock]: the time of the server that leads the bucket's stream. When another server takes
// over, the time is its own: the servers of a cluster need clocks that agree.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := s.now(ctx)
	if err != nil {
		return time.Time{}, explain(fmt.Errorf("time of bucket %q: %w", s.config.Bucket, err))
	}
	return now, nil
}

func (s *Store) now(ctx context.Context) (time.Time, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer done()
	info, err := s.state(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return info.TimeStamp, nil
}

// List implements [store.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	return s.ListAfter(ctx, prefix, "")
}

// ListAfter implements [store.Seeker].
func (s *Store) ListAfter(ctx context.Context, prefix, after string) iter.Seq2[store.Entry, error] {
	return changes.Sequence(
		func(emit func(store.Entry) bool) error { return s.list(ctx, prefix, after, emit) },
		func(err error) error { return prefixError("list", prefix, err) },
	)
}

func (s *Store) list(ctx context.Context, prefix, after string, emit func(store.Entry) bool) error {
	begin, err := store.Begin(prefix, after)
	if err != nil {
		return err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	_, err = snap.each(ctx, begin, prefix, emit)
	return err
}

// Close implements [store.Store]. The connection stays open: it is the caller's.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, cancel := range s.calls {
		cancel(store.ErrClosed)
	}
	s.mu.Unlock()
	s.running.Wait()
	s.view.clear()
	return nil
}

// mark returns what tells a publication from all others.
func (s *Store) mark() string { return s.marks + strconv.FormatUint(s.marked.Add(1), 36) }
