package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// send implements carrier. It returns when the stream has stored the frame under each of its subjects.
func (d *durable) send(ctx context.Context, to transport.Route, frame []byte) (missed int, err error) {
	select {
	case d.publishing <- struct{}{}:
		defer func() { <-d.publishing }()
	case <-ctx.Done():
		return 1, context.Cause(ctx)
	case <-d.endpoint.closed:
		return 1, transport.ErrClosed
	}
	if err := d.expect(ctx, to.To); err != nil {
		return 1, err
	}
	publications := d.publications(to, frame)
	for _, p := range publications {
		p.begin()
	}
	for _, p := range publications {
		if endErr := p.end(ctx); endErr != nil {
			missed, err = missed+1, endErr
		}
	}
	return missed, err
}

// publications returns what there is to store for a frame.
func (d *durable) publications(to transport.Route, frame []byte) []*publication {
	l := label{frame: newNonce(), from: d.endpoint.id.String()}
	if !to.To.IsZero() {
		return []*publication{d.publication(d.subjects.agent(to.To), l, 0, to.To, frame)}
	}
	if len(to.Topics) == 0 {
		return []*publication{d.publication(d.subjects.all(), l, 0, to.To, frame)}
	}
	l.topics = to.Topics
	var all []*publication
	for i, ns := range namespaces(to.Topics) {
		all = append(all, d.publication(d.subjects.topic(ns), l, i, to.To, frame))
	}
	return all
}

func (d *durable) publication(subject string, l label, index int, to identity.ID, frame []byte) *publication {
	m := &client.Msg{Subject: subject, Header: l.header(), Data: frame}
	// The stream leaves out what it has stored under the same name. Nobody can know the name before.
	m.Header.Set(jetstream.MsgIDHeader, l.frame+"."+strconv.Itoa(index))
	return &publication{durable: d, to: to, msg: m}
}

// publication is the storing of one message, over as many attempts as it takes.
type publication struct {
	durable *durable
	to      identity.ID // zero for topics and broadcasts
	msg     *client.Msg
	future  jetstream.PubAckFuture // of the attempt that is under way
	doubt   bool                   // an earlier attempt may have been stored
}

// begin makes an attempt if that is possible at once.
func (p *publication) begin() error {
	return p.durable.link.try(len(p.msg.Data), func(*client.Conn) error {
		future, err := p.durable.js.PublishMsgAsync(&client.Msg{Subject: p.msg.Subject, Header: p.msg.Header, Data: p.msg.Data}, jetstream.WithRetryAttempts(0))
		if err == nil {
			p.future = future
		}
		return err
	})
}

// end waits until the message is stored.
func (p *publication) end(ctx context.Context) error {
	limit := time.NewTimer(p.durable.config().PublishTimeout)
	defer limit.Stop()
	for {
		err := p.attempt(ctx, limit.C)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errStreamFull):
			err = p.full(ctx, err)
			limit.Reset(p.durable.config().PublishTimeout)
		case errors.Is(err, errAgain):
			err = pause(ctx, p.durable.endpoint.closed, retryPause)
		}
		if err != nil {
			return p.explain(err)
		}
	}
}

var (
	errAgain      = errors.New("worth another attempt")
	errStreamFull = errors.New("the stream has no room")
)

// attempt makes an attempt, unless one is under way, and waits for its answer.
func (p *publication) attempt(ctx context.Context, limit <-chan time.Time) error {
	d := p.durable
	if p.future == nil {
		if err := d.link.await(ctx, d.endpoint.closed); err != nil {
			return err
		}
		if err := p.begin(); err != nil {
			return again(err)
		}
	}
	future := p.future
	p.future = nil
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		return p.refused(err)
	case <-ctx.Done():
		p.doubt = true
		return context.Cause(ctx)
	case <-d.endpoint.closed:
		p.doubt = true
		return transport.ErrClosed
	case <-limit:
		p.doubt = true
		return fmt.Errorf("%w: the stream has not answered for %v", transport.ErrUnreachable, d.config().PublishTimeout)
	}
}

func again(err error) error {
	if err == errBroken {
		return errAgain
	}
	return err
}

// refused classifies the answer to an attempt that was not "stored".
func (p *publication) refused(err error) error {
	api, answered := errors.AsType[*jetstream.APIError](err)
	if !answered {
		// Nobody has answered, or nothing that can be understood. If nobody listens, it was not stored.
		p.doubt = p.doubt || !errors.Is(err, jetstream.ErrNoStreamResponse)
		return errAgain
	}
	switch {
	case api.ErrorCode == codeStoreFailed && strings.HasPrefix(api.Description, "maximum "), api.Code == 429:
		return fmt.Errorf("%w: %s", errStreamFull, api.Description)
	case api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: %d bytes, and the stream takes less", transport.ErrTooLarge, len(p.msg.Data))
	case isFinal(err):
		return err
	default:
		return errAgain
	}
}

// codeStoreFailed is JetStream's code for what it could not store, also for what exceeds the stream's limits.
const codeStoreFailed = 10077

// full decides what to do when the stream has no room: wait, or not.
func (p *publication) full(ctx context.Context, cause error) error {
	d := p.durable
	if d.network.config.WhenFull == transport.DropNewest {
		return fmt.Errorf("%w: %w", transport.ErrQueueFull, cause)
	}
	if err := pause(ctx, d.endpoint.closed, retryPause); err != nil {
		return err
	}
	d.known.forget(p.to)
	return d.expect(ctx, p.to)
}

// explain adds that the frame may have been stored after all.
func (p *publication) explain(err error) error {
	if p.doubt {
		return fmt.Errorf("%w (the frame may have been stored)", err)
	}
	return err
}

// expect returns transport.ErrUnreachable if no agent of that ID has a consumer. It asks every few seconds.
func (d *durable) expect(ctx context.Context, to identity.ID) error {
	if to.IsZero() || to == d.endpoint.id || d.known.has(to) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, d.config().PublishTimeout)
	defer cancel()
	err := d.persist(limited, func(ctx context.Context) error {
		if err := d.link.await(ctx, d.endpoint.closed); err != nil {
			return err
		}
		_, err := d.js.Consumer(ctx, d.stream, agentConsumer(to))
		return err
	})
	switch {
	case err == nil:
		d.known.add(to)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return transport.ErrUnreachable
	case errors.Is(err, transport.ErrClosed), errors.Is(err, transport.ErrUnreachable):
		return err
	default:
		return fmt.Errorf("%w: %w", transport.ErrUnreachable, err)
	}
}

// known remembers for some seconds which agents have a consumer.
type known struct {
	mu    sync.Mutex
	until map[identity.ID]time.Time
}

// knownFresh is for how long.
const knownFresh = 2 * time.Second

// maxKnown bounds it; at the bound all is forgotten, which costs a round trip for each.
const maxKnown = 1 << 16

func (k *known) has(id identity.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Now().Before(k.until[id])
}

func (k *known) add(id identity.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= maxKnown {
		k.until = map[identity.ID]time.Time{}
	}
	k.until[id] = time.Now().Add(knownFresh)
}

func (k *known) forget(id identity.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.until, id)
}

func (k *known) clear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.until)
}
