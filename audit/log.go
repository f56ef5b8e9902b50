package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Defaults of a [Config].
const (
	DefaultInterval = time.Second
	DefaultMaxSize  = 64 << 20
	DefaultKeep     = 4 << 30
	DefaultBuffer   = 8 << 20
)

// MinMaxSize is the least MaxSize of a [Config].
const MinMaxSize = 4 << 10

// Config configures a [Log]. Required are Dir, Key and Network.
type Config struct {
	Dir string             // made if it is missing; for one process at a time
	Key *identity.Identity // signs checkpoints; no agent should hold it, and it has no operational key
	// Next, if set, is a key that [Log.RotateKey] was called with and may have put in force: Open goes on with
	// whichever of the two the log says. See [Log.Key].
	Next    *identity.Identity
	Network string // is part of each checkpoint

	Interval time.Duration // between syncs while there is something new; 0 means DefaultInterval
	// MaxSize is how many bytes a file grows to before there is a new one, plus what one sync writes; 0 means
	// DefaultMaxSize.
	MaxSize int64
	// Keep bounds all files together: where they have more bytes, the oldest are removed, and a receipt says so.
	// It is at least twice MaxSize; 0 means DefaultKeep, and -1 keeps all.
	Keep   int64
	Buffer int          // bytes that wait for the disk at most, then Append waits; 0 means DefaultBuffer
	Logger *slog.Logger // nil means slog.Default

	create func(name string, flags int) (disk, error) // for tests; nil means openDisk
}

func (c *Config) setDefaults() error {
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.MaxSize = cmp.Or(c.MaxSize, DefaultMaxSize)
	c.Keep = cmp.Or(c.Keep, max(DefaultKeep, 2*c.MaxSize))
	c.Buffer = cmp.Or(c.Buffer, DefaultBuffer)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.create == nil {
		c.create = openDisk
	}
	switch {
	case c.Dir == "":
		return errors.New("audit.Config.Dir: required")
	case c.Key == nil:
		return errors.New("audit.Config.Key: required")
	case c.Key.ID() != identity.IDOf(c.Key.PublicKey()):
		return errors.New("audit.Config.Key: it is an operational key, and the log wants a root key of its own")
	case c.Next != nil && c.Next.ID() != identity.IDOf(c.Next.PublicKey()):
		return errors.New("audit.Config.Next: it is an operational key, and the log wants a root key of its own")
	case c.Network == "":
		return errors.New("audit.Config.Network: required")
	case c.Interval < 0, c.Buffer < 0:
		return errors.New("audit.Config: Interval and Buffer must not be negative")
	case c.MaxSize < MinMaxSize:
		return fmt.Errorf("audit.Config.MaxSize: %d, and the least is %d", c.MaxSize, MinMaxSize)
	case c.Keep != -1 && c.Keep < 2*c.MaxSize:
		return fmt.Errorf("audit.Config.Keep: %d, and the least is twice MaxSize, %d", c.Keep, 2*c.MaxSize)
	}
	return nil
}

// keys returns the IDs of the keys that may have signed.
func (c *Config) keys() []identity.ID {
	all := []identity.ID{c.Key.ID()}
	if c.Next != nil {
		all = append(all, c.Next.ID())
	}
	return all
}

// Log appends receipts to files. It is safe for concurrent use, and has the folder for itself until it is closed.
type Log struct {
	config Config
	lock   *os.File
	notify chan struct{} // holds a token while the writer has something to do
	ended  chan struct{} // closed when the writer has ended

	mu       sync.Mutex
	key      *identity.Identity // signs
	kid      identity.ID        // of key
	turn     *turn              // to another key; nil if none is asked for
	room     sync.Cond          // something was taken out of pending, or the log is broken or closed
	header   header             // of the current file
	head     [32]byte           // of the chain
	seq      uint64             // of the last receipt
	pending  []byte             // frames that wait to be written
	unsigned int                // records that no checkpoint covers
	asked    uint64             // a sync is asked for that covers this receipt
	signed   chan struct{}      // closed and replaced with each sync that is done, and when the log breaks
	synced   checkpoint         // what the disk has
	broken   error
	closing  bool
	stats    Stats

	// Only the writer, and those who open the log, use these.
	disk  disk
	spare []byte    // memory of pending
	files []logFile // the last one is the current one
}

// Stats counts what a log has done since it was opened.
type Stats struct {
	Receipts uint64 // appended
	Synced   uint64 // of them, on the disk and under a checkpoint
	Syncs    uint64
	Bytes    uint64 // written
	Removed  uint64 // files
	LastSync time.Time
	Broken   bool
}

// Append records a receipt and returns its sequence number, from 1. It does not wait for the disk: receipts
// are gathered, and written and signed together. If more than Config.Buffer bytes wait, it waits until there
// is room: nothing is dropped. It keeps nothing of r. Errors: [ErrInvalid], [ErrBroken], [ErrClosed].
func (l *Log) Append(r *Receipt) (seq uint64, err error) {
	buf := encoders.Get().(*[]byte)
	defer putEncoder(buf)
	if err := r.check(^uint64(0)); err != nil {
		return 0, fmt.Errorf("append receipt: %w", err)
	}
	now := *r
	if now.Time.IsZero() || now.Time.UnixNano() == 0 {
		now.Time = time.Now()
	}
	*buf = now.append((*buf)[:0])
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.isFull() {
		l.wake()
		l.room.Wait()
	}
	if err := l.usable(); err != nil {
		return 0, err
	}
	if err := checkCauses(r.Causes, l.seq); err != nil {
		return 0, fmt.Errorf("append receipt: %w", err)
	}
	l.add(*buf)
	if l.unsigned == 1 || len(l.pending) >= eager {
		l.wake()
	}
	return l.seq, nil
}

// eager is how many bytes may wait before the writer begins, though no sync is due.
const eager = 256 << 10

var encoders = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxPooled keeps large contents from pinning their memory.
const maxPooled = 64 << 10

func putEncoder(buf *[]byte) {
	if cap(*buf) <= maxPooled {
		encoders.Put(buf)
	}
}

// isFull reports whether a receipt has to wait; mu is held.
func (l *Log) isFull() bool {
	return len(l.pending) > l.config.Buffer && l.broken == nil && !l.closing
}

// usable reports why the log takes nothing; mu is held.
func (l *Log) usable() error {
	switch {
	case l.broken != nil:
		return l.broken
	case l.closing:
		return ErrClosed
	}
	return nil
}

// add appends the frame of a receipt whose map is encoded; mu is held.
func (l *Log) add(encoded []byte) {
	l.seq++
	l.unsigned++
	l.stats.Receipts++
	buf, start := beginFrame(l.pending)
	l.pending = endFrame(appendEntry(buf, l.seq, encoded), start, &l.head)
}

// note adds a receipt of the log itself, for which there is always room; mu is held.
func (l *Log) note(r Receipt) {
	r.Kind, r.Time = KindLog, time.Now()
	l.add(r.append(nil))
}

func (l *Log) wake() {
	select {
	case l.notify <- struct{}{}:
	default:
	}
}

// Sync returns when the receipt with that number is on the disk and under a signed checkpoint. Those who wait
// at the same time share one. The error is nil, [ErrInvalid] for a number that no receipt has yet, [ErrBroken] or ctx's
// cause.
func (l *Log) Sync(ctx context.Context, seq uint64) error {
	l.mu.Lock()
	if seq > l.seq {
		defer l.mu.Unlock()
		return fmt.Errorf("sync receipt %d: %w: the last one is %d", seq, ErrInvalid, l.seq)
	}
	for l.synced.seq < seq {
		if l.broken != nil {
			defer l.mu.Unlock()
			return l.broken
		}
		l.asked = max(l.asked, seq)
		signed := l.signed
		l.mu.Unlock()
		l.wake()
		select {
		case <-signed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	return nil
}

// Flush is [Log.Sync] of all that was appended before.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	last := l.seq
	l.mu.Unlock()
	return l.Sync(ctx, last)
}

// Healthy returns nil, [ErrBroken] with what broke the log, or [ErrClosed].
func (l *Log) Healthy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable()
}

// Stats returns the counts so far.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Head returns the number of the last receipt that a checkpoint covers and the hash that the checkpoint signs.
// Whoever keeps it elsewhere can tell later whether the log has been cut ([Check.Head]).
func (l *Log) Head() (seq uint64, hash [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.synced.seq, l.synced.head
}

// Key returns the ID of the key that signs.
func (l *Log) Key() identity.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kid
}

// Dir returns the folder.
func (l *Log) Dir() string { return l.config.Dir }

// Close makes everything durable, under a last checkpoint, and gives the folder back. It returns what has kept
// it from that. Closing twice is fine.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closing = true
	l.room.Broadcast()
	l.mu.Unlock()
	l.wake()
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}
