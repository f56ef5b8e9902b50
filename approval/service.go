package approval

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/tool"
)

// Config configures a [Service].
type Config struct {
	// Store keeps the requests; required. Processes that share it decide for each other.
	Store store.Store
	// Key authenticates the requests and decisions in the store: at least [MinKey] secret bytes, the same for all
	// who decide for each other and for the next run. nil is a random one: only decisions of this Service count, and
	// what an earlier one has asked is asked again.
	Key []byte
	// Policy says which calls are allowed, denied or asked about. nil denies all.
	Policy *policy.Rules
	// Timeout is how long a request waits for a decision, up to [MaxTimeout]. 0 means [DefaultTimeout].
	Timeout time.Duration
	// MaxPending bounds the requests that wait in the store, up to [MostPending]; 0 means
	// [DefaultMaxPending]. MaxPendingPerAgent bounds those of one agent; 0 means
	// [DefaultMaxPendingPerAgent]. A call beyond is denied. Processes that ask at the same moment may exceed
	// the bounds by one each.
	MaxPending, MaxPendingPerAgent int
	// Asked, if set, is told of each request that begins to wait in this process. It must not block.
	Asked func(Request)
	// Record, if set, is told what became of each call, before the call runs. It must not block for long. If it
	// returns an error, the call does not run, whoever allowed it.
	Record func(Verdict) error
	// Logger gets a line for each request and each decision, without params. nil means slog.Default.
	Logger *slog.Logger
}

// Service approves tool calls. It is safe for concurrent use.
type Service struct {
	config Config
	store  store.Store
	log    *slog.Logger

	running atomic.Bool
	life    context.Context // ends when Run does: a signal for the calls that wait
	end     context.CancelCauseFunc

	entering sync.Mutex // held while requests are counted and one is added

	mu      sync.Mutex
	used    map[string]time.Time // when the time of allowances is over that were used up here, by their IDs
	waiters map[string]int       // calls of this process that wait, by the key of their request
	ended   []Request            // the last that have ended here, oldest first

	counts  [len(outcomes)]atomic.Uint64
	waiting atomic.Int64
	asked   atomic.Uint64
	corrupt atomic.Uint64
	foreign atomic.Uint64
}

var _ tool.Approver = (*Service)(nil)

// New makes a service and starts nothing.
func New(c Config) (*Service, error) {
	if c.Store == nil {
		return nil, errors.New("approval: Store is required")
	}
	if c.Key == nil {
		c.Key = make([]byte, 32)
		rand.Read(c.Key) // never fails
	}
	if len(c.Key) < MinKey {
		return nil, fmt.Errorf("approval: Key has %d bytes where at least %d are wanted", len(c.Key), MinKey)
	}
	for _, bound := range []struct {
		field       string
		value, most int64
	}{
		{"Timeout", int64(c.Timeout), int64(MaxTimeout)},
		{"MaxPending", int64(c.MaxPending), MostPending},
		{"MaxPendingPerAgent", int64(c.MaxPendingPerAgent), MostPending},
	} {
		if bound.value < 0 || bound.value > bound.most {
			return nil, fmt.Errorf("approval: %s is negative or too large; 0 means its default", bound.field)
		}
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.MaxPending = cmp.Or(c.MaxPending, DefaultMaxPending)
	c.MaxPendingPerAgent = cmp.Or(c.MaxPendingPerAgent, DefaultMaxPendingPerAgent)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	s := &Service{config: c, store: c.Store, log: c.Logger, waiters: map[string]int{}, used: map[string]time.Time{}}
	s.life, s.end = context.WithCancelCause(context.Background())
	return s, nil
}

// Stats are counts since the service was made.
type Stats struct {
	Outcomes map[Outcome]uint64 // of calls; all outcomes are there
	Asked    uint64             // requests that this process has stored
	Waiting  int64              // calls of this process that wait now
	Corrupt  uint64             // unreadable records that were met and skipped
	Foreign  uint64             // records of another key that were met and skipped
}

// Stats returns the counts.
func (s *Service) Stats() Stats {
	stats := Stats{Outcomes: map[Outcome]uint64{}, Asked: s.asked.Load(), Waiting: s.waiting.Load(), Corrupt: s.corrupt.Load(), Foreign: s.foreign.Load()}
	for i, outcome := range outcomes {
		stats.Outcomes[outcome] = s.counts[i].Load()
	}
	return stats
}

// now is the time that all who share the store go by.
func (s *Service) now(ctx context.Context) (time.Time, error) {
	if clock, ok := s.store.(store.Clock); ok {
		return clock.Now(ctx)
	}
	return time.Now(), nil
}

// Approve implements [tool.Approver]: it returns nil if the policy allows the call, or if somebody did who
// was asked; in this case the allowance is used up. If ctx ends first, the request is withdrawn.
func (s *Service) Approve(ctx context.Context, r tool.Request) error {
	d := s.config.Policy.Decide(ctx, forPolicy(r, time.Now()))
	if d.Action == policy.Allow && s.config.Record == nil { // nobody wants to know more
		s.count(PolicyAllowed)
		return nil
	}
	v := s.judge(ctx, newCall(r, d), d)
	if err := s.record(v); err != nil && v.Err == nil {
		s.log.ErrorContext(ctx, "cannot record an approval", "agent", v.Agent, "tool", v.Tool, "error", err)
		v.Outcome, v.Err = NotAsked, ErrUnrecorded
	}
	s.count(v.Outcome)
	return v.Err
}

func (s *Service) record(v Verdict) error {
	if s.config.Record == nil {
		return nil
	}
	return s.config.Record(v)
}

func (s *Service) count(o Outcome) {
	for i := range outcomes {
		if outcomes[i] == o {
			s.counts[i].Add(1)
		}
	}
}

// judge goes by the policy's decision, and asks if that says so.
func (s *Service) judge(ctx context.Context, c *call, d policy.Decision) Verdict {
	switch d.Action {
	case policy.Allow:
		return c.verdict(PolicyAllowed, nil, nil)
	case policy.Ask:
		return s.ask(ctx, c)
	default:
		return c.verdict(PolicyDenied, nil, fmt.Errorf("%w: %s", ErrPolicy, d.Reason))
	}
}
