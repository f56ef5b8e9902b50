package approval

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
)

// ask parks the call until somebody has decided, its time is over, or ctx or the service ends.
func (s *Service) ask(ctx context.Context, c *call) Verdict {
	if err := policy.CheckParams(c.Params); err != nil {
		return c.verdict(PolicyDenied, nil, fmt.Errorf("%w: nobody can decide on the params: %w", ErrPolicy, err))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(context.Cause(s.life)) })()
	s.join(c)
	v, r := s.park(ctx, c)
	if last := s.leave(c); last && r != nil && (v.Outcome == CallEnded || v.Outcome == NotAsked) {
		s.withdraw(r)
	}
	return v
}

// park goes through the requests of the call, mostly one, until there is a verdict. It returns the last of them,
// nil if there was none.
func (s *Service) park(ctx context.Context, c *call) (v Verdict, r *record) {
	for {
		if s.life.Err() != nil {
			return c.verdict(CallEnded, r, context.Cause(s.life)), r
		}
		next, err := s.enter(ctx, c)
		if err != nil {
			return s.refused(ctx, c, r, err), r
		}
		r = next
		if v, over := s.settle(ctx, c, r); over {
			return v, r
		}
	}
}

// refused is the verdict on a call that could not be asked about, or whose context has ended.
func (s *Service) refused(ctx context.Context, c *call, r *record, err error) Verdict {
	switch {
	case ctx.Err() != nil:
		return c.verdict(CallEnded, r, context.Cause(ctx))
	case errors.Is(err, ErrTooMany):
		return c.verdict(NoRoom, r, err)
	default:
		s.log.ErrorContext(ctx, "cannot ask for approval", "agent", c.Agent, "tool", c.Tool, "error", err)
		return c.verdict(NotAsked, r, errors.New("approval cannot be asked for"))
	}
}

// settle goes by the request as it is, and waits if it is undecided. It is not over if the request has changed
// since, or was used up by another call like this one.
func (s *Service) settle(ctx context.Context, c *call, r *record) (v Verdict, over bool) {
	switch r.State {
	case Denied:
		s.remember(r, Denied)
		return c.verdict(DeniedBy, r, refusal(r)), true
	case Allowed:
		used, err := s.use(ctx, r)
		if err != nil {
			return s.refused(ctx, c, r, err), true
		}
		return c.verdict(AllowedBy, r, nil), used
	}
	switch err := s.await(ctx, r); {
	case err == nil:
		return v, false
	case errors.Is(err, errOver):
		return s.timeOut(ctx, c, r)
	default:
		return s.refused(ctx, c, r, err), true
	}
}

// refusal is what the agent learns of a denial.
func refusal(r *record) error {
	if r.Note == "" {
		return ErrRefused
	}
	return fmt.Errorf("%w: %s", ErrRefused, r.Note)
}

// enter returns the request of the call as the store has it, which is a new one if there was none that counts.
func (s *Service) enter(ctx context.Context, c *call) (*record, error) {
	s.entering.Lock()
	defer s.entering.Unlock()
	for {
		now, err := s.now(ctx)
		if err != nil {
			return nil, err
		}
		old, err := s.find(ctx, c.key)
		if err != nil {
			return nil, err
		}
		if old != nil && !old.expired(now) {
			if !old.proven {
				return nil, errForeign
			}
			if old.State == Denied || old.covers(c.Taint) {
				return old, nil
			}
		}
		r, err := s.create(ctx, c, old, now)
		if !errors.Is(err, store.ErrConflict) {
			return r, err
		}
	}
}

// find returns the record under a key, nil if there is none.
func (s *Service) find(ctx context.Context, key string) (*record, error) {
	e, err := s.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeRecord(e, s.config.Key)
}

// create stores a new request, in the place of an old one if there is one.
func (s *Service) create(ctx context.Context, c *call, old *record, now time.Time) (*record, error) {
	if err := s.checkRoom(ctx, c, now); err != nil {
		return nil, err
	}
	r := newRecord(c, now, s.config.Timeout)
	var at store.Revision
	if old != nil {
		at = old.revision
		if !old.expired(now) { // those who decide are shown what the other call brought, too
			r.Taint = taint.Of(old.Taint...).Union(c.Taint).Labels()
		}
	}
	var err error
	if r.revision, err = s.store.Put(ctx, c.key, r.seal(s.config.Key), at); err != nil {
		return nil, err
	}
	s.asked.Add(1)
	s.announce(ctx, r)
	return r, nil
}

func (s *Service) announce(ctx context.Context, r *record) {
	if s.config.Asked != nil {
		s.config.Asked(r.Request)
		return
	}
	s.log.WarnContext(ctx, "tool call waits for approval", "agent", r.Agent, "tool", r.Tool, "id", r.ID, "until", r.Expires)
}

// checkRoom counts the requests that wait. The one under the call's own key does not count.
func (s *Service) checkRoom(ctx context.Context, c *call, now time.Time) error {
	all, own := 0, 0
	for r, err := range s.records(ctx) {
		if err != nil {
			return err
		}
		if r.State != Waiting || r.expired(now) || r.key() == c.key {
			continue
		}
		all++
		if r.Agent == cut.Text(c.Agent, maxName) && r.AgentID == cut.Text(c.AgentID, maxName) {
			own++
		}
	}
	switch {
	case all >= s.config.MaxPending:
		return fmt.Errorf("%w: %d of all agents", ErrTooMany, all)
	case own >= s.config.MaxPendingPerAgent:
		return fmt.Errorf("%w: %d of this agent", ErrTooMany, own)
	}
	return nil
}

func newRecord(c *call, now time.Time, timeout time.Duration) *record {
	now = now.Round(0).UTC()
	params, isCut := Show(c.Params)
	return &record{
		hash:       c.hash[:],
		paramsHash: c.params[:],
		proven:     true,
		Request: Request{
			ID:           newID(),
			Agent:        cut.Text(c.Agent, maxName),
			AgentID:      cut.Text(c.AgentID, maxName),
			Tool:         cut.Text(c.Tool, maxName),
			Description:  cut.Text(c.Description, maxDescription),
			Destructive:  c.Annotations.Destructive,
			ReadOnly:     c.Annotations.ReadOnly,
			OpenWorld:    c.Annotations.OpenWorld,
			Params:       params,
			ParamsCut:    isCut,
			ParamsSize:   len(c.Params),
			ParamsSHA256: hex.EncodeToString(c.params[:]),
			Taint:        c.Taint.Labels(),
			TaskID:       cut.Text(c.TaskID, maxID),
			CallID:       cut.Text(c.CallID, maxID),
			Rule:         c.rule,
			Reason:       cut.Text(c.reason, maxReason),
			Asked:        now,
			Expires:      now.Add(timeout),
			State:        Waiting,
		},
	}
}

// newID returns an ID that nobody can foresee: who decides on one has seen the request.
func newID() string {
	var b [idDigits / 2]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
