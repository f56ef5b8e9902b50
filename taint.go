package converge

import (
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/task"
)

// Taint returns where the turn's contents come from: the senders of messages, the submitters of tasks, the
// agents that ended tasks, and the tools whose results there are, with where their params came from. Why an earlier
// attempt at a task failed may be the words of anybody, so such a task counts as [taint.Many].
func (t Turn) Taint() taint.Set {
	var s source
	for _, m := range t.Messages {
		s.peer(m.Sender())
	}
	s.submitters(t.Tasks)
	s.submitters(t.Claimed)
	for i := range t.Ended {
		s.peer(t.Ended[i].Claimant)
	}
	for _, r := range t.Results {
		s.set = s.set.Union(r.Taint)
	}
	return s.set
}

// source gathers labels. What follows itself is looked at once: turns are often about one peer.
type source struct {
	set  taint.Set
	last identity.ID
}

func (s *source) peer(id identity.ID) {
	if id != s.last {
		s.last = id
		s.set = s.set.With(taint.Peer(id.String()))
	}
}

func (s *source) submitters(tasks []task.Task) {
	for i := range tasks {
		s.peer(tasks[i].Submitter)
		if tasks[i].Error != "" { // it is not known whose attempt that was
			s.set = s.set.With(taint.Many)
		}
	}
}

// see remembers where the contents of a turn come from: an agent may act on them at any time later.
func (r *Runtime) see(t Turn) {
	if x := r.config.Executor; x != nil && len(x.ToolAllowlist) > 0 { // others run no tools
		r.seen = r.seen.Union(t.Taint())
	}
}
