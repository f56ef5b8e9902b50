package natskv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/store"
)

// write stores a change whose key's last message must be expect, 0 for none, over as many attempts as it
// takes. It returns its sequence; or store.ErrConflict with the key's last message, nil for none.
func (s *Store) write(ctx context.Context, d *change, expect uint64) (uint64, *change, error) {
	d.mark = s.mark()
	w := &writing{store: s, change: d, expect: expect}
	sequence, last, err := w.run(ctx)
	s.purge.advance(sequence)
	switch {
	case err == nil && !d.deleted:
		s.puts.add(sequence)
	case err != nil && w.doubt && !w.settled && errors.Is(err, store.ErrConflict):
		err = fmt.Errorf("%w, and was replaced: the stream no longer tells", ErrInDoubt)
	case err != nil && w.doubt && !w.settled:
		err = fmt.Errorf("%w (%w)", err, ErrInDoubt)
	}
	return sequence, last, err
}

// writing is the storing of one change.
type writing struct {
	store   *Store
	change  *change
	expect  uint64
	doubt   bool // an attempt may have been stored
	settled bool // none was
	retry   retry
}

func (w *writing) run(ctx context.Context) (uint64, *change, error) {
	for {
		var refused error
		sequence, err := w.attempt(ctx)
		switch {
		case err == nil:
			return sequence, nil, nil
		case isWrongSequence(err):
			sequence, last, err := w.look(ctx)
			if !errors.Is(err, errUnmoved) {
				return sequence, last, err
			}
			refused = err
		case isFull(err):
			return 0, nil, fmt.Errorf("%w: %w", store.ErrFull, err)
		case errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum), errors.Is(err, client.ErrMaxPayload):
			return 0, nil, fmt.Errorf("%w: %d bytes, and the server's max_payload is %d: %w",
				store.ErrTooLarge, len(w.change.value), w.store.conn.MaxPayload(), err)
		case isFinal(err) && ctx.Err() == nil:
			return 0, nil, err
		}
		if err := w.retry.pause(ctx, w.store.config.Patience, cmp.Or(refused, err)); err != nil {
			return 0, nil, err
		}
	}
}

// attempt publishes the change. At most one attempt of all can succeed, since each expects the same.
func (w *writing) attempt(ctx context.Context) (sequence uint64, err error) {
	s := w.store
	err = s.attempt(ctx, func(ctx context.Context) error {
		ack, err := s.config.JetStream.PublishMsg(ctx, s.config.message(w.change, w.expect), jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(s.config.stream()))
		if err == nil {
			sequence = ack.Sequence
		}
		return err
	})
	if err != nil && apiError(err) == nil && !wasNotSent(err) {
		w.doubt = true
	}
	return sequence, err
}

// errUnmoved says that the key's last message is the one expected after all: the stream was about to take another
// change and had not yet.
var errUnmoved = errors.New("another change of the key is under way")

// look finds out what a refusal for the wrong sequence means.
func (w *writing) look(ctx context.Context) (uint64, *change, error) {
	last, err := w.store.last(ctx, w.change.key)
	switch {
	case err != nil:
		return 0, nil, err
	case last == nil && w.expect == 0 || last != nil && last.sequence == w.expect:
		return 0, nil, errUnmoved
	case w.doubt:
		return w.trace(ctx, last)
	default:
		return 0, last, store.ErrConflict
	}
}

// maxTrace bounds the way back, in a bucket whose history is not bounded.
const maxTrace = 1024

// trace goes back from the key's last message to the one that replaced what was expected: is it this change?
func (w *writing) trace(ctx context.Context, last *change) (uint64, *change, error) {
	d := last
	for range maxTrace {
		if d == nil || !d.linked || d.sequence <= w.expect {
			break
		}
		if d.mark == w.change.mark {
			return d.sequence, nil, nil
		}
		if d.previous == w.expect {
			w.settled = true
			break
		}
		var err error
		if d, err = w.store.at(ctx, d.previous); err != nil {
			return 0, nil, err
		}
	}
	return 0, last, store.ErrConflict
}

// puts remembers sequences that are known to be those of entries. It holds the latest 65,536 at least.
type puts struct {
	mu       sync.Mutex
	now, old map[uint64]struct{}
}

const maxPuts = 64 << 10

func (p *puts) add(sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil || len(p.now) >= maxPuts {
		p.now, p.old = map[uint64]struct{}{}, p.now
	}
	p.now[sequence] = struct{}{}
}

func (p *puts) has(sequence uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, now := p.now[sequence]
	_, old := p.old[sequence]
	return now || old
}
