package converge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// Checkpointer is an [Agent] that goes on where it was when its process ends, however it ends. The runtime
// keeps its state in Config.Checkpoints.
type Checkpointer interface {
	// Checkpoint returns the state to go on from, in an encoding of the agent's own with a version, or nil
	// if nothing has changed since the last one. It is asked after each Decide and before the decisions of
	// that turn are carried out, so the state is written before the acts that it speaks of: an agent that
	// goes on from it repeats what it does not know to be done, and makes that safe, as a task's
	// IdempotencyKey does. An error costs the agent the turn, as one of Decide does.
	Checkpoint() ([]byte, error)
	// Restore takes in the state of an earlier run, before OnStart. It is not called if there is none. If
	// it returns an error, the agent does not start.
	Restore(state []byte) error
}

// MaxCheckpoint is the largest state of a [Checkpointer] in bytes.
const MaxCheckpoint = store.MaxValue - 1024

// Errors of checkpoints, to be compared with [errors.Is].
var (
	// ErrCheckpoint says that the store holds no checkpoint that this program can read: one that is corrupt,
	// that a newer version has written, or that belongs to another agent.
	ErrCheckpoint = errors.New("unreadable checkpoint")
	// ErrSuperseded says that somebody else has written the agent's checkpoint: another process that runs
	// with the same key and the same store. The one that finds out stops.
	ErrSuperseded = errors.New("another process runs this agent")
)

// checkpoints keeps the state of one agent. Only the agent's goroutine uses it.
type checkpoints struct {
	agent   Checkpointer
	store   store.Store
	network string
	id      identity.ID
	log     *slog.Logger
	rev     store.Revision // of what was written or read last
	found   []byte         // the state of an earlier run; for the record of the start
	saved   []byte         // the state that was written last; likewise

	unwritten []byte // a record whose writing was cut short; nil if there is none
	lost      error  // ErrSuperseded once it is another's; nil before
}

// newCheckpoints returns nil for an agent without state, or one whose state nobody keeps.
func newCheckpoints(c *Config, log *slog.Logger) *checkpoints {
	agent, ok := c.Agent.(Checkpointer)
	if !ok || c.Checkpoints == nil {
		return nil
	}
	return &checkpoints{agent: agent, store: c.Checkpoints, network: c.Network, id: c.Identity.ID(), log: log}
}

func (c *checkpoints) key() string { return store.Key("checkpoint", c.network, c.id.String()) }

// A checkpoint is an array in deterministic CBOR (RFC 8949, section 4.2.1): [1, network, agent, state].
const (
	checkpointVersion = 1
	checkpointFields  = 4
)

func (c *checkpoints) encode(state []byte) []byte {
	b := cose.AppendUint(cose.AppendArray(nil, checkpointFields), checkpointVersion)
	b = cose.AppendBytes(cose.AppendText(b, c.network), c.id[:])
	return cose.AppendBytes(b, state)
}

func (c *checkpoints) decode(record []byte) (state []byte, err error) {
	r := cose.NewReader(record)
	fields, version := r.Array(), r.Uint()
	if r.Err() == nil && version > checkpointVersion {
		return nil, fmt.Errorf("version %d is newer than %d, the newest that this program knows", version, checkpointVersion)
	}
	network, agent, state := r.Text(), r.Bytes(), r.Bytes()
	switch {
	case r.End() != nil:
		return nil, r.Err()
	case fields != checkpointFields || version != checkpointVersion:
		return nil, errors.New("it is not a checkpoint")
	case string(network) != c.network || !bytes.Equal(agent, c.id[:]):
		return nil, errors.New("it belongs to another agent")
	}
	return state, nil
}

// restore gives the agent the state of an earlier run, if there is one.
func (c *checkpoints) restore(ctx context.Context) (err error) {
	if c == nil {
		return nil
	}
	e, err := c.store.Get(ctx, c.key())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore checkpoint: %w", err)
	}
	state, err := c.decode(e.Value)
	if err != nil {
		return fmt.Errorf("restore checkpoint %q: %w: %w", e.Key, ErrCheckpoint, err)
	}
	c.rev, c.found = e.Revision, state
	defer panics.Catch(&err, "Restore")
	if err := c.agent.Restore(state); err != nil {
		return fmt.Errorf("restore checkpoint: %w", err)
	}
	return nil
}

// restored reports whether the agent goes on from the state of an earlier run.
func (c *checkpoints) restored() bool { return c != nil && c.rev != 0 }

// Pauses between attempts to write to a store that fails.
const (
	minCheckpointRetry = 50 * time.Millisecond
	maxCheckpointRetry = 5 * time.Second
)

// save writes the agent's state if it has changed. Errors: what Checkpoint returns, ctx's cause, or ErrSuperseded, which
// stays: an agent that has nothing new to write does not know better than the one that has taken over.
func (c *checkpoints) save(ctx context.Context) error {
	if c == nil {
		return nil
	}
	if c.lost != nil {
		return c.lost
	}
	if err := c.keep(ctx); err != nil {
		return err
	}
	state, err := c.ask()
	if err != nil || state == nil {
		return err
	}
	if len(state) > MaxCheckpoint {
		return fmt.Errorf("checkpoint: %d bytes where at most %d are allowed", len(state), MaxCheckpoint)
	}
	c.saved, c.unwritten = state, c.encode(state)
	return c.keep(ctx)
}

// keep writes the state that has yet to be written, if there is one. While the store fails, it tries again until ctx
// ends: the agent's acts have to wait for what they rest on. The state is still there then, for another attempt.
func (c *checkpoints) keep(ctx context.Context) error {
	if c == nil || c.unwritten == nil {
		return nil
	}
	for retry := minCheckpointRetry; ; retry = min(2*retry, maxCheckpointRetry) {
		err := c.write(ctx, c.unwritten)
		if err == nil || errors.Is(err, ErrSuperseded) || errors.Is(err, store.ErrClosed) {
			c.unwritten = nil
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write checkpoint: %w", context.Cause(ctx))
		}
		c.log.Warn("checkpoint cannot be written; the agent's decisions wait for it", "error", err, "retry_in", retry)
		_ = sleep.For(ctx, retry) // once ctx has ended, one attempt is left
	}
}

func (c *checkpoints) ask() ([]byte, error) { return askState(c.agent) }

func askState(agent Checkpointer) (state []byte, err error) {
	defer panics.Catch(&err, "Checkpoint")
	return agent.Checkpoint()
}

// write puts a record in place of the last one. Where it is not known whether an earlier attempt came
// through, the entry says so.
func (c *checkpoints) write(ctx context.Context, record []byte) error {
	rev, err := c.store.Put(ctx, c.key(), record, c.rev)
	if errors.Is(err, store.ErrConflict) {
		e, readErr := c.store.Get(ctx, c.key())
		switch {
		case readErr == nil && bytes.Equal(e.Value, record):
			rev, err = e.Revision, nil
		case readErr == nil, errors.Is(readErr, store.ErrNotFound):
			c.lost = fmt.Errorf("write checkpoint %q: %w", c.key(), ErrSuperseded)
			return c.lost
		}
	}
	if err == nil {
		c.rev = rev
	}
	return err
}
