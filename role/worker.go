package role

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// maxRemembered is how many statements a worker keeps for coordinators that missed them.
const maxRemembered = 4096

// WorkerConfig configures a [Worker].
type WorkerConfig struct {
	ID identity.ID // the worker's own; workers start at different places in the list of tasks
	// Tools says which tool serves which capability; required. The tools have to be on the agent's
	// allowlist.
	Tools map[string]string
	// Concurrency is how many tasks the worker holds at once; 0 means 1.
	Concurrency int
}

// Worker claims the pending tasks that its capabilities match, runs the tool that serves the capability
// that is the task's Kind, with the task's params, and reports. How the tool ends is how the task ends, or
// the attempt if the tool fails and there are others; one with params that the tool does not take is not
// tried again.
type Worker struct {
	tools       map[string]string
	concurrency int
	offset      uint64

	held       map[string]task.Task // claimed, tool running
	statements *recent
}

// NewWorker checks the configuration and returns a worker.
func NewWorker(c WorkerConfig) (*Worker, error) {
	if len(c.Tools) == 0 {
		return nil, errors.New("role.WorkerConfig.Tools: required; a worker without tools can do nothing")
	}
	if c.Concurrency < 0 {
		return nil, errors.New("role.WorkerConfig.Concurrency: negative")
	}
	return &Worker{
		tools:       maps.Clone(c.Tools),
		concurrency: max(c.Concurrency, 1),
		offset:      binary.BigEndian.Uint64(c.ID[:8]),
		held:        map[string]task.Task{},
		statements:  newRecent(maxRemembered),
	}, nil
}

// Capabilities returns what a runtime has to announce for the worker.
func (w *Worker) Capabilities() []discovery.Capability {
	var all []discovery.Capability
	for name := range w.tools {
		all = append(all, discovery.Capability{Name: name})
	}
	return all
}

// Kinds returns the kinds of tasks that the worker serves, for converge.Config.TaskKinds: others then do
// not stand in the way of those that it could do.
func (w *Worker) Kinds() []string { return slices.Sorted(maps.Keys(w.tools)) }

// Decide implements converge.Agent.
func (w *Worker) Decide(_ context.Context, t converge.Turn) ([]converge.Decision, error) {
	var decisions []converge.Decision
	for _, f := range t.Failures {
		decisions = append(decisions, w.recover(f)...)
	}
	for _, r := range t.Results {
		decisions = append(decisions, w.report(r)...)
	}
	for _, m := range t.Messages {
		decisions = append(decisions, w.answer(m)...)
	}
	for _, claimed := range t.Claimed {
		w.held[claimed.ID] = claimed
		decisions = append(decisions, w.invoke(claimed))
	}
	return append(decisions, w.claim(t.Tasks)...), nil
}

// recover deals with what could not be done in the last turn.
func (w *Worker) recover(f converge.Failure) []converge.Decision {
	switch d := f.Decision.(type) {
	case converge.InvokeTool: // never began: the task is still ours
		if t, ok := w.held[d.TaskID]; ok && errors.Is(f.Err, converge.ErrTooMany) {
			return []converge.Decision{w.invoke(t)}
		}
	case converge.ReportTask:
		if errors.Is(f.Err, task.ErrInvalid) { // a result that no record can hold
			reason := publicReason(f.Err)
			w.statements.put(d.TaskID, Statement{Status: task.Failed, Error: reason})
			return []converge.Decision{converge.FailTask{TaskID: d.TaskID, Reason: reason}}
		}
		return w.endAgain(d.TaskID, f)
	case converge.FailTask:
		return w.endAgain(d.TaskID, f)
	}
	return nil // statements that did not go out are asked for again
}

// endAgain tries again to end a task, unless the claim is lost: then somebody else will vouch for it.
func (w *Worker) endAgain(id string, f converge.Failure) []converge.Decision {
	if task.IsLost(f.Err) || errors.Is(f.Err, converge.ErrNotHeld) || errors.Is(f.Err, task.ErrInvalid) {
		w.statements.forget(id)
		return nil
	}
	return []converge.Decision{f.Decision}
}

func (w *Worker) invoke(t task.Task) converge.Decision {
	return converge.InvokeTool{Tool: w.tools[t.Kind], Params: t.Params, CallID: t.ID, TaskID: t.ID}
}

// report ends the task that a tool call was for, and vouches for it.
func (w *Worker) report(r converge.ToolResult) []converge.Decision {
	t, ok := w.held[r.TaskID]
	if !ok {
		return nil
	}
	delete(w.held, t.ID)
	if errors.Is(r.Err, tool.ErrCancelled) { // the claim is lost, or is given back: the task is not ours to end
		return nil
	}
	if size := len(r.Output.Data); r.Err == nil && size > task.MaxResult {
		r.Err = fmt.Errorf("tool %s: the result has %d bytes where a task holds at most %d", r.Tool, size, task.MaxResult)
	}
	var end converge.Decision
	var s Statement
	if r.Err == nil {
		end = converge.ReportTask{TaskID: t.ID, Result: r.Output.Data, ContentType: r.Output.ContentType}
		s = Statement{Status: task.Completed, Digest: digest(r.Output.Data)}
	} else {
		reason := publicReason(r.Err)
		end = converge.FailTask{TaskID: t.ID, Reason: reason, Permanent: errors.Is(r.Err, tool.ErrInvalidParams)}
		s = Statement{Status: task.Failed, Error: reason}
	}
	w.statements.put(t.ID, s)
	// The statement first: a worker that dies in between leaves a claim that runs out, and not a result that
	// nobody vouches for.
	return []converge.Decision{vouch(t.Submitter, t.ID, s, message.ID{}), end}
}

// publicReason is what others get to know of a tool's failure.
func publicReason(err error) string {
	const most = 1024
	text := err.Error()
	if toolErr, ok := errors.AsType[*tool.Error](err); ok && toolErr.Err != nil {
		text = fmt.Sprintf("tool %s: %v: %v", toolErr.Tool, toolErr.Reason, toolErr.Err)
	}
	return text[:min(len(text), most)]
}

func vouch(to identity.ID, taskID string, s Statement, inReplyTo message.ID) converge.Decision {
	body, err := json.Marshal(s)
	if err != nil {
		panic(err) // a Statement is three strings
	}
	return converge.SendMessage{Draft: message.Draft{
		To: to, TaskID: taskID, Body: body, ContentType: StatementType, InReplyTo: inReplyTo,
	}}
}

// answer repeats a statement for a coordinator that asks for it.
func (w *Worker) answer(m *message.Message) []converge.Decision {
	if m.ContentType() != RequestType {
		return nil
	}
	s, ok := w.statements.get(m.TaskID())
	if !ok {
		return nil
	}
	return []converge.Decision{vouch(m.Sender(), m.TaskID(), s, m.ID())}
}

// claim asks for as many tasks as there is room for. Each worker begins at another place of the list,
// so that they seldom ask for the same ones.
func (w *Worker) claim(tasks []task.Task) []converge.Decision {
	var decisions []converge.Decision
	for i := range tasks {
		if len(w.held)+len(decisions) >= w.concurrency {
			break
		}
		t := tasks[(w.offset+uint64(i))%uint64(len(tasks))]
		_, held := w.held[t.ID] // the claim is lost; its tool call has yet to end
		if w.tools[t.Kind] != "" && !held {
			decisions = append(decisions, converge.ClaimTask{TaskID: t.ID})
		}
	}
	return decisions
}

// recent remembers the latest entries, up to a bound.
type recent struct {
	most  int
	byID  map[string]Statement
	order []string // a ring, oldest at next
	next  int
}

func newRecent(most int) *recent { return &recent{most: most, byID: map[string]Statement{}} }

func (r *recent) put(id string, s Statement) {
	if _, known := r.byID[id]; !known {
		if len(r.order) < r.most {
			r.order = append(r.order, id)
		} else {
			delete(r.byID, r.order[r.next])
			r.order[r.next] = id
			r.next = (r.next + 1) % r.most
		}
	}
	r.byID[id] = s
}

func (r *recent) get(id string) (Statement, bool) {
	s := r.byID[id]
	return s, s.Status != 0
}

// forget keeps the entry's place, so that one place stands for one ID.
func (r *recent) forget(id string) {
	if _, known := r.byID[id]; known {
		r.byID[id] = Statement{}
	}
}
