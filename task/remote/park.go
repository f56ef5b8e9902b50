package remote

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// poll is a client's question what there is that it does not know.
type poll struct {
	agent     identity.ID
	inReplyTo message.ID
	profile   task.Profile
	route     string // the same for polls that are shown the same tasks
	rights    Rights
	announced task.Profile // before the rights are applied
	pools     []string     // that the agent was a member of when it asked
	window    int          // 0 for an agent that may not work
	known     map[uint64]struct{}
	cursor    cursor
	until     time.Time
}

func newPoll(m *message.Message, q *request, rights Rights, now time.Time) *poll {
	p := &poll{
		agent: m.Sender(), inReplyTo: m.ID(), profile: q.profile, cursor: q.poll.cursor, until: now.Add(q.poll.wait),
		known: make(map[uint64]struct{}, len(q.poll.known)), rights: rights,
	}
	if rights.Work {
		p.window = q.poll.window
	}
	p.route = p.routeOf(&p.profile)
	for _, k := range q.poll.known {
		p.known[k.hash()] = struct{}{}
	}
	return p
}

func (p *poll) routeOf(profile *task.Profile) string {
	return string(appendProfile(cose.AppendInt(nil, int64(p.window)), profile))
}

// sees returns what the poll's agent is taken for now: it may have joined or left pools since it asked.
func (p *poll) sees(pools []string) (profile task.Profile, route string) {
	if slices.Equal(pools, p.pools) {
		return p.profile, p.route
	}
	profile = p.rights.profile(p.agent, p.announced, pools)
	return profile, p.routeOf(&profile)
}

// hash stands for a task at a revision in what is kept of a poll.
func (k known) hash() uint64 { return maphash.Comparable(seed, k) }

var seed = maphash.MakeSeed()

func (p *poll) knows(t *task.Task) bool {
	_, known := p.known[known{t.ID, uint64(t.Revision)}.hash()]
	return known
}

// observe takes in a change of a task.
func (h *Host) observe(t task.Task) {
	h.mu.Lock()
	urgent := t.Status.Terminal() && h.note(&t)
	waken := len(h.parked) > 0 && (urgent && !h.urgent || !h.dirty)
	h.urgent = h.urgent || urgent
	h.dirty = true
	wake := h.wake
	h.mu.Unlock()
	if waken {
		wake()
	}
}

// note remembers the end of a task if it concerns a client, and reports whether that client waits.
func (h *Host) note(t *task.Task) (waits bool) {
	submitter, claimant := h.clients[t.Submitter], h.clients[t.Claimant]
	if submitter == nil && claimant == nil {
		return false
	}
	h.events.add(event{t.ID, t.Submitter, t.Claimant})
	return submitter != nil && submitter.parked != nil || claimant != nil && claimant.parked != nil
}

// take answers a poll at once if there is something to tell, and parks it otherwise.
func (h *Host) take(ctx context.Context, p *poll) (draft message.Draft, ok bool) {
	if len(p.route) > maxProfile {
		return h.draft(p.agent, p.inReplyTo, &reply{failure: failure{codeInvalid, "the profile is too large"}}), true
	}
	if !h.park(p) {
		return h.draft(p.agent, p.inReplyTo, &reply{failure: failure{code: codeBusy}}), true
	}
	v := view{h: h, now: h.config.Now(), shows: map[string][]task.Task{}}
	if !v.hasNews(p) && v.now.Before(p.until) {
		return message.Draft{}, false
	}
	return v.answer(ctx, p), true
}

// park has a poll wait in place of the agent's last one.
func (h *Host) park(p *poll) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clients[p.agent]
	if c == nil {
		return false
	}
	if c.parked != nil {
		h.unpark(c.parked)
	}
	c.parked = p
	h.parked = append(h.parked, p)
	if h.expiry.IsZero() || p.until.Before(h.expiry) {
		h.expiry = p.until
	}
	return true
}

// Due returns the answers to polls that have waited and that there is now something to tell, or whose
// time is up, and after what time there may be more of them if nothing wakes the host before; 0 means
// none.
func (h *Host) Due(ctx context.Context) (drafts []message.Draft, next time.Duration) {
	v := view{h: h, now: h.config.Now(), shows: map[string][]task.Task{}}
	for _, p := range h.due(&v) {
		drafts = append(drafts, v.answer(ctx, p))
	}
	return drafts, h.nextDue(v.now)
}

// due returns the polls that are to be answered now.
func (h *Host) due(v *view) (due []*poll) {
	h.mu.Lock()
	parked := slices.Clone(h.parked)
	urgent, looks, expired := h.urgent, h.dirty && h.pace.ready(v.now), !h.expiry.IsZero() && !v.now.Before(h.expiry)
	h.urgent = false
	if looks {
		h.dirty = false // what changes from here on is for the next time
	}
	h.mu.Unlock()
	if !urgent && !looks && !expired {
		return nil
	}
	for _, p := range parked {
		if len(due) == maxDue {
			h.goOn(urgent, looks)
			return due
		}
		if !v.now.Before(p.until) || urgent && v.hasEnds(p) || looks && v.hasPending(p) {
			due = append(due, p)
		}
	}
	if expired {
		h.setExpiry(v.now)
	}
	return due
}

// maxDue is how many answers are given at once; each may be as large as a message.
const maxDue = 64

// goOn leaves the rest of those who wait for the next time.
func (h *Host) goOn(urgent, looks bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.urgent = h.urgent || urgent
	h.dirty = h.dirty || looks
}

// setExpiry finds out when the first of those who go on waiting is to be answered in any case.
func (h *Host) setExpiry(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expiry = time.Time{}
	for _, p := range h.parked {
		if now.Before(p.until) && (h.expiry.IsZero() || p.until.Before(h.expiry)) {
			h.expiry = p.until
		}
	}
}

func (h *Host) nextDue(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.parked) == 0 {
		return 0
	}
	next := h.expiry.Sub(now)
	if h.dirty {
		next = min(next, h.pace.next(now))
	}
	if h.urgent {
		next = 0
	}
	return max(next, time.Millisecond)
}

// view is what a host shows at one moment.
type view struct {
	h     *Host
	now   time.Time
	shows map[string][]task.Task // by the route of those who see it
	paced bool                   // nobody else may be told of pending tasks now
}

func (v *view) hasNews(p *poll) bool { return v.hasEnds(p) || v.hasPending(p) }

// hasEnds reports whether ends of tasks have to be told, or a review is due.
func (v *view) hasEnds(p *poll) bool {
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	from, ok := v.h.follows(p)
	if !ok || v.h.nextEvent(p, from) != 0 {
		return true
	}
	p.cursor.seq = v.h.events.last
	return false
}

// follows returns the number from which on the poll has to be told ends; ok is false if what came before
// is not known. It wants mu held.
func (h *Host) follows(p *poll) (from uint64, ok bool) {
	c := h.clients[p.agent]
	if c == nil || p.cursor.instance != h.instance || p.cursor.seq < c.since || !h.events.reaches(p.cursor.seq) {
		return h.events.last, false
	}
	return p.cursor.seq, true
}

// nextEvent returns the number of the first event after seq that concerns the poll's agent; 0 if there is
// none. It wants mu held.
func (h *Host) nextEvent(p *poll, seq uint64) uint64 {
	for ; seq < h.events.last; seq++ {
		if e := &h.events.ring[seq%MaxEvents]; e.submitter == p.agent || e.claimant == p.agent {
			return seq + 1
		}
	}
	return 0
}

// hasPending reports whether there are pending tasks that the poll does not know and that it may be told
// of now.
func (v *view) hasPending(p *poll) bool {
	if v.paced || !slices.ContainsFunc(v.pending(p), func(t task.Task) bool { return !p.knows(&t) }) {
		return false
	}
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	v.paced = !v.h.pace.take(1, paceRate, paceBurst, v.now)
	v.h.dirty = v.h.dirty || v.paced
	return !v.paced
}

// pending returns the tasks that the poll is shown. Polls that see the same share them.
func (v *view) pending(p *poll) []task.Task {
	if p.window == 0 {
		return nil
	}
	profile, route := p.sees(v.h.pools(p.agent))
	all, looked := v.shows[route]
	if !looked {
		all = v.h.config.Tasks.Visible(profile, p.window)
		all = slices.DeleteFunc(all, func(t task.Task) bool { return weight(&t) > v.h.room-v.h.soft })
		v.shows[route] = all
	}
	return all
}

// answer answers a poll, which waits no longer.
func (v *view) answer(ctx context.Context, p *poll) message.Draft {
	v.h.mu.Lock()
	v.h.unpark(p)
	v.h.mu.Unlock()
	a := &pollReply{}
	size, err := v.addEnds(ctx, p, a)
	if err != nil {
		v.h.config.Logger.WarnContext(ctx, "the end of a task cannot be read for a client", "error", err)
		return v.h.draft(p.agent, p.inReplyTo, &reply{failure: failureOf(err)})
	}
	for _, t := range v.pending(p) {
		switch {
		case p.knows(&t):
			a.pending = append(a.pending, task.Task{Spec: task.Spec{ID: t.ID}})
			size += len(t.ID) + 8
		case size <= v.h.soft:
			a.pending = append(a.pending, t)
			size += weight(&t)
		}
	}
	return v.h.draft(p.agent, p.inReplyTo, &reply{poll: a})
}

// addEnds adds the tasks that have ended since the poll's number, as far as there is room for them.
func (v *view) addEnds(ctx context.Context, p *poll, a *pollReply) (size int, err error) {
	ids, numbers := v.ends(p, a)
	for i, id := range ids {
		if size > v.h.soft {
			a.seq, a.more = numbers[i]-1, true
			break
		}
		t, err := v.h.config.Tasks.Get(ctx, id)
		if errors.Is(err, task.ErrNotFound) || errors.Is(err, task.ErrRecord) {
			continue
		}
		if err != nil {
			return 0, err
		}
		t = v.h.fitEnded(t, p.agent)
		a.ended = append(a.ended, t)
		size += weight(&t)
	}
	return size, nil
}

// ends returns the events that a poll is to be told, and sets the number that it has then got to.
func (v *view) ends(p *poll, a *pollReply) (ids []string, numbers []uint64) {
	h := v.h
	h.mu.Lock()
	defer h.mu.Unlock()
	a.seq = h.events.last
	from, ok := h.follows(p)
	a.resync = !ok
	n := h.nextEvent(p, from)
	for ; n != 0 && len(ids) < maxEnded; n = h.nextEvent(p, n) {
		ids, numbers = append(ids, h.events.ring[(n-1)%MaxEvents].id), append(numbers, n)
	}
	if n != 0 {
		a.seq, a.more = n-1, true
	}
	return ids, numbers
}
