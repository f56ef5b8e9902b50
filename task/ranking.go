package task

import (
	"slices"
	"sort"
)

// ranking is a set of records in order. It is a list of short sorted runs, so that adding and removing
// anywhere moves little, and adding last and removing first, the common case, nearly nothing.
type ranking struct {
	runs [][]ranked
	size int
}

// runLength is the most records in a run.
const runLength = 128

// ranked is a record and its rank: lesser ones come first; equal ones go by ID.
type ranked struct {
	major, minor int64
	rec          *record
}

// before tells whether a has a lesser rank than b.
func (a *ranked) before(b *ranked) bool {
	if a.major != b.major {
		return a.major < b.major
	}
	if a.minor != b.minor {
		return a.minor < b.minor
	}
	return a.rec.spec.ID < b.rec.spec.ID
}

// find returns the run that r belongs into, the place in it, and whether it is there.
func (l *ranking) find(r ranked) (run, place int, found bool) {
	if run = l.run(&r); run == len(l.runs) {
		return run, 0, false
	}
	in := l.runs[run]
	for low, high := 0, len(in)-1; ; { // the last one is not before r
		if low == high {
			return run, low, !r.before(&in[low])
		}
		if middle := (low + high) / 2; in[middle].before(&r) {
			low = middle + 1
		} else {
			high = middle
		}
	}
}

// run returns the first run whose last record is not before r.
func (l *ranking) run(r *ranked) int {
	if len(l.runs) == 0 || !last(l.runs[0]).before(r) {
		return 0 // the common case
	}
	return 1 + sort.Search(len(l.runs)-1, func(i int) bool { return !last(l.runs[1+i]).before(r) })
}

func last(run []ranked) *ranked { return &run[len(run)-1] }

// add puts in what is not there.
func (l *ranking) add(r ranked) {
	l.size++
	run, place, _ := l.find(r)
	if run == len(l.runs) { // behind everything
		if run == 0 || len(l.runs[run-1]) >= runLength {
			l.runs = append(l.runs, nil)
		} else {
			run--
		}
		l.runs[run] = append(l.runs[run], r)
		return
	}
	l.runs[run] = slices.Insert(l.runs[run], place, r)
	if len(l.runs[run]) > runLength {
		half := len(l.runs[run]) / 2
		upper := slices.Clone(l.runs[run][half:])
		clear(l.runs[run][half:])
		l.runs[run] = l.runs[run][:half]
		l.runs = slices.Insert(l.runs, run+1, upper)
	}
}

// remove takes out a record, and tells whether it was there.
func (l *ranking) remove(r ranked) bool {
	run, place, found := l.find(r)
	if !found {
		return false
	}
	l.size--
	if l.runs[run] = without(l.runs[run], place); len(l.runs[run]) == 0 {
		l.runs = without(l.runs, run)
	}
	return true
}

// without removes an element; at the front by moving the front.
func without[T any](s []T, i int) []T {
	if i > 0 {
		return slices.Delete(s, i, i+1)
	}
	clear(s[:1])
	return s[1:]
}

// first returns the major rank of the first record; 0 if there is none.
func (l *ranking) first() int64 {
	if l.size == 0 {
		return 0
	}
	return l.runs[0][0].major
}

// cursor walks through a ranking that stands still.
type cursor struct {
	ranked
	runs  [][]ranked
	place int
}

// newCursor stands at the first record; there must be one.
func newCursor(l *ranking) *cursor {
	return &cursor{runs: l.runs, ranked: l.runs[0][0]}
}

// next moves on, and tells whether there was something to move to.
func (c *cursor) next() bool {
	if c.place++; c.place == len(c.runs[0]) {
		c.runs, c.place = c.runs[1:], 0
	}
	if len(c.runs) == 0 {
		return false
	}
	c.ranked = c.runs[0][c.place]
	return true
}
