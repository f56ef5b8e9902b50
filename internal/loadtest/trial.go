package loadtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/transport"
)

// network is the name of the network whose messages are measured.
const network = "bench"

// trial is one measurement.
type trial struct {
	config   Config
	link     Link
	receiver *receiver
	senders  []*sender

	near, far *identity.Registry // of the receiver and of the senders
	runtimes  []*converge.Runtime
	running   sync.WaitGroup
}

func newTrial(c Config) (*trial, error) {
	t := &trial{config: c, near: identity.NewRegistry(0), far: identity.NewRegistry(0)}
	id, err := known(t.far)
	if err != nil {
		return nil, err
	}
	clock := clock{time.Now()}
	t.receiver = newReceiver(c, id, clock)
	parties := Parties{Receiver: id.ID(), Capacity: c.capacity(), Queue: c.queue(), Logger: c.Logger}
	for i := range c.Senders {
		id, err := known(t.near)
		if err != nil {
			return nil, err
		}
		t.senders = append(t.senders, newSender(c, i, id, parties.Receiver, clock))
		parties.Senders = append(parties.Senders, id.ID())
	}
	t.receiver.expect(parties.Senders)
	t.link, err = c.Connect(parties)
	return t, err
}

// known returns a new identity that is in the other side's registry.
func known(other *identity.Registry) (*identity.Identity, error) {
	id, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	return id, other.Register(id.ID(), id.PublicKey())
}

func (t *trial) run(parent context.Context) (Result, error) {
	ctx, stop := context.WithCancelCause(parent)
	runtime.GC() // what was measured before is no burden of this one
	err := t.start(ctx, stop)
	if err == nil {
		err = t.watch(ctx)
	}
	stop(nil)
	t.running.Wait()
	err = errors.Join(t.conclusion(parent, err), t.link.Close())
	if err != nil {
		return Result{}, err
	}
	return t.receiver.result(t.config), nil
}

// conclusion returns the error that says most.
func (t *trial) conclusion(parent context.Context, err error) error {
	if err != nil && parent.Err() != nil {
		return fmt.Errorf("%w: %d of %d messages had arrived", context.Cause(parent), t.receiver.arrived.Load(), t.receiver.total)
	}
	if err != nil && !errors.Is(err, errQuiet) {
		return err
	}
	if loss := t.losses(); loss != nil {
		return loss
	}
	return err
}

// start starts the receiver and then, when it runs, the senders, a few at a time.
func (t *trial) start(ctx context.Context, fail context.CancelCauseFunc) error {
	near := member{"receiver", t.receiver.id, t.receiver, t.near, t.link.Receiver}
	if err := t.launch(ctx, fail, near); err != nil {
		return err
	}
	if err := await(ctx, t.receiver.ready); err != nil {
		return err
	}
	for i, s := range t.senders {
		if i >= atATime {
			if err := await(ctx, t.senders[i-atATime].ready); err != nil {
				return err
			}
		}
		s.fail = fail
		far := member{fmt.Sprintf("sender-%d", i+1), s.id, s, t.far, t.link.Sender}
		if err := t.launch(ctx, fail, far); err != nil {
			return err
		}
	}
	return nil
}

// atATime is how many senders connect at the same time.
const atATime = 16

func await(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// member is an agent of one of the sides.
type member struct {
	name   string
	id     *identity.Identity
	agent  converge.Agent
	keys   *identity.Registry // of its side
	attach func(*identity.Identity) (transport.Transport, error)
}

// launch runs an agent until ctx ends.
func (t *trial) launch(ctx context.Context, fail context.CancelCauseFunc, m member) error {
	c, err := t.runtimeConfig(m)
	if err != nil {
		return err
	}
	r, err := converge.New(c)
	if err != nil {
		return err
	}
	t.runtimes = append(t.runtimes, r)
	t.running.Go(func() {
		if err := r.Run(ctx); err != nil {
			fail(err)
		}
	})
	return nil
}

func (t *trial) runtimeConfig(m member) (c converge.Config, err error) {
	carrier, err := m.attach(m.id)
	if err != nil {
		return c, err
	}
	in, err := ratelimit.New(plenty)
	if err != nil {
		return c, err
	}
	out, err := ratelimit.New(plenty)
	return converge.Config{
		Identity:     m.id,
		Name:         m.name,
		Network:      network,
		Agent:        m.agent,
		Transport:    carrier,
		Registry:     m.keys,
		Hooks:        []transport.Hook{ratelimit.NewHook(in)},
		Executor:     &converge.ExecutorConfig{Limiter: out},
		Inbox:        converge.InboxConfig{Capacity: t.config.capacity()},
		TurnMessages: min(t.config.capacity(), mostATurn),
		SendTimeout:  t.config.Patience,
		Logger:       t.config.Logger,

		Signature:     modes[t.config.Signature],
		ReceiveUnsafe: t.config.Signature == Unsigned,
	}, err
}

// plenty are limits that are in the path and in nobody's way.
var plenty = ratelimit.Config{Global: most, Sender: most, Topic: most}

var most = ratelimit.Limit{Rate: 1e8, Burst: 1e8}

// modes are the runtime's names of the signatures.
var modes = map[Signature]message.Mode{Batch: message.Batch, Single: message.Single, Unsigned: message.UnsignedUnsafe}

var errQuiet = errors.New("nothing arrives any more")

// watch waits until everything has arrived, something fails, or nothing arrives any more.
func (t *trial) watch(ctx context.Context) error {
	tick := time.NewTicker(min(100*time.Millisecond, t.config.Patience))
	defer tick.Stop()
	last, since := int64(0), time.Now()
	for {
		select {
		case <-t.receiver.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		arrived := t.receiver.arrived.Load()
		t.config.Progress(int(arrived), t.receiver.total)
		switch {
		case arrived != last:
			last, since = arrived, time.Now()
		case time.Since(since) > t.config.Patience:
			return fmt.Errorf("%w: for %v", errQuiet, t.config.Patience)
		}
	}
}
