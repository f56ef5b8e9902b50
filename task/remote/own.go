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
		if err == nil {
			c.hold(id, o)
		}
	case OpHeartbeat, OpReport, OpFail, OpRelease:
		over := err == nil && op.Kind != OpHeartbeat || task.IsLost(err)
		if o != nil && over {
			o.held = false
			c.drop(id, o)
		}
	}
}

// hold notes that the agent holds a task. Beyond the bound it learns of the task's end from its next
// heartbeat only. It wants mu held.
func (c *Client) hold(id string, o *ownTask) {
	if o == nil && len(c.own) >= MaxWatched {
		return
	}
	if o == nil {
		o = &ownTask{}
		c.own[id] = o
	}
	o.held = true
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
