package remote

import (
	"fmt"

	"github.com/converge-agents/converge/task"
)

// newID returns an ID for a task of the client's agent.
func (c *Client) newID(s task.Spec) (string, error) {
	b, err := c.bound()
	if err != nil {
		return "", err
	}
	s.Submitter = b.Profile.Agent
	return s.NewID(), nil
}

// expect notes a task that is about to be submitted, so that its end cannot be missed.
func (c *Client) expect(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.own[id]
	if o == nil && len(c.own) >= MaxWatched {
		return fmt.Errorf("%w: %d tasks of this agent have not ended", task.ErrFull, MaxWatched)
	}
	if o == nil {
		o = &ownTask{}
		c.own[id] = o
	}
	o.submitted = true
	return nil
}

// take notes that a claim is under way: the task is not shown meanwhile, nor afterwards as it is now.
func (c *Client) take(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken[id]++
	for i := range c.pending {
		if c.pending[i].ID == id {
			c.pending = append(c.pending[:i:i], c.pending[i+1:]...)
			return
		}
	}
}

// leave notes that the agent is about to end a task that it holds, or to give it back: the end that the host tells of
// meanwhile may be by the agent's own doing, which it is not told.
func (c *Client) leave(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leaving[id]
	if l == nil {
		l = &leaving{}
		c.leaving[id] = l
	}
	l.ops++
}

// left notes how that has come out. If it is not known and an end was kept back, the poll finds out anew. It wants
// mu held.
func (c *Client) left(id string, known bool) {
	l := c.leaving[id]
	if l.ops--; l.ops > 0 {
		return
	}
	delete(c.leaving, id)
	if l.ended && !known {
		c.missed = true
		c.restart()
	}
}

// settle notes how an operation has ended.
func (c *Client) settle(op *Op, t *task.Task, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := op.id()
	o := c.own[id]
	switch op.Kind {
	case OpSubmit, OpRequeue:
		c.settleSubmit(id, o, t, err)
	case OpClaim:
		if c.taken[id]--; c.taken[id] <= 0 {
			delete(c.taken, id)
		}
		if err == nil && t != nil { // a host that sends none is refused
			c.hold(id, o, t.Epoch)
		}
	case OpHeartbeat, OpReport, OpFail, OpRelease:
		over := err == nil && op.Kind != OpHeartbeat || task.IsLost(err)
		if op.Kind != OpHeartbeat {
			c.left(id, over)
		}
		if o != nil && over {
			o.held = false
			c.drop(id, o)
		}
	}
}

// hold notes that the agent holds a task. Beyond the bound it learns of the task's end from its next
// heartbeat only. It wants mu held.
func (c *Client) hold(id string, o *ownTask, epoch uint64) {
	if o == nil && len(c.own) >= MaxWatched {
		return
	}
	if o == nil {
		o = &ownTask{}
		c.own[id] = o
	}
	o.held, o.epoch = true, epoch
}

// mayClaim reports whether a task that the host calls pending is to be shown to the agent: no claim of its own is
// under way, and none of those that it has won is later than what the host saw. Its last claim may be over
// without its knowing, if it could not be renewed. It wants mu held.
func (c *Client) mayClaim(t *task.Task) bool {
	o := c.own[t.ID]
	if o != nil && o.held && t.Epoch >= o.epoch {
		o.held = false
		c.drop(t.ID, o)
	}
	return c.taken[t.ID] == 0 && (o == nil || !o.held)
}

// settleSubmit notes how a submission has ended. The end of a task that has ended already is told by the
// task that Submit returns. Where it is not known whether the task was submitted, its end is none of the
// agent's business until it is submitted again.
func (c *Client) settleSubmit(id string, o *ownTask, t *task.Task, err error) {
	switch {
	case o == nil: // its end has been told
	case err != nil && !o.confirmed, err == nil && t != nil && t.Status.Terminal():
		o.submitted, o.confirmed = false, false
		c.drop(id, o)
	case err == nil:
		o.confirmed = true
	}
}

// drop forgets a task that is not the agent's in any way. It wants mu held.
func (c *Client) drop(id string, o *ownTask) {
	if !o.submitted && !o.held {
		delete(c.own, id)
	}
}
