package role

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

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

	held map[string]task.Task // claimed, tool running
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
			return []converge.Decision{converge.FailTask{TaskID: d.TaskID, Reason: publicReason(f.Err)}}
		}
		return w.endAgain(f)
	case converge.FailTask:
		return w.endAgain(f)
	}
	return nil
}

// endAgain tries again to end a task, unless the claim is lost: then somebody else will end it.
func (w *Worker) endAgain(f converge.Failure) []converge.Decision {
	if task.IsLost(f.Err) || errors.Is(f.Err, converge.ErrNotHeld) || errors.Is(f.Err, task.ErrInvalid) {
		return nil
	}
	return []converge.Decision{f.Decision}
}

func (w *Worker) invoke(t task.Task) converge.Decision {
	from := taint.Of(taint.Peer(t.Submitter.String()))
	return converge.InvokeTool{Tool: w.tools[t.Kind], Params: t.Params, CallID: t.ID, TaskID: t.ID, Taint: &from}
}

// report ends the task that a tool call was for.
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
	if r.Err != nil {
		return []converge.Decision{converge.FailTask{
			TaskID: t.ID, Reason: publicReason(r.Err), Permanent: errors.Is(r.Err, tool.ErrInvalidParams),
		}}
	}
	return []converge.Decision{converge.ReportTask{TaskID: t.ID, Result: r.Output.Data, ContentType: r.Output.ContentType}}
}

// publicReason is what others get to know of a tool's failure.
func publicReason(err error) string {
	const most = 1024
	text := err.Error()
	if toolErr, ok := errors.AsType[*tool.Error](err); ok && toolErr.Err != nil {
		text = fmt.Sprintf("tool %s: %v: %v", toolErr.Tool, toolErr.Reason, toolErr.Err)
	}
	return cut.Text(text, most)
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
