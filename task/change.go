package task

import "github.com/converge-agents/converge/identity"

// deadlineReason is the error of a task that its deadline has failed.
const deadlineReason = "deadline exceeded"

// The functions below are the transitions of a task. Each returns the changed copy of a record, not yet
// stored, or says why it may not be.

// changed returns a copy to make changes in.
func (r *record) changed(to Status, now int64) *record {
	next := *r
	next.status, next.updated = to, now
	next.expires, next.revision = 0, 0
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

// expire does what is due: it fails a task at its deadline and releases an expired claim.
func (r *record) expire(now int64) *record {
	if r.overdue(now) {
		next := r.changed(Failed, now)
		next.outcome = newOutcome(nil, "", deadlineReason)
		return next
	}
	next := r.changed(Pending, now)
	next.claimant = identity.ID{}
	return next
}

// assign gives a task to an agent. An expired claim does not have to be released first.
func (r *record) assign(p *Profile, now int64) (*record, error) {
	switch {
	case !p.sees(&r.spec):
		return nil, ErrNotRouted
	case r.status.Terminal():
		return nil, ErrTerminal
	case r.status == Assigned && !r.lapsed(now), r.overdue(now):
		return nil, ErrNotPending
	}
	next := r.changed(Assigned, now)
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

// end completes or fails a task.
func (r *record) end(c *Claim, as Status, o *outcome, now int64) (*record, error) {
	if err := r.held(c, now); err != nil {
		return nil, err
	}
	next := r.changed(as, now)
	next.outcome = o
	return next, nil
}

func (r *record) cancel(by identity.ID, now int64) (*record, error) {
	if by != r.spec.Submitter {
		return nil, ErrNotSubmitter
	}
	if r.status.Terminal() {
		return nil, ErrTerminal
	}
	return r.changed(Cancelled, now), nil
}
