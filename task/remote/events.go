package remote

import "github.com/converge-agents/converge/identity"

// event is the end of a task.
type event struct {
	id                  string
	submitter, claimant identity.ID
}

// events are the last ends of tasks, numbered from 1.
type events struct {
	ring []event
	last uint64 // the number of the newest
}

func (e *events) add(v event) {
	if len(e.ring) < MaxEvents {
		e.ring = append(e.ring, v)
	} else {
		e.ring[e.last%MaxEvents] = v
	}
	e.last++
}

// reaches reports whether everything after seq is there.
func (e *events) reaches(seq uint64) bool {
	return seq <= e.last && e.last-seq <= uint64(len(e.ring))
}
