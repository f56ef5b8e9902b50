package audit

import (
	"hash/maphash"
	"slices"
)

// Node is a receipt of a [Trace].
type Node struct {
	Entry
	Match   bool     // it is one of those that were asked for
	Causes  []uint64 // receipts of the trace that led to it, implied ones included
	Effects []uint64 // receipts of the trace that it led to
}

// Bounds are those of a [Trace]: how many receipts it has, and how far from a match they are.
type Bounds struct{ Receipts, Steps int }

// Trace returns the receipts that match and what they came from and led to, by their numbers, within the bounds,
// nearest to a match first, and how many more there are. It reads the files twice, holds them to c, whose Each it
// does not call, and needs some 40 bytes of memory for each receipt in them.
//
// Besides what receipts name as causes, it goes by what follows from what they are: a message comes from the
// decision to send it, and the end of a task from the decision that ended it. A claim comes from the decision to submit
// the task, and not from the turn in which the agent had time for it.
func Trace(c Check, match func(*Entry) bool, b Bounds, files ...string) (nodes []Node, more int, err error) {
	w := &web{seed: maphash.MakeSeed(), made: map[uint64]uint64{}}
	c.Each = func(e *Entry) error { w.add(e, match(e)); return nil }
	sum, err := Verify(c, files...)
	if err != nil {
		return nil, 0, err
	}
	w.first = sum.First
	w.imply()
	chosen, more := w.choose(b)
	c.Each = func(e *Entry) error {
		if n := chosen[e.Seq]; n != nil {
			n.Entry = *e
			n.Content = slices.Clone(e.Content)
		}
		return nil
	}
	if _, err := Verify(c, files...); err != nil { // more may have come meanwhile
		return nil, 0, err
	}
	for _, n := range chosen {
		nodes = append(nodes, *n)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return int(int64(a.Seq) - int64(b.Seq)) })
	return nodes, more, nil
}

// web is how the receipts of a log hang together.
type web struct {
	first   uint64
	starts  []uint32 // of each receipt's causes in causes
	causes  []uint64
	matches []uint64

	seed    maphash.Seed
	made    map[uint64]uint64 // receipts of decisions that others follow from, by what they are
	follow  []implied
	extra   map[uint64][]uint64 // implied causes
	ends    []uint32            // of each receipt's effects in effects
	effects []uint64
}

// implied is a receipt that follows from another one.
type implied struct{ seq, from uint64 }

func (w *web) add(e *Entry, match bool) {
	w.starts = append(w.starts, uint32(len(w.causes)))
	if e.Kind != KindDecision || e.Action != "claim_task" {
		w.causes = append(w.causes, e.Causes...)
	}
	if match {
		w.matches = append(w.matches, e.Seq)
	}
	if e.Subject == "" {
		return
	}
	switch {
	case e.Kind == KindMessage:
		w.follow = append(w.follow, implied{e.Seq, w.hash("send", e.Subject)})
	case e.Kind == KindTask:
		w.follow = append(w.follow, implied{e.Seq, w.hash("end", e.Subject)})
	case e.Kind != KindDecision || e.Outcome == "failed":
	case e.Action == "send_message":
		w.made[w.hash("send", e.Subject)] = e.Seq
	case e.Action == "submit_task":
		w.made[w.hash("submit", e.Subject)] = e.Seq
	case e.Action == "claim_task":
		w.follow = append(w.follow, implied{e.Seq, w.hash("submit", e.Subject)})
	case e.Action == "report_task", e.Action == "fail_task", e.Action == "cancel_task":
		w.made[w.hash("end", e.Subject)] = e.Seq
	}
}

func (w *web) hash(what, subject string) uint64 { return maphash.String(w.seed, what+"\x00"+subject) }

func (w *web) imply() {
	w.extra = map[uint64][]uint64{}
	for _, f := range w.follow {
		if from := w.made[f.from]; from != 0 && from != f.seq {
			w.extra[f.seq] = append(w.extra[f.seq], from)
		}
	}
	w.made, w.follow = nil, nil
	w.invert()
}

// invert makes the effects out of the causes: first how many each receipt has, then where they begin, then they.
func (w *web) invert() {
	w.ends = make([]uint32, len(w.starts)+1)
	w.eachCause(func(_ uint64, cause int) { w.ends[cause+1]++ })
	for i := 1; i < len(w.ends); i++ {
		w.ends[i] += w.ends[i-1]
	}
	w.effects = make([]uint64, w.ends[len(w.starts)])
	w.eachCause(func(seq uint64, cause int) {
		w.effects[w.ends[cause]] = seq
		w.ends[cause]++
	})
}

func (w *web) eachCause(use func(seq uint64, cause int)) {
	for i := range w.starts {
		seq := w.first + uint64(i)
		for _, cause := range w.causesOf(seq) {
			use(seq, int(cause-w.first))
		}
	}
}

// effectsOf returns what a receipt led to.
func (w *web) effectsOf(seq uint64) []uint64 {
	i, start := seq-w.first, uint32(0)
	if i > 0 {
		start = w.ends[i-1]
	}
	return w.effects[start:w.ends[i]]
}

// causesOf returns the causes of a receipt that are in the files.
func (w *web) causesOf(seq uint64) (all []uint64) {
	i := seq - w.first
	end := uint32(len(w.causes))
	if int(i)+1 < len(w.starts) {
		end = w.starts[i+1]
	}
	for _, cause := range slices.Concat(w.causes[w.starts[i]:end], w.extra[seq]) {
		if cause >= w.first && !slices.Contains(all, cause) {
			all = append(all, cause)
		}
	}
	return all
}

// choose returns what the matches came from and led to, and how much found no room.
func (w *web) choose(b Bounds) (chosen map[uint64]*Node, more int) {
	chosen = map[uint64]*Node{}
	up, down := slices.Clone(w.matches), slices.Clone(w.matches)
	seen, steps := map[uint64]bool{}, 0
	take := func(seq uint64) bool {
		if seen[seq] {
			return false
		}
		seen[seq] = true
		if len(chosen) == b.Receipts || steps > b.Steps {
			more++
		} else {
			chosen[seq] = &Node{}
		}
		return true
	}
	for _, seq := range w.matches {
		if take(seq); chosen[seq] != nil {
			chosen[seq].Match = true
		}
	}
	for len(up)+len(down) > 0 {
		steps++
		up = step(up, w.causesOf, take)
		down = step(down, w.effectsOf, take)
	}
	for seq, n := range chosen {
		n.Causes = only(w.causesOf(seq), chosen)
		n.Effects = only(w.effectsOf(seq), chosen)
	}
	return chosen, more
}

func step(from []uint64, next func(uint64) []uint64, take func(uint64) bool) (reached []uint64) {
	for _, seq := range from {
		for _, n := range next(seq) {
			if take(n) {
				reached = append(reached, n)
			}
		}
	}
	return reached
}

func only(seqs []uint64, chosen map[uint64]*Node) (some []uint64) {
	for _, seq := range seqs {
		if chosen[seq] != nil {
			some = append(some, seq)
		}
	}
	return some
}
