package llm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
)

// takeFailures deals with decisions of the last turn that could not be carried out.
func (a *Agent) takeFailures(t *turn, failures []converge.Failure) {
	for _, f := range failures {
		switch d := f.Decision.(type) {
		case converge.SendMessage:
			a.sendFailed(d.Draft, f.Err)
		case converge.InvokeTool:
			if s := a.running[d.CallID]; s != nil {
				delete(a.running, d.CallID)
				s.fill(a.notDone("The tool was not run.", f.Err), true)
			}
		case converge.SubmitTask:
			if c := a.subtasks[d.Spec.ID]; c != nil {
				a.endSubtask(d.Spec.ID, a.notDone("The task was not submitted.", f.Err), true)
			}
		case converge.ReportTask:
			if errors.Is(f.Err, task.ErrInvalid) {
				t.do(converge.FailTask{TaskID: d.TaskID, Reason: "the result is none that a task can have"})
			} else {
				endAgain(t, d, f.Err)
			}
		case converge.FailTask:
			endAgain(t, d, f.Err)
		case converge.RenewClaim:
			a.renewFailed(t, d.TaskID, f.Err)
		}
	}
}

// notDone says that a decision was not carried out, and why, which whoever has the tasks may have put into words.
func (a *Agent) notDone(what string, err error) string {
	return what + "\n" + fence("reason", publicReason(err.Error()), a.config.MaxData)
}

// endAgain tries once more to end a task, unless it is no longer ours.
func endAgain(t *turn, d converge.Decision, err error) {
	if !isLost(err) && !errors.Is(err, task.ErrInvalid) {
		t.do(d)
	}
}

func isLost(err error) bool { return task.IsLost(err) || errors.Is(err, converge.ErrNotHeld) }

func (a *Agent) sendFailed(d message.Draft, err error) {
	for i, s := range a.sends {
		if s.draft.To == d.To && s.draft.TaskID == d.TaskID && bytes.Equal(s.draft.Body, d.Body) {
			s.slot.fill(a.notDone("The message was not sent.", err), true)
			a.sends = slices.Delete(a.sends, i, i+1)
			return
		}
	}
}

// confirmSends tells the model that the messages of the last turn went out: those that did not have been taken out.
func (a *Agent) confirmSends() {
	for _, s := range a.sends {
		s.slot.fill("sent", false)
	}
	a.sends = nil
}

func (a *Agent) renewFailed(t *turn, id string, err error) {
	c := a.tasks[id]
	if c == nil {
		return
	}
	if isLost(err) {
		a.log.Warn("the claim is lost, or the task was cancelled; its conversation ends", "task", id, "error", err)
		a.drop(t, c)
		return
	}
	c.renewAt = t.now.Add(min(c.ttl/10, time.Second))
}

// takeResults hands results of tools to the conversations that they are for.
func (a *Agent) takeResults(results []converge.ToolResult) {
	for _, r := range results {
		s := a.running[r.CallID]
		delete(a.running, r.CallID)
		if s == nil || s.c.over {
			continue
		}
		s.c.taint = s.c.taint.Union(r.Taint).With(taint.Tool(r.Tool))
		if r.Err != nil {
			s.fill(fence(fmt.Sprintf("error of the tool %q", r.Tool), r.Err.Error(), a.config.MaxData), true)
			continue
		}
		s.fill(fence(fmt.Sprintf("output of the tool %q", r.Tool), string(r.Output.Data), a.config.MaxData), false)
	}
}

// proofPatience is how long a result waits for the key of the agent that signed it.
const proofPatience = 30 * time.Second

// takeEnded hands results of tasks to the conversations that submitted them.
func (a *Agent) takeEnded(ended []task.Task, now time.Time) {
	waiting := a.unproven
	a.unproven = nil
	for _, t := range ended {
		waiting = append(waiting, unproven{t, now.Add(proofPatience)})
	}
	for _, u := range waiting {
		c := a.subtasks[u.task.ID]
		if c == nil {
			continue
		}
		err := a.verify(&u.task)
		if errors.Is(err, identity.ErrUnknown) && now.Before(u.until) {
			a.unproven = append(a.unproven, u)
			continue
		}
		a.takeSubtask(c, &u.task, err)
	}
}

func (a *Agent) verify(t *task.Task) error {
	switch {
	case a.config.Recall != nil:
		return a.note.proofOf(t.ID)
	case a.config.Verifier == nil || t.Status != task.Completed:
		return nil
	}
	err := a.config.Verifier.VerifyEnding(t)
	a.note.Proofs = append(a.note.Proofs, keptProof{t.ID, recording.NewError(err)})
	return err
}

func (a *Agent) takeSubtask(c *conversation, t *task.Task, unsigned error) {
	worker := a.nameOf(t.Claimant)
	if !t.Claimant.IsZero() {
		c.taint = c.taint.With(taint.Peer(t.Claimant.String()))
	}
	switch {
	case unsigned != nil:
		a.endSubtask(t.ID, "The task has a result that is not signed by the agent that is said to have done it; it is not shown.", true)
	case t.Status == task.Completed:
		a.endSubtask(t.ID, fence(fmt.Sprintf("result of the task, from the agent %q", worker), string(t.Result), a.config.MaxData), false)
	default:
		a.endSubtask(t.ID, fmt.Sprintf("The task is %v.\n", t.Status)+fence(fmt.Sprintf("reason, from the agent %q", worker), t.Error, a.config.MaxData), true)
	}
}

func (a *Agent) endSubtask(id, text string, failed bool) {
	c := a.subtasks[id]
	delete(a.subtasks, id)
	if s := c.subtasks[id]; s != nil {
		s.fill(text, failed)
	}
	delete(c.subtasks, id)
}

// nameOf returns the name of an agent, or its short ID.
func (a *Agent) nameOf(id identity.ID) string {
	if name := a.names[id]; name != "" {
		return name
	}
	if id == a.config.ID {
		return a.config.Name
	}
	return id.Short()
}

// takeClaimed begins conversations about tasks that the agent has won. One about an earlier claim is over.
func (a *Agent) takeClaimed(t *turn, claimed []task.Task) {
	for _, won := range claimed {
		if old := a.tasks[won.ID]; old != nil {
			a.drop(t, old)
		}
		a.tasks[won.ID] = a.newTask(won, t.now)
		a.count(func(s *Stats) { s.Conversations++ })
	}
}

// takeMessages hands messages to the conversations that they are for. Those of agents that are no peers are not shown.
func (a *Agent) takeMessages(messages []*message.Message, now time.Time) {
	for _, m := range messages {
		from := m.Sender()
		c := a.listener(m, now)
		if c == nil || !c.hear(a.messageText(m), taint.Of(taint.Peer(from.String()))) {
			a.count(func(s *Stats) { s.Unheard++ })
			a.log.Debug("message not shown to the model: its sender is no peer, or there is no room", "from", from)
			continue
		}
		c.touched, c.waitUntil = now, time.Time{}
		if c.task == nil {
			c.about = m.TaskID()
		}
	}
}

// listener returns the conversation that a message belongs to: that about a task of ours whose model has written to the
// sender about it, or else that with the sender. nil means none.
func (a *Agent) listener(m *message.Message, now time.Time) *conversation {
	from := m.Sender()
	if a.names[from] == "" {
		return nil
	}
	if c := a.tasks[m.TaskID()]; c != nil && c.asked[from] {
		return c
	}
	c := a.threads[from]
	switch {
	case c != nil && c.over:
		return nil
	case c != nil:
		return c
	case len(a.threads) >= a.config.MaxThreads && !a.forgetOldest():
		return nil
	}
	c = newThread(from, now)
	a.threads[from] = c
	a.count(func(s *Stats) { s.Conversations++ })
	return c
}

// forgetOldest makes room for a conversation with a peer, if one has nothing under way. What it has used stays counted.
func (a *Agent) forgetOldest() bool {
	var oldest *conversation
	for _, c := range a.threads {
		if c.idle() && !c.over && (oldest == nil || c.before(oldest)) {
			oldest = c
		}
	}
	if oldest != nil {
		delete(a.threads, oldest.peer)
	}
	return oldest != nil
}
