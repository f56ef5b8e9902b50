package task

import (
	"cmp"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

var errNotReady = fmt.Errorf("%w yet", ErrNotPending)

// Errors of tasks that no agent has failed.
const (
	deadlineReason = "deadline exceeded"
	lapseReason    = "claim expired"
	lostReason     = "its record on the store cannot be read or believed any more"
)

// endedByManager reports whether a failure is one that no agent has reported.
func (r *record) endedByManager() bool {
	return r.outcome != nil && r.outcome.proof == nil && (r.outcome.reason == deadlineReason || r.outcome.reason == lapseReason)
}

// The functions below are the transitions of a task. Each returns the changed copy of a record, not yet
// stored, or says why it may not be.

// changed returns a copy to make changes in.
func (r *record) changed(to Status, now int64) *record {
	next := *r
	next.status, next.updated = to, now
	next.expires, next.ready, next.revision = 0, 0, 0
	return &next
}

// overdue tells whether the deadline is over; that of a task that has ended no longer matters.
func (r *record) overdue(now int64) bool {
	return r.deadline != 0 && now >= r.deadline && !r.status.Terminal()
}

// lapsed tells whether there is a claim that has expired.
func (r *record) lapsed(now int64) bool { return r.status == Assigned && now >= r.expires }

// due returns when something has to be done if nothing else happens; 0 means never.
func (r *record) due() int64 {
	switch r.status {
	case Assigned:
		return r.expires // never after the deadline
	case Pending:
		return r.deadline
	}
	return 0
}

// next returns the first time at which something happens to it by itself; 0 means never.
func (r *record) next() int64 {
	if at := r.due(); at != 0 && (r.ready == 0 || at < r.ready) {
		return at
	}
	return r.ready
}

// waits tells whether a pending task is not to be claimed yet.
func (r *record) waits(now int64) bool { return r.ready > now }

// lastLapse tells whether the claim is the last one that may run out.
func (r *record) lastLapse() bool {
	return int(r.attempts)+1 >= cmp.Or(r.spec.MaxAttempts, DefaultLapses)
}

// expire does what is due: it fails a task at its deadline, and ends an attempt whose claim has expired.
func (r *record) expire(now int64) *record {
	if r.overdue(now) {
		next := r.changed(Failed, now)
		next.outcome = newOutcome(nil, "", deadlineReason)
		return next
	}
	if r.lastLapse() {
		next := r.changed(Failed, now)
		next.attempts, next.dead = r.attempts+1, true
		next.outcome = newOutcome(nil, "", lapseReason)
		return next
	}
	next := r.changed(Pending, now)
	next.attempts++
	next.claimant = identity.ID{}
	return next
}

// bound lets no claim last longer than its time to live from now: one that does was made by somebody
// whose clock was ahead. It is for a record that nobody else has seen.
func (r *record) bound(now int64) {
	if r.status == Assigned {
		r.expires = min(r.expires, now+int64(r.spec.ClaimTTL))
	}
}

// lost returns what is told of a task whose record has been spoilt. It is never stored.
func (r *record) lost(at store.Revision) *record {
	next := r.changed(Failed, r.updated)
	next.claimant, next.outcome, next.revision = identity.ID{}, newOutcome(nil, "", lostReason), at
	return next
}

// assign gives a task to an agent. An expired claim does not have to be released first.
func (r *record) assign(p *Profile, now int64) (*record, error) {
	switch {
	case !p.sees(&r.spec):
		return nil, ErrNotRouted
	case r.status.Terminal():
		return nil, ErrTerminal
	case r.status == Assigned && (!r.lapsed(now) || r.lastLapse()), r.overdue(now):
		return nil, ErrNotPending
	case r.waits(now):
		return nil, errNotReady
	}
	next := r.changed(Assigned, now)
	if r.status == Assigned {
		next.attempts++
	}
	next.claimant = p.Agent
	next.epoch++
	next.expires = r.expiry(now)
	return next, nil
}

// expiry returns when a claim of this moment ends.
func (r *record) expiry(now int64) int64 {
	expires := now + int64(r.spec.ClaimTTL)
	if r.deadline != 0 {
		return min(expires, r.deadline)
	}
	return expires
}

// held reports whether a claim entitles to change the task.
func (r *record) held(c *Claim, now int64) error {
	switch {
	case c.Agent.IsZero() || c.Agent != r.claimant || c.Epoch != r.epoch:
		return ErrClaimLost
	case r.status.Terminal():
		return ErrTerminal
	case r.lapsed(now):
		return ErrClaimLost
	}
	return nil
}

// extend never shortens a claim, even where the clock was set back.
func (r *record) extend(c *Claim, now int64) (*record, error) {
	if err := r.held(c, now); err != nil {
		return nil, err
	}
	next := r.changed(Assigned, now)
	next.expires = max(r.expires, r.expiry(now))
	return next, nil
}

// release gives a task back.
func (r *record) release(c *Claim, now int64) (*record, error) {
	if err := r.held(c, now); err != nil {
		return nil, err
	}
	next := r.changed(Pending, now)
	next.claimant = identity.ID{}
	return next, nil
}

// end completes a task, or ends an attempt at it.
func (r *record) end(e *Ending, o *outcome, now int64) (*record, error) {
	if err := r.held(&e.Claim, now); err != nil {
		return nil, err
	}
	next := r.changed(e.Status, now)
	next.outcome = o
	if e.Status == Failed {
		next.fail(e.Permanent, now)
	}
	return next, nil
}

// fail ends an attempt, and the task with it if it was the last or permanent is set.
func (r *record) fail(permanent bool, now int64) {
	r.attempts++
	switch {
	case permanent || r.spec.MaxAttempts == 0:
	case int(r.attempts) >= r.spec.MaxAttempts:
		r.dead = true
	default:
		r.status, r.claimant, r.outcome = Pending, identity.ID{}, r.outcome.unproven()
		r.ready = now + int64(r.spec.Backoff.pause(int(r.attempts)))
	}
}

// requeue gives a dead letter another round of attempts. Its epoch grows on.
func (r *record) requeue(by identity.ID, now int64) (*record, error) {
	switch {
	case by != r.spec.Submitter:
		return nil, ErrNotSubmitter
	case !r.dead:
		return nil, ErrNotDead
	case r.deadline != 0 && now >= r.deadline:
		return nil, fmt.Errorf("%w: its deadline is over", ErrTerminal)
	}
	next := r.changed(Pending, now)
	next.attempts, next.dead, next.claimant, next.outcome = 0, false, identity.ID{}, nil
	return next, nil
}

func (r *record) cancel(by identity.ID, now int64) (*record, error) {
	if by != r.spec.Submitter {
		return nil, ErrNotSubmitter
	}
	if r.status.Terminal() {
		return nil, ErrTerminal
	}
	next := r.changed(Cancelled, now)
	next.outcome = nil
	return next, nil
}
