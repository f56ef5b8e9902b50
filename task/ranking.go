package task

import (
	"math/bits"
	"slices"
)

// ranking is a set of records in order. It is a list of short sorted runs, so that adding anywhere moves little, and adding
// last, the common case, nothing. What is removed is marked, and taken out of its run once half of that is.
type ranking struct {
	runs  []run
	lasts []ranked // of each run; side by side, for the search
	size  int
}

// runLength is the most records in a run.
const runLength = 128

// run is records in order, some of which have been removed.
type run struct {
	all  []ranked
	gone [runLength / 64]uint64 // a bit for each that has been removed; one at least has not
	dead int                    // how many have
}

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

// find returns the run that r belongs into, the place in it, and whether one of that rank and ID is there, removed or not.
func (l *ranking) find(r *ranked) (run, place int, found bool) {
	if run = l.run(r); run == len(l.runs) {
		return run, 0, false
	}
	place, found = l.runs[run].find(r)
	return run, place, found
}

// run returns the first run whose last record is not before r.
func (l *ranking) run(r *ranked) int {
	low, high := 0, len(l.lasts)
	if high == 0 || !l.lasts[0].before(r) {
		return 0 // as is common for what goes,
	}
	if l.lasts[high-1].before(r) {
		return high // and for what comes
	}
	for low < high {
		if middle := (low + high) / 2; l.lasts[middle].before(r) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// find returns the place of r, which is not behind the last record, and whether one of that rank and ID is there.
func (in *run) find(r *ranked) (place int, found bool) {
	low, high := 0, len(in.all)-1
	for low < high {
		if middle := (low + high) / 2; in.all[middle].before(r) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, !r.before(&in.all[low])
}

// add puts in what is not there.
func (l *ranking) add(r ranked) {
	l.size++
	run, place, found := l.find(&r)
	switch {
	case run == len(l.runs):
		l.append(r)
	case found: // it was once
		l.runs[run].revive(place, r)
		if place == len(l.runs[run].all)-1 {
			l.lasts[run] = r
		}
	default:
		l.insert(run, r)
	}
}

// append puts in what is behind everything.
func (l *ranking) append(r ranked) {
	if last := len(l.runs) - 1; last >= 0 && len(l.runs[last].all) < runLength {
		l.runs[last].all = append(l.runs[last].all, r)
		l.lasts[last] = r
		return
	}
	l.runs = append(l.runs, run{all: []ranked{r}})
	l.lasts = append(l.lasts, r)
}

// insert puts r into a run, before its last record.
func (l *ranking) insert(run int, r ranked) {
	in := &l.runs[run]
	if in.dead > 0 {
		in.tidy()
		l.lasts[run] = in.last()
	} else if len(in.all) == runLength {
		l.split(run)
	} else {
		place, _ := in.find(&r)
		in.all = slices.Insert(in.all, place, r)
		return
	}
	l.size--
	l.add(r) // which may belong elsewhere now
}

// split moves the upper half of a run, of which nothing has been removed, to one of its own.
func (l *ranking) split(at int) {
	in := &l.runs[at]
	upper := run{all: slices.Clone(in.all[runLength/2:])}
	clear(in.all[runLength/2:])
	in.all = in.all[:runLength/2]
	l.lasts[at] = in.last()
	l.runs = slices.Insert(l.runs, at+1, upper)
	l.lasts = slices.Insert(l.lasts, at+1, upper.last())
}

// remove takes out a record, and tells whether it was there.
func (l *ranking) remove(r ranked) bool {
	run, place, found := l.find(&r)
	if !found || l.runs[run].isGone(place) {
		return false
	}
	l.size--
	in := &l.runs[run]
	in.gone[place/64] |= 1 << (place % 64)
	in.dead++
	if in.dead == len(in.all) {
		l.runs, l.lasts = without(l.runs, run), without(l.lasts, run)
	} else if in.dead > len(in.all)/2 {
		in.tidy()
		l.lasts[run] = in.last()
	}
	return true
}

func (in *run) isGone(place int) bool { return in.gone[place/64]&(1<<(place%64)) != 0 }

func (in *run) last() ranked { return in.all[len(in.all)-1] }

// revive puts in what has been removed from there.
func (in *run) revive(place int, r ranked) {
	in.all[place] = r
	in.gone[place/64] &^= 1 << (place % 64)
	in.dead--
}

// tidy takes out what has been removed. A run that has become short is moved to less memory.
func (in *run) tidy() {
	left := in.all[:0]
	for place, r := range in.all {
		if !in.isGone(place) {
			left = append(left, r)
		}
	}
	clear(in.all[len(left):])
	if len(left) < cap(left)/4 {
		left = slices.Clone(left)
	}
	*in = run{all: left}
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
	return l.head().major
}

// head returns the first record; there must be one.
func (l *ranking) head() *ranked {
	in := &l.runs[0]
	return &in.all[in.next(0)]
}

// next returns the first place from there on that has not been removed; at the end the length.
func (in *run) next(place int) int {
	for in.dead > 0 && place < len(in.all) {
		kept := ^in.gone[place/64] >> (place % 64)
		if kept != 0 {
			return min(place+bits.TrailingZeros64(kept), len(in.all))
		}
		place = (place/64 + 1) * 64
	}
	return min(place, len(in.all))
}

// cursor walks through a ranking that stands still.
type cursor struct {
	ranked
	runs  []run
	place int
}

// newCursor stands at the first record; there must be one.
func newCursor(l *ranking) *cursor {
	return &cursor{runs: l.runs, ranked: *l.head(), place: l.runs[0].next(0)}
}

// next moves on, and tells whether there was something to move to.
func (c *cursor) next() bool {
	if c.place = c.runs[0].next(c.place + 1); c.place == len(c.runs[0].all) {
		if c.runs = c.runs[1:]; len(c.runs) == 0 {
			return false
		}
		c.place = c.runs[0].next(0)
	}
	c.ranked = c.runs[0].all[c.place]
	return true
}
