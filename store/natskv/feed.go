package natskv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/internal/cut"
)

// errLost says that messages to the feed got lost on the way: they have to be asked for again.
var errLost = errors.New("messages were lost on the way")

// Bounds of what the server sends ahead.
const (
	aheadMessages = 2048
	aheadBytes    = 16 << 20
	heartbeat     = time.Second // of the server while there is nothing to send
	forgotten     = time.Minute // until a server drops a consumer that nobody asks
	byeTime       = 500 * time.Millisecond
)

// needFeed starts the feed unless it runs.
func (s *Store) needFeed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.feeding || s.closed {
		return
	}
	s.feeding = true
	s.spawn(s.feed)
}

// spawn runs a part of the store until that closes. It wants mu held.
func (s *Store) spawn(run func(context.Context)) {
	ctx, cancel := context.WithCancelCause(context.Background())
	s.lastCall++
	id := s.lastCall
	s.calls[id] = cancel
	s.running.Go(func() {
		run(ctx)
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, id)
	})
}

// feed keeps the view up to date until the store closes.
func (s *Store) feed(ctx context.Context) {
	for ctx.Err() == nil {
		var r retry
		for {
			began, _, _ := s.view.where()
			err := s.follow(ctx)
			if now, _, _ := s.view.where(); now != began {
				r = retry{}
			}
			s.health.failed(ctx, s.log, err)
			if r.pause(ctx, time.Hour, err) != nil {
				break
			}
		}
	}
}

// follow takes in changes until something goes wrong.
func (s *Store) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.era.Load().ctx, func() { cancel(errBroken) })() // what the server sent is lost
	c, err := s.consume(ctx)
	if err != nil {
		return err
	}
	defer c.stop(ctx)
	s.health.well(s.log)
	for {
		d, err := c.next(ctx, 0)
		if err != nil {
			return err
		}
		if d.isEntry() {
			s.puts.add(d.sequence)
		}
		s.noticed(d, s.view.apply(d))
	}
}

// consume subscribes to what the view does not have yet.
func (s *Store) consume(ctx context.Context) (*consumer, error) {
	var info *jetstream.StreamInfo
	err := s.attempt(ctx, func(ctx context.Context) (err error) {
		info, err = s.stream.Info(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	position, _, filled := s.view.where()
	if filled {
		again, err := s.origin.check(info, position)
		if err != nil {
			return nil, err
		}
		if !again {
			return s.newConsumer(ctx, position+1)
		}
		s.log.Warn("natskv: the bucket is another one, or has lost changes", "created", info.Created, "at", info.State.LastSeq, "was_at", position)
	}
	c, err := s.newConsumer(ctx, 0)
	if err == nil {
		s.origin = origin{created: info.Created}
		s.view.restart(info.State.LastSeq, info.State.Msgs == 0)
	}
	return c, err
}

// origin is the stream that the view was read from. Only the feed uses it.
type origin struct {
	created time.Time
	behind  time.Time // since when the stream has been behind the view
}

// recovery is for how long a stream may be behind what it has sent before: a new leader may not have caught up.
const recovery = 3 * time.Second

// check reports whether the view has to be read again from the start, or an error if it is too early to tell.
func (o *origin) check(info *jetstream.StreamInfo, position uint64) (again bool, err error) {
	if !info.Created.Equal(o.created) {
		return true, nil
	}
	if info.State.LastSeq >= position {
		o.behind = time.Time{}
		return false, nil
	}
	if o.behind.IsZero() {
		o.behind = time.Now()
	}
	if time.Since(o.behind) < recovery {
		return false, fmt.Errorf("the stream is at %d and was at %d", info.State.LastSeq, position)
	}
	return true, nil
}

// consumer reads changes from the stream.
type consumer struct {
	store    *Store
	name     string
	messages jetstream.MessagesContext
	count    uint64 // of messages so far
}

// newConsumer reads all changes from a sequence on; 0 means the last message of each key first.
func (s *Store) newConsumer(ctx context.Context, from uint64) (*consumer, error) {
	config := jetstream.ConsumerConfig{
		Name:              rand.Text(),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		FilterSubject:     s.config.all(),
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: forgotten,
		Replicas:          1,
		MemoryStorage:     true,
	}
	if from == 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverLastPerSubjectPolicy, 0
	}
	c := &consumer{store: s, name: config.Name}
	err := s.attempt(ctx, func(ctx context.Context) error {
		made, err := s.stream.CreateConsumer(ctx, config)
		if err != nil {
			return err
		}
		c.messages, err = made.Messages(jetstream.PullMaxMessagesWithBytesLimit(aheadMessages, aheadBytes),
			jetstream.PullHeartbeat(heartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read from %d: %w", from, err)
	}
	return c, nil
}

// next returns the next message as a change. What is no change of a key has no key. It waits for as long as
// nothing comes, but at most for a limit other than 0.
func (c *consumer) next(ctx context.Context, limit time.Duration) (*change, error) {
	if limit > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, limit, errIdle)
		defer cancel()
		ctx = limited
	}
	m, err := c.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	if c.count++; meta.Sequence.Consumer != c.count {
		return nil, errLost
	}
	d, err := c.store.config.decode(m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream)
	if err != nil {
		if n := c.store.rarely.count(); n > 0 {
			c.store.log.Warn("natskv: passed over messages that are no entries", "messages", n, "subject", cut.Text(m.Subject(), 80), "sequence", meta.Sequence.Stream)
		}
		return &change{sequence: meta.Sequence.Stream, deleted: true}, nil
	}
	return d, nil
}

var errIdle = errors.New("nothing comes")

// stop ends the reading, at the server too if it can be told.
func (c *consumer) stop(ctx context.Context) {
	c.messages.Stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), byeTime)
	defer cancel()
	c.store.attempt(ctx, func(ctx context.Context) error { // or the server forgets it
		return c.store.stream.DeleteConsumer(ctx, c.name)
	})
}
