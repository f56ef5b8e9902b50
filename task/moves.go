package task

// moves are the changes of the tasks of a page that the rankings of the index have yet to take in, in their order. What
// happens to one task meanwhile is one move: a claim that is reported at once never gets into the ranking of what expires.
type moves []move

// move is that of a task from one record to the next; nil is none.
type move struct{ from, to *record }

const (
	enoughMoves = 8   // on one page: who notes the last takes in all moves if nobody else is at the rankings,
	mostMoves   = 128 // and waits for that from here on; so there are no more than that, and one for each caller

	largeMove = 4096 // bytes of a submission that is not to stay in memory for longer than the task: it is enough at once
)

// backlog is how many moves there are on a page.
type backlog int

// note notes a move. What ends is left out, since no ranking has it.
func (m *moves) note(from, to *record) {
	if to != nil && to.status.Terminal() {
		to = nil
	}
	all := *m
	for i := len(all) - 1; i >= 0 && from != nil; i-- {
		if all[i].to == from {
			all[i].to = to
			return
		}
	}
	*m = append(all, move{from, to})
}
