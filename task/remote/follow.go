package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/task"
)

// Attach has fn called, until detach is called, when a pending task appears that the agent may claim, when
// a task ends that it has submitted, and when one that it holds has ended by somebody else's doing. The
// calls come from one goroutine, one after the other: fn must not block, and must not call Attach or
// detach. When detach returns, fn is not running and is not called again; detaching twice is fine.
//
// While somebody is attached, the client runs one goroutine, which asks the host what is new; the last
// detach stops it and waits for it. Attach itself does not wait for the host.
func (c *Client) Attach(fn func(task.Task)) (detach func()) {
	return c.listeners.Attach(fn, c.start, c.halt)
}

func (c *Client) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.setFollows(true)
	c.running.Go(func() { c.follow(ctx) })
}

func (c *Client) halt() {
	c.stop()
	c.running.Wait()
	c.setFollows(false)
}

func (c *Client) setFollows(follows bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follows = follows
}

// tell tells all listeners of tasks.
func (c *Client) tell(tasks []task.Task) { c.listeners.Tell(tasks...) }

// Visible returns the first pending tasks that the profile sees, at most limit of them, as far as the
// client knows them: it has those that the profile sees with which it is bound, up to Binding.Window.
// It knows none unless somebody is attached, nor while the host does not answer.
func (c *Client) Visible(p task.Profile, limit int) []task.Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil
	}
	var visible []task.Task
	now := time.Now()
	for i := range c.pending {
		t := &c.pending[i]
		p.Pools = []string{t.Pool} // the host knows better which pools the agent is in
		if len(visible) < limit && p.Sees(t.Spec) && (t.Deadline.IsZero() || now.Before(t.Deadline)) {
			visible = append(visible, *t)
			last := &visible[len(visible)-1]
			last.Params, last.Capabilities = bytes.Clone(t.Params), slices.Clone(t.Capabilities)
		}
	}
	return visible
}

// pollPause is the least time from one answer that had something to tell to the next poll. What comes
// meanwhile comes at once.
const pollPause = 20 * time.Millisecond

// firstTimeout is how long the first poll waits. It is often sent before the host is there, or before the two
// know each other's keys, and then not answered.
const firstTimeout = 500 * time.Millisecond

// follow polls the host until ctx is done.
func (c *Client) follow(ctx context.Context) {
	b, err := c.bound()
	if err != nil {
		return
	}
	var failed, idle pause
	for heard := false; ctx.Err() == nil; {
		wait, patience := MaxPark, c.config.Timeout
		if !heard || failed != 0 || c.isDown() { // is the host there?
			wait = 0
		}
		if !heard && failed == 0 {
			patience = min(patience, firstTimeout)
		}
		came, err := c.poll(ctx, b, wait, patience)
		heard = heard || err == nil
		switch {
		case ctx.Err() != nil || errors.Is(err, errRestart):
		case err != nil:
			c.report(ctx, b, failed, err)
			failed.wait(ctx)
			continue
		case came == nothingEarly: // no host does that, but one that does has not to be asked all the time
			idle.wait(ctx)
			continue
		case came == news:
			sleep.For(ctx, pollPause/2+rand.N(pollPause))
		}
		failed, idle = 0, 0
	}
	c.forgetPending()
}

// outcome is what a poll has brought.
type outcome uint8

const (
	nothing      outcome = iota // its time was up
	nothingEarly                // it was not
	news
	moreNews // and there is more to be told now
)

func (a *answer) outcome(wait time.Duration) outcome {
	p := a.poll
	full := func(t task.Task) bool { return t.Status != 0 }
	switch {
	case p.more && len(p.ended) > 0:
		return moreNews
	case p.resync || len(p.ended) > 0 || slices.ContainsFunc(p.pending, full):
		return news
	case time.Since(a.asked) < wait/2:
		return nothingEarly
	}
	return nothing
}

// report says that the poll has failed: the first time in a row as a warning.
func (c *Client) report(ctx context.Context, b *Binding, p pause, err error) {
	level := slog.LevelDebug
	if p == pause(minPause) { // one lost message is nothing to talk about
		level = slog.LevelWarn
	}
	b.Logger.Log(ctx, level, "the host of the tasks does not answer; trying again", "host", c.config.Host.Short(), "error", err)
}

// errRestart ends a poll that will not be answered.
var errRestart = errors.New("the host is another process now")

// poll asks the host what is new within wait, and tells it to those who are attached. The answer may take patience
// longer than that.
func (c *Client) poll(ctx context.Context, b *Binding, wait, patience time.Duration) (outcome, error) {
	polling, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q, known := c.question(b, wait, func() { cancel(errRestart) })
	a, err := c.attempt(polling, b, q, wait+patience)
	if errors.Is(context.Cause(polling), errRestart) {
		return nothing, errRestart
	}
	if err != nil {
		return nothing, err
	}
	if a.poll == nil {
		return nothing, fmt.Errorf("%w: a poll is not answered by one", ErrProtocol)
	}
	fresh := c.show(a.poll.pending, known)
	c.tell(c.over(a.poll.ended))
	c.tell(fresh)
	if a.poll.resync {
		if err := c.review(ctx, b); err != nil {
			return nothing, err
		}
	}
	c.setCursor(cursor{a.instance, a.poll.seq})
	return a.outcome(wait), nil
}

// question makes a poll of what the client knows.
func (c *Client) question(b *Binding, wait time.Duration, restart func()) (*request, map[string]task.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restart = restart
	if c.missed {
		c.missed, c.cursor = false, cursor{}
	}
	p := &pollRequest{window: b.Window, cursor: c.cursor, wait: wait}
	tasks := make(map[string]task.Task, len(c.pending))
	for _, t := range c.pending {
		p.known = append(p.known, known{t.ID, uint64(t.Revision)})
		tasks[t.ID] = t
	}
	return &request{profile: b.Profile, poll: p}, tasks
}

// setCursor notes how far the ends of tasks have been told.
func (c *Client) setCursor(to cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cursor, c.restart = to, func() {}
}

// show replaces the tasks that the agent may claim, and returns those that are new to it. Of those that
// it knew the host names only the ID. What has been claimed since the host looked is left out.
func (c *Client) show(pending []task.Task, known map[string]task.Task) (fresh []task.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = nil
	for _, t := range pending {
		full := t
		if t.Status == 0 {
			full = known[t.ID]
		}
		if full.Status != task.Pending || !c.mayClaim(&full) {
			continue
		}
		c.pending = append(c.pending, full)
		if t.Status != 0 {
			fresh = append(fresh, full)
		}
	}
	return fresh
}

func (c *Client) forgetPending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending, c.restart = nil, func() {}
}

// over returns those tasks that have ended and were the agent's, which they are no longer. An end of a task that the
// agent is ending itself is kept back until it is known whose doing it was.
func (c *Client) over(ended []task.Task) (told []task.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range ended {
		o := c.own[t.ID]
		if o == nil || !t.Status.Terminal() {
			continue
		}
		if l := c.leaving[t.ID]; l != nil && !o.submitted {
			l.ended = true
		} else {
			delete(c.own, t.ID)
			told = append(told, t)
		}
	}
	return told
}

// review asks the host about all tasks of the agent, and tells of those that have ended, or are lost. It goes
// on until that is done.
func (c *Client) review(ctx context.Context, b *Binding) error {
	rest, confirmed := c.owned()
	var pause pause
	for len(rest) > 0 {
		named := rest[:min(len(rest), MaxReview)]
		a, err := c.attempt(ctx, b, &request{review: named}, c.config.Timeout)
		if err != nil && !isFinal(err) && pause.wait(ctx) {
			continue
		}
		if err != nil {
			return err
		}
		pause = 0
		if a.reply.review == nil || a.reply.review.done == 0 || a.reply.review.done > len(named) {
			return ErrProtocol
		}
		c.tell(c.over(a.reply.review.ended))
		c.tell(c.lost(a.reply.review.gone, confirmed))
		rest = rest[a.reply.review.done:]
	}
	return nil
}

// owned returns the tasks of the agent, and which of them the host has confirmed.
func (c *Client) owned() (ids []string, confirmed map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	confirmed = map[string]bool{}
	for id, o := range c.own {
		ids = append(ids, id)
		if o.confirmed {
			confirmed[id] = true
		}
	}
	return ids, confirmed
}

// lostReason is the error of a task that a host had confirmed and no longer knows.
const lostReason = "the host of the tasks has lost this task"

// lost returns the end of the tasks that the agent has submitted and that are gone, which nobody else
// will tell. Those that it held have others to tell of them: heartbeat and report are refused.
func (c *Client) lost(gone []string, confirmed map[string]bool) (told []task.Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range gone {
		o := c.own[id]
		if o != nil && !o.submitted {
			delete(c.own, id)
		}
		if o == nil || !o.submitted || !confirmed[id] {
			continue
		}
		b := c.binding
		delete(c.own, id)
		b.Logger.Warn("a task that was submitted is gone", "host", c.config.Host.Short(), "task", id)
		told = append(told, task.Task{
			Spec: task.Spec{ID: id, Submitter: b.Profile.Agent}, Status: task.Failed, Error: lostReason,
		})
	}
	return told
}
