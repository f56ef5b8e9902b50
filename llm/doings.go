package llm

// doing is what was done to a ledger beside the agent's turns: by calls of the model, or by the clock.
type doing struct {
	After   int   // so many of the turn's own uses of the ledger
	Day     int64 // the new day; or else:
	Thought uint64
	Again   bool // room was made for another attempt, of these tokens; or else these were used
	Input   int
	Output  int
}

// doings puts what turns do to a ledger, and what is done beside them, into an order that can be kept: replays depend on
// it. It is guarded by its ledger's mutex.
type doings struct {
	recalls bool                   // in replays the list is still to be done; else it is kept
	steps   int                    // what the turn itself has done so far
	list    []doing                // in their order
	held    map[uint64]reservation // in replays: of each thought
}

// keep notes what is done beside the turns. A nil doings keeps nothing.
func (d *doings) keep(what doing) {
	if d != nil && !d.recalls {
		what.After = d.steps
		d.list = append(d.list, what)
	}
}

// enter begins a use of the ledger by a turn.
func (l *ledger) enter() {
	l.turnPage()
	if l.doings != nil {
		l.doings.steps++
	}
}

// endTurn returns what was done beside the turn and since the one before. In replays it does what is left.
func (l *ledger) endTurn() []doing {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	list := l.doings.list
	l.doings.list, l.doings.steps = nil, 0
	return list
}

// recall has the coming turn find done what was done then.
func (l *ledger) recall(list []doing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doings.list = list
}

// hold remembers the reservation of a thought, for what comes of it in a replay.
func (l *ledger) hold(r reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doings.held[r.thought] = r
}

// release forgets what it held for thoughts that have come back.
func (l *ledger) release(thoughts []keptThought) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, th := range thoughts {
		delete(l.doings.held, th.Thought)
	}
}

// catchUp does in a replay what was done up to here.
func (l *ledger) catchUp() {
	if l.doings == nil || !l.doings.recalls {
		return
	}
	for len(l.doings.list) > 0 && l.doings.list[0].After <= l.doings.steps {
		next := l.doings.list[0]
		l.doings.list = l.doings.list[1:]
		l.redo(next)
	}
}

func (l *ledger) redo(d doing) {
	r, held := l.doings.held[d.Thought]
	switch {
	case d.Day != 0:
		l.setDay(d.Day)
	case !held: // another agent than then
	case d.Again:
		if again, err := l.reserveLocked(r.key, d.Input, d.Output); err == nil {
			again.thought = d.Thought
			l.doings.held[d.Thought] = again
		}
	default:
		l.settleLocked(r, Usage{Input: d.Input, Output: d.Output})
	}
}
