package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// durable is the mode in which frames go through a stream. Each agent has a durable consumer there, which
// stands for it while it is away.
type durable struct {
	endpoint *Endpoint
	network  *Network
	subjects subjects
	link     *link
	js       jetstream.JetStream
	stream   string

	publishing chan struct{} // holds a token for each Send that waits for the stream's answer
	known      known         // agents that have a consumer
	flights    flights       // frames that were not acknowledged yet
	room       chan struct{} // holds a token when the agent has taken a frame
	begun      atomic.Bool   // frames come in

	// The following is only used while Endpoint.subscribing is held.
	inherited []string // filters for topics that the consumer had before this run
	applied   []string // its filters now

	mu        sync.Mutex
	ended     bool
	consuming map[string]*consumption // by the consumer's name
	running   sync.WaitGroup
}

func newDurable(ctx context.Context, e *Endpoint) (*durable, error) {
	n := e.network
	d := &durable{
		endpoint:   e,
		network:    n,
		subjects:   n.subjects,
		stream:     streamName(n.config.Network),
		publishing: make(chan struct{}, n.config.Durable.Publishing),
		room:       make(chan struct{}, 1),
		consuming:  map[string]*consumption{},
	}
	var err error
	if d.link, err = n.open(ctx, e, d.known.clear); err != nil {
		return nil, err
	}
	if err = d.prepare(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *durable) prepare(ctx context.Context) (err error) {
	d.js, err = jetstream.New(d.link.conn, jetstream.WithPublishAsyncTimeout(d.attemptTime()))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.network.config.ReadyTimeout)
	defer cancel()
	if err = d.ensureStream(ctx); err == nil {
		err = d.inherit(ctx)
	}
	return err
}

func (d *durable) config() Durable { return d.network.config.Durable }

func streamName(network string) string { return "converge_" + networkToken(network) }

func agentConsumer(id identity.ID) string { return "agent-" + id.String() }

func groupConsumer(g group) string { return "group-" + g.key() }

// ensureStream makes the network's stream unless there is one, and waits for a cluster to be able to.
func (d *durable) ensureStream(ctx context.Context) error {
	began := time.Now()
	err := d.persist(ctx, func(ctx context.Context) error {
		s, err := d.js.Stream(ctx, d.stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s, err = d.js.CreateStream(ctx, d.streamConfig())
		}
		switch {
		case err == nil:
			return d.checkStream(s.CachedInfo().Config)
		case errors.Is(err, client.ErrNoResponders) && time.Since(began) > settle:
			return jetstream.ErrJetStreamNotEnabled // a server that is about to enable it would have by now
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("stream %q: %w", d.stream, err)
	}
	return nil
}

func (d *durable) streamConfig() jetstream.StreamConfig {
	c := d.config()
	return jetstream.StreamConfig{
		Name:                 d.stream,
		Description:          "frames of the Converge network " + d.network.config.Network,
		Subjects:             []string{d.subjects.agents(), d.subjects.topics(), d.subjects.all()},
		Retention:            jetstream.InterestPolicy,
		Storage:              jetstream.FileStorage,
		Replicas:             d.replicas(),
		MaxAge:               c.MaxAge,
		MaxBytes:             c.MaxBytes,
		MaxMsgsPerSubject:    int64(c.MaxPending),
		MaxConsumers:         c.MaxConsumers,
		MaxMsgSize:           int32(d.network.config.MaxFrame + headerRoom),
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		Duplicates:           min(2*time.Minute, c.MaxAge),
		DenyDelete:           true,
		DenyPurge:            true,
	}
}

func (d *durable) replicas() int {
	switch {
	case d.config().Replicas > 0:
		return d.config().Replicas
	case d.link.conn.ConnectedClusterName() != "":
		return 3
	default:
		return 1
	}
}

// errStream is the cause of refusing a stream that somebody else has made.
var errStream = errors.New("exists, and does not keep what this network needs")

// checkStream checks what a stream promises that was there already. Its limits are its maker's business.
func (d *durable) checkStream(is jetstream.StreamConfig) error {
	want := d.streamConfig()
	missing := func(subject string) bool {
		return !slices.ContainsFunc(is.Subjects, func(s string) bool { return includes(s, subject) })
	}
	switch {
	case slices.ContainsFunc(want.Subjects, missing):
		return fmt.Errorf("%w: its subjects are %q, want %q", errStream, is.Subjects, want.Subjects)
	case is.Storage != want.Storage:
		return fmt.Errorf("%w: its storage is %v, want %v", errStream, is.Storage, want.Storage)
	case is.Retention != want.Retention:
		return fmt.Errorf("%w: its retention is %v, want %v", errStream, is.Retention, want.Retention)
	case is.Discard != want.Discard:
		return fmt.Errorf("%w: when it is full it is to %v, want %v", errStream, is.Discard, want.Discard)
	case is.NoAck:
		return fmt.Errorf("%w: it does not acknowledge", errStream)
	case d.config().Replicas > 0 && is.Replicas < want.Replicas:
		return fmt.Errorf("%w: it has %d replicas, want %d", errStream, is.Replicas, want.Replicas)
	}
	return nil
}

// persist repeats a request to JetStream for as long as another attempt may succeed: a cluster may be
// without a leader, the broker may be away. It ends with ctx or with the endpoint.
func (d *durable) persist(ctx context.Context, request func(context.Context) error) error {
	for {
		err := d.attempt(ctx, request)
		if err == nil || isFinal(err) {
			return err
		}
		if pauseErr := pause(ctx, d.endpoint.closed, retryPause); pauseErr != nil {
			return fmt.Errorf("%w; last: %w", pauseErr, err)
		}
	}
}

// attempt makes a request with a deadline of its own: nobody answers one that came before there was a leader.
func (d *durable) attempt(ctx context.Context, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.attemptTime())
	defer cancel()
	return request(ctx)
}

func (d *durable) attemptTime() time.Duration { return min(2*time.Second, d.config().PublishTimeout) }

// retryPause is the pause between attempts of the same request.
const retryPause = 100 * time.Millisecond

// isFinal reports whether JetStream would say the same again.
func isFinal(err error) bool {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, errStream), errors.Is(err, transport.ErrClosed), errors.Is(err, transport.ErrUnreachable),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, jetstream.ErrConsumerNotFound):
		return true
	case errors.As(err, &api):
		return api.Code >= 400 && api.Code < 500 && api.Code != 408 && api.Code != 429 && !isPlacement(api)
	default:
		return false
	}
}

// isPlacement reports whether a cluster has too few servers at the moment.
func isPlacement(err *jetstream.APIError) bool {
	return err.ErrorCode == 10005 || strings.Contains(err.Description, "no suitable peers")
}

// Forget removes the agent's durable consumer, and with it what waits for the agent at the broker: others
// learn that it cannot be reached. It is for an agent that leaves for good, in the durable mode; otherwise it
// does nothing. Close the endpoint afterwards.
func (e *Endpoint) Forget(ctx context.Context) error {
	if e.state.Load() != stateStarted {
		return transport.ErrNotStarted
	}
	d, ok := e.carrier.(*durable)
	if !ok {
		return nil
	}
	ctx, cancel := e.untilClosed(ctx)
	defer cancel()
	d.halt(agentConsumer(e.id))
	err := d.persist(ctx, func(ctx context.Context) error { return d.js.DeleteConsumer(ctx, d.stream, agentConsumer(e.id)) })
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("remove consumer of %s: %w", e.id, err)
	}
	return nil
}

// close implements carrier. Frames that were not acknowledged are offered again at once.
func (d *durable) close() {
	d.stopAll()
	for _, f := range d.flights.abandon() {
		if d.link.usable() {
			f.msg.Nak() // if it gets lost, AckWait does the same later
		}
	}
	if d.js != nil {
		d.js.CleanupPublisher()
	}
	d.link.close()
}
