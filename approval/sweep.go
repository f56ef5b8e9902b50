package approval

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Requests are swept this often, and this long after their time was over: the calls themselves come first.
const (
	sweepEvery = 30 * time.Second
	sweepGrace = 5 * time.Second
)

// Run sweeps requests that processes have left behind, until ctx ends. Then the calls that wait here end too,
// since nobody is to wait for them any more, and no others can be asked about. It returns nil, and can be
// called once.
func (s *Service) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("approval: Run was called before")
	}
	defer s.end(ErrStopped)
	tick := time.NewTicker(min(sweepEvery, max(s.config.Timeout, time.Second)))
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot sweep approvals; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sweep removes the requests whose time is over and that no call comes for, also those of other keys: whoever
// could lie about their time could remove them as well.
func (s *Service) sweep(ctx context.Context) error {
	now, err := s.now(ctx)
	if err != nil {
		return err
	}
	for r, err := range s.allRecords(ctx) {
		if err != nil {
			return err
		}
		if !r.expired(now.Add(-sweepGrace)) {
			continue
		}
		removed, err := s.remove(ctx, r)
		if err != nil {
			return err
		}
		if removed && r.proven && r.State != Denied {
			s.swept(r)
		}
	}
	return nil
}

// swept records the end of a request whose call is gone.
func (s *Service) swept(r *record) {
	s.remember(r, TimedOut)
	s.log.Info("approval request swept: its time is over, and its process is gone", "agent", r.Agent, "tool", r.Tool, "id", r.ID)
	if s.config.Record != nil {
		s.config.Record(Verdict{
			Outcome: NobodyDecided, Request: r.ID, Agent: r.Agent, AgentID: r.AgentID, Tool: r.Tool,
			ParamsSHA256: hex.EncodeToString(r.paramsHash), Taint: r.Taint, TaskID: r.TaskID, CallID: r.CallID, Rule: r.Rule, Reason: r.Reason,
			By: r.By, Claimed: r.Claimed, Note: r.Note, Asked: r.Asked, Decided: r.Decided,
			Err: fmt.Errorf("%w, or its process was gone", ErrTimedOut),
		})
	}
}
