package converge

import (
	"context"
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
	t := Turn{Messages: r.inbox.Take(r.config.TurnMessages), Failures: r.failures, Draining: draining}
	r.failures = nil
	t.Results, t.Claimed, t.Ended = r.executor.Collect()
	if r.config.Tasks != nil && !draining {
		t.Tasks = r.config.Tasks.Visible(r.profile, r.config.TurnTasks)
	}
	if r.inbox.Len() > 0 {
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
	if err != nil {
		r.errored.Inc()
		r.log.Error("turn failed; its decisions are not carried out", "error", err)
		panics.LogStack(r.log, err)
		decisions = nil
	}
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

// executeAll carries out decisions in their order. Messages that follow each other go out together.
func (r *Runtime) executeAll(ctx context.Context, decisions []Decision) {
	for len(decisions) > 0 {
		sends := leadingSends(decisions)
		if len(sends) < 2 {
			r.execute(ctx, decisions[0])
			decisions = decisions[1:]
			continue
		}
		failed := 0
		for i, err := range r.executor.SendAll(ctx, sends) {
			if err != nil {
				failed++
				r.fail(ctx, sends[i], err)
			}
		}
		r.decided.addMany(SendMessage{}.Kind(), len(sends)-failed, failed)
		decisions = decisions[len(sends):]
	}
}

func leadingSends(decisions []Decision) []SendMessage {
	n := 0
	for n < len(decisions) {
		if _, ok := decisions[n].(SendMessage); !ok {
			break
		}
		n++
	}
	if n < 2 {
		return nil
	}
	sends := make([]SendMessage, n)
	for i := range sends {
		sends[i] = decisions[i].(SendMessage)
	}
	return sends
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
	err := r.executor.Execute(ctx, d)
	r.decided.add(d.Kind(), err)
	if err != nil {
		r.fail(ctx, d, err)
	}
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
