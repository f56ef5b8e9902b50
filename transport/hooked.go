package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/message"
)

// ErrDropped says that a hook dropped a message that was to be sent.
var ErrDropped = errors.New("a hook dropped the message")

// HookedConfig configures a [Hooked].
type HookedConfig struct {
	Transport Transport         // required
	Signer    *message.Signer   // required
	Verifier  *message.Verifier // required
	Hooks     []Hook            // run in this order in both directions

	// UnverifiedDrop, if set, is told of every frame that was refused. It runs on the receiving
	// goroutine: it should return at once.
	UnverifiedDrop func(context.Context, *message.Refusal)
	// Logger gets refused frames at debug and hooks that fail on messages at warn (those that fail on
	// drafts are Send's error); nil means slog.Default.
	Logger *slog.Logger
	// ReceiveUnsafe takes in frames WITHOUT verifying them: anybody can then speak as anybody. It is
	// for experiments; the log warns when it is set.
	ReceiveUnsafe bool
}

// Hooked sends drafts and receives messages over a [Transport], through hooks: out through PreSend,
// signature, transport; in through transport, verification, PostReceive. Answers to its requests go to
// those who asked. It is safe for concurrent use.
// Starting and closing stay with the Transport.
type Hooked struct {
	transport Transport
	signer    *message.Signer
	verifier  *message.Verifier
	hooks     hooks
	requests  requests
	open      func([]byte) (*message.Message, error)
	drop      func(context.Context, *message.Refusal)
	log       *slog.Logger
}

// NewHooked checks the configuration and returns a Hooked.
func NewHooked(c HookedConfig) (*Hooked, error) {
	switch {
	case c.Transport == nil:
		return nil, errors.New("transport.HookedConfig.Transport: required")
	case c.Signer == nil:
		return nil, errors.New("transport.HookedConfig.Signer: required")
	case c.Verifier == nil:
		return nil, errors.New("transport.HookedConfig.Verifier: required")
	}
	for i, hook := range c.Hooks {
		if hook == nil {
			return nil, fmt.Errorf("transport.HookedConfig.Hooks[%d]: nil", i)
		}
	}
	h := &Hooked{
		transport: c.Transport,
		signer:    c.Signer,
		verifier:  c.Verifier,
		hooks:     newHooks(c.Hooks),
		open:      c.Verifier.Verify,
		drop:      c.UnverifiedDrop,
		log:       cmp.Or(c.Logger, slog.Default()),
	}
	if c.ReceiveUnsafe {
		h.log.Warn("receiving UNVERIFIED messages: senders can be forged and messages replayed", "id", c.Signer.ID())
		h.open = message.ParseUnsafe
	}
	return h, nil
}

// Send runs the hooks on the draft, signs what they return, and sends it. The returned message is what
// was signed. Errors: [ErrDropped] if a hook dropped the draft, a hook's error, the signer's, or a
// [*SendError].
func (h *Hooked) Send(ctx context.Context, d message.Draft) (*message.Message, error) {
	m, err := h.sign(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := h.transport.Send(ctx, RouteOf(m), m.Raw()); err != nil {
		return nil, err
	}
	return m, nil
}

func (h *Hooked) sign(ctx context.Context, d message.Draft) (*message.Message, error) {
	draft, err := h.preSend(ctx, &d)
	if err != nil {
		return nil, err
	}
	return h.signer.Sign(ctx, *draft)
}

// preSend returns the draft that is to be signed; there is one unless there is an error.
func (h *Hooked) preSend(ctx context.Context, d *message.Draft) (*message.Draft, error) {
	draft, err := h.hooks.preSend(ctx, d)
	switch {
	case err != nil:
		return nil, fmt.Errorf("send: hook: %w", err)
	case draft == nil:
		return nil, ErrDropped
	}
	return draft, nil
}

// SendAll is [Hooked.Send] for several drafts, which share a signature if the signer makes batches. They
// are sent in their order, and one that fails does not keep the next ones back: errs[i] is what became
// of drafts[i], and errs is nil if all is well.
func (h *Hooked) SendAll(ctx context.Context, drafts []message.Draft) (errs []error) {
	fail := func(i int, err error) {
		if errs == nil {
			errs = make([]error, len(drafts))
		}
		errs[i] = err
	}
	kept, places := h.preSendAll(ctx, drafts, fail)
	h.signer.SignEach(ctx, kept, func(i int, m *message.Message, err error) {
		if err == nil {
			err = h.transport.Send(ctx, RouteOf(m), m.Raw())
		}
		if err == nil {
			return
		}
		if places != nil {
			i = places[i]
		}
		fail(i, err)
	})
	return errs
}

// preSendAll returns the drafts that are to be signed and, unless these are the ones that it was given, which
// ones they were.
func (h *Hooked) preSendAll(ctx context.Context, drafts []message.Draft, fail func(int, error)) (kept []message.Draft, places []int) {
	if len(h.hooks.senders) == 0 {
		return drafts, nil
	}
	kept, places = make([]message.Draft, 0, len(drafts)), make([]int, 0, len(drafts))
	for i := range drafts {
		draft, err := h.preSend(ctx, &drafts[i])
		if err != nil {
			fail(i, err)
			continue
		}
		kept, places = append(kept, *draft), append(places, i)
	}
	return kept, places
}

// Receive returns the next message that passes verification and the hooks, and acknowledges it. It waits
// until ctx ends (and returns its cause) or the transport is closed ([ErrClosed]).
func (h *Hooked) Receive(ctx context.Context) (m *message.Message, err error) {
	err = h.Deliver(ctx, func(_ context.Context, got *message.Message) error { m = got; return nil })
	return m, err
}

// Deliver is [Hooked.Receive] for those who have to be sure of a message before it is acknowledged to the
// transport: it hands the message to take, and acknowledges it when take has returned nil. An error of
// take is returned, and leaves it to the transport to deliver the message again.
func (h *Hooked) Deliver(ctx context.Context, take func(context.Context, *message.Message) error) error {
	for {
		m, frame, err := receive(ctx, h.transport, h.open, h.refused)
		if err != nil {
			return err
		}
		passed, err := h.hooks.postReceive(ctx, m)
		if err != nil {
			h.log.WarnContext(ctx, "hook failed, message dropped", "stage", StagePostReceive.String(), "error", err)
			panics.LogStack(h.log, err)
		}
		if passed == nil || h.requests.answer(passed) {
			frame.done()
			continue
		}
		if err := take(ctx, passed); err != nil {
			return err
		}
		frame.done()
		return nil
	}
}

func (h *Hooked) refused(ctx context.Context, r *message.Refusal) {
	if h.log.Enabled(ctx, slog.LevelDebug) { // strangers cause this line: it costs nothing while it is off
		h.log.DebugContext(ctx, "message refused",
			"reason", r.Reason.String(), "claimed_sender", r.Sender.String(), "bytes", r.Size, "detail", r.Err)
	}
	if h.drop == nil {
		return
	}
	var err error
	func() {
		defer panics.Catch(&err, "UnverifiedDrop")
		h.drop(ctx, r)
	}()
	if err != nil {
		h.log.WarnContext(ctx, "runtime hook failed", "error", err)
		panics.LogStack(h.log, err)
	}
}

// Subscribe asks the transport for the topics that p matches and has the verifier accept them.
func (h *Hooked) Subscribe(ctx context.Context, p message.Pattern) error {
	if err := h.verifier.Subscribe(p); err != nil {
		return err
	}
	if err := h.transport.Subscribe(ctx, p); err != nil {
		h.verifier.Unsubscribe(p)
		return err
	}
	return nil
}

// Unsubscribe undoes [Hooked.Subscribe].
func (h *Hooked) Unsubscribe(ctx context.Context, p message.Pattern) error {
	h.verifier.Unsubscribe(p)
	return h.transport.Unsubscribe(ctx, p)
}

// HookStats counts what hooks dropped and where they failed, by [Stage].
type HookStats struct {
	Dropped map[string]uint64
	Failed  map[string]uint64
}

// Stats returns the hooks' counts.
func (h *Hooked) Stats() HookStats {
	return HookStats{Dropped: h.hooks.dropped.Snapshot(), Failed: h.hooks.failed.Snapshot()}
}
