package converge

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/converge-agents/converge/internal/panics"
)

// Pauses before the turn that shows an agent its failed decisions. They grow while every turn fails, so
// that an agent that insists does not keep a core busy.
const (
	minBackoff = time.Millisecond
	maxBackoff = time.Second
)

// assemble gathers what has come for the agent.
func (r *Runtime) assemble(draining bool) Turn {
	waited := r.inbox.Take(r.config.TurnMessages)
	t := Turn{Messages: slices.DeleteFunc(waited, r.withdrawn), Failures: r.failures, Draining: draining, Began: time.Now()}
	r.failures = nil
	t.Results, t.Claimed, t.Ended = r.executor.Collect()
	if r.config.Tasks != nil && !draining {
		t.Tasks = r.config.Tasks.Visible(r.route(), r.config.TurnTasks)
	}
	t.Pools = r.pools.show()
	r.see(t)
	r.trail.gather(&t)
	if r.inbox.Len() > 0 || len(t.Messages) < len(waited) { // in the latter case drain has to look again
		r.schedule.Wake()
	}
	return t
}

// turn has the agent decide and carries out what it decided.
func (r *Runtime) turn(ctx context.Context, t Turn) {
	r.turns.Inc()
	start := time.Now()
	r.turnStarted.Store(start.UnixNano())
	defer r.turnStarted.Store(0)
	decisions, err := r.decide(ctx, t)
	r.turnTimes.Observe(time.Since(start))
	if err == nil {
		err = r.states.save(ctx)
	}
	if errors.Is(err, ErrSuperseded) {
		r.giveUp(err)
	}
	if err != nil {
		r.errored.Inc()
		r.log.Error("turn failed; its decisions are not carried out", "error", err)
		panics.LogStack(r.log, err)
		decisions = nil
	}
	r.trail.decided(&t, decisions, time.Since(start), err)
	r.executeAll(ctx, decisions)
	r.backOff(err != nil || len(r.failures) > 0)
}

func (r *Runtime) decide(ctx context.Context, t Turn) (decisions []Decision, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.DecideTimeout)
	defer cancel()
	defer panics.Catch(&err, "agent")
	if ticker, ok := r.config.Agent.(Ticker); ok {
		if err := ticker.OnTick(ctx); err != nil {
			return nil, err
		}
	}
	return r.config.Agent.Decide(ctx, t)
}

// maxTogether bounds the messages that go out together, within one send timeout.
const maxTogether = 256

// executeAll carries out decisions in their order. Messages that follow each other go out together, and
// so do decisions of one kind about tasks.
func (r *Runtime) executeAll(ctx context.Context, decisions []Decision) {
	if err := r.trail.healthy(); err != nil {
		r.refuseAll(ctx, decisions, err)
		return
	}
	decisions = r.refuseClaims(ctx, decisions)
	for len(decisions) > 0 {
		n := leading(decisions, maxTogether)
		switch {
		case n < 2:
			r.execute(ctx, decisions[0])
		case decisions[0].Kind() == SendMessage{}.Kind():
			r.executeSends(ctx, decisions[:n])
		default:
			r.tally(ctx, decisions[:n], r.executor.ExecuteTasks(ctx, decisions[:n]))
		}
		decisions = decisions[n:]
	}
}

// refuseClaims leaves out the claims once the agent is to stop: it would begin what it can hardly end.
func (r *Runtime) refuseClaims(ctx context.Context, decisions []Decision) (others []Decision) {
	select {
	case <-r.stopping:
	default:
		return decisions
	}
	for _, d := range decisions {
		if _, claims := d.(ClaimTask); !claims {
			others = append(others, d)
			continue
		}
		r.tally(ctx, []Decision{d}, []error{errTooLate})
	}
	return others
}

// leading returns how many decisions at the beginning can be carried out together; at least one.
func leading(decisions []Decision, most int) int {
	first := decisions[0]
	if !goesTogether(first) {
		return 1
	}
	for n, d := range decisions[:min(len(decisions), most)] {
		if !goesTogether(d) || d.Kind() != first.Kind() {
			return n
		}
	}
	return min(len(decisions), most)
}

// goesTogether goes by the type: a custom decision may claim the kind of one of ours.
func goesTogether(d Decision) bool {
	switch d.(type) {
	case SendMessage, SubmitTask, ClaimTask, ReportTask, FailTask, CancelTask:
		return true
	}
	return false
}

func (r *Runtime) executeSends(ctx context.Context, sends []Decision) {
	for _, d := range sends {
		r.drafts = append(r.drafts, d.(SendMessage).Draft)
	}
	r.trail.note(r.drafts)
	r.tally(ctx, sends, r.executor.SendAll(ctx, r.drafts))
	clear(r.drafts)
	r.drafts = r.drafts[:0]
}

// tally counts what became of decisions of one kind, and has the agent see what could not be done.
func (r *Runtime) tally(ctx context.Context, decisions []Decision, errs []error) {
	failed := 0
	for i, err := range errs {
		if err != nil {
			failed++
			r.fail(ctx, decisions[i], err)
		}
	}
	r.trail.outcomes(decisions, errs)
	r.decided.addMany(decisions[0].Kind(), len(decisions)-failed, failed)
}

func (r *Runtime) execute(ctx context.Context, d Decision) {
	if d == nil {
		return
	}
	if wake, ok := d.(Wake); ok {
		r.schedule.WakeAfter(max(wake.After, 0))
		r.decided.add(d.Kind(), nil)
		return
	}
	err := r.executor.Execute(ctx, r.trail.noted(d))
	r.trail.outcomes([]Decision{d}, []error{err})
	r.decided.add(d.Kind(), err)
	if err != nil {
		r.fail(ctx, d, err)
	}
}

// refuseAll has the agent see that nothing is done.
func (r *Runtime) refuseAll(ctx context.Context, decisions []Decision, err error) {
	for _, d := range decisions {
		if d != nil && !isWake(d) {
			r.decided.add(d.Kind(), err)
			r.fail(ctx, d, err)
		}
	}
}

func isWake(d Decision) bool {
	_, ok := d.(Wake)
	return ok
}

// fail has the agent see in its next turn what could not be done.
func (r *Runtime) fail(ctx context.Context, d Decision, err error) {
	r.log.Log(ctx, levelOf(err), "decision failed", "kind", kindLabel(d.Kind()), "error", err)
	panics.LogStack(r.log, err)
	r.failures = append(r.failures, Failure{Decision: d, Err: err})
}

// backOff sees to it that after a turn that failed, in part or in whole, there is another one soon, but
// not at once over and over.
func (r *Runtime) backOff(failed bool) {
	if !failed {
		r.backoff = 0
		return
	}
	r.backoff = min(max(2*r.backoff, minBackoff), maxBackoff)
	r.schedule.WakeAfter(r.backoff)
}
