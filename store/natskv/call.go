package natskv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

const (
	attemptTime = 2 * time.Second // of one request; nobody answers one that came before there was a leader
	firstPause  = 10 * time.Millisecond
	lastPause   = 500 * time.Millisecond
)

// begin starts a call: its context ends with the store too. done has to follow.
func (s *Store) begin(ctx context.Context) (_ context.Context, done func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, store.ErrClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.lastCall++
	id := s.lastCall
	s.calls[id] = cancel
	return ctx, func() {
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, id)
	}, nil
}

// errOffline says that an attempt was not made, and errBroken that its answer is lost, if there was one.
var (
	errOffline = errors.New("no connection")
	errBroken  = errors.New("the connection broke")
)

// era is the time until the connection breaks.
type era struct {
	ctx context.Context
	end context.CancelFunc
}

func newEra() *era {
	ctx, cancel := context.WithCancel(context.Background())
	return &era{ctx, cancel}
}

// watchConnection ends what waits for answers when the connection breaks.
func (s *Store) watchConnection(ctx context.Context) {
	lost := s.conn.StatusChanged(client.DISCONNECTED, client.RECONNECTING, client.CLOSED)
	defer func(lost chan client.Status) { s.conn.RemoveStatusListener(lost) }(lost)
	for {
		select {
		case _, open := <-lost:
			if !open { // the connection is closed for good
				lost = nil
			}
			s.era.Swap(newEra()).end()
		case <-ctx.Done():
			return
		}
	}
}

// attempt makes a request with a deadline of its own.
func (s *Store) attempt(ctx context.Context, request func(context.Context) error) error {
	if status := s.conn.Status(); status != client.CONNECTED {
		if status == client.CLOSED {
			return client.ErrConnectionClosed
		}
		return errors.Join(errOffline, s.conn.LastError())
	}
	limited, cancel := context.WithTimeout(ctx, min(attemptTime, s.config.Patience))
	defer cancel()
	defer context.AfterFunc(s.era.Load().ctx, cancel)()
	err := request(limited)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, context.Canceled):
		return errBroken
	case errors.Is(err, context.DeadlineExceeded):
		return s.unanswered(err)
	default:
		return err
	}
}

// unanswered tells why there was no answer, if that is known: servers report a lack of permission apart. The
// connection may have been used for other things too.
func (s *Store) unanswered(err error) error {
	last := s.conn.LastError()
	if errors.Is(last, client.ErrPermissionViolation) && (strings.Contains(last.Error(), s.config.stream()) || strings.Contains(last.Error(), s.config.prefix())) {
		return fmt.Errorf("no answer: %w", last)
	}
	return fmt.Errorf("no answer: %w", err)
}

// persist repeats a request for as long as another attempt may succeed: a cluster may be without a leader, a server
// away.
func (s *Store) persist(ctx context.Context, request func(context.Context) error) error {
	var r retry
	for {
		err := s.attempt(ctx, request)
		if err == nil || isFinal(err) && ctx.Err() == nil {
			return err
		}
		if err := r.pause(ctx, s.config.Patience, err); err != nil {
			return err
		}
	}
}

// retry spaces attempts out.
type retry struct {
	began time.Time
	wait  time.Duration
}

// pause waits before another attempt, or returns why there is none.
func (r *retry) pause(ctx context.Context, patience time.Duration, last error) error {
	if ctx.Err() != nil {
		return ended(ctx, last)
	}
	if r.began.IsZero() {
		r.began, r.wait = time.Now(), firstPause
	}
	if time.Since(r.began) >= patience {
		return fmt.Errorf("%w for %v: %w", ErrUnavailable, patience, last)
	}
	d := r.wait/2 + rand.N(r.wait)
	r.wait = min(2*r.wait, lastPause)
	if sleep.For(ctx, d) != nil {
		return ended(ctx, last)
	}
	return nil
}

// last asks the leader for the last message of a key; nil means that there is none.
func (s *Store) last(ctx context.Context, key string) (*change, error) {
	return s.fetch(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.stream.GetLastMsgForSubject(ctx, s.config.subject(key))
	})
}

// at asks the leader for the message of a sequence; nil means that it is not kept, or no change of a key.
func (s *Store) at(ctx context.Context, sequence uint64) (*change, error) {
	d, err := s.fetch(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.stream.GetMsg(ctx, sequence)
	})
	if errors.Is(err, errForeign) {
		return nil, nil
	}
	return d, err
}

func (s *Store) fetch(ctx context.Context, get func(context.Context) (*jetstream.RawStreamMsg, error)) (*change, error) {
	var found *jetstream.RawStreamMsg
	err := s.persist(ctx, func(ctx context.Context) (err error) {
		found, err = get(ctx)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := s.config.decode(found.Subject, found.Header, found.Data, found.Sequence)
	if d.isEntry() {
		s.puts.add(d.sequence)
	}
	return d, err
}

// state asks the leader how the stream is.
func (s *Store) state(ctx context.Context) (info *jetstream.StreamInfo, err error) {
	err = s.persist(ctx, func(ctx context.Context) error {
		info, err = s.stream.Info(ctx)
		return err
	})
	return info, err
}
