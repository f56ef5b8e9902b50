package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/store"
)

// attempt is a batch as it is sent. Of changes with the same key and revision, one at most can win, so only the first
// is sent; the others follow it.
type attempt struct {
	number  int64 // in its session
	leaders []*change
	follow  map[*change][]*change
}

type target struct {
	key      string
	revision int64
}

func newAttempt(changes []*change) *attempt {
	a := &attempt{leaders: make([]*change, 0, len(changes))}
	first := make(map[target]*change, len(changes))
	for _, c := range changes {
		at := target{c.key, c.revision}
		leader := first[at]
		if leader == nil {
			first[at] = c
			a.leaders = append(a.leaders, c)
			continue
		}
		if a.follow == nil {
			a.follow = map[*change][]*change{}
		}
		a.follow[leader] = append(a.follow[leader], c)
	}
	return a
}

// columns are the parameters that the leaders make.
func (a *attempt) columns() (keys []string, revisions []int64, values [][]byte) {
	keys, revisions, values = make([]string, len(a.leaders)), make([]int64, len(a.leaders)), make([][]byte, len(a.leaders))
	for i, c := range a.leaders {
		keys[i], revisions[i], values[i] = c.key, c.revision, c.value
	}
	return keys, revisions, values
}

// outcome is what the server says about one leader.
type outcome struct {
	place         int   // from 1
	held, written int64 // revision of the entry before, and of the change if it won
}

// settle answers the changes of a batch that was committed. Those that follow a winner come after it, the others
// before it.
func (a *attempt) settle(outcomes []outcome) {
	for _, o := range outcomes {
		leader, held := a.leaders[o.place-1], o.held
		if o.written > 0 {
			held = o.written
			if leader.value == nil {
				held = 0
			}
			leader.settle(store.Revision(o.written), nil)
		} else {
			leader.lose(held)
		}
		for _, c := range a.follow[leader] {
			c.lose(held)
		}
	}
}

// settleWinners answers those of which only this is known: they won, in their order, with revisions from base on. It
// returns the changes that have to be tried again.
func (a *attempt) settleWinners(base int64, won []int32) (rest []*change) {
	winner := make(map[*change]bool, len(won))
	for i, place := range won {
		c := a.leaders[place-1]
		winner[c] = true
		c.settle(store.Revision(base)+store.Revision(i)+1, nil)
	}
	for _, c := range a.leaders {
		if !winner[c] {
			rest = append(rest, c)
		}
		rest = append(rest, a.follow[c]...)
	}
	return rest
}

// session is a connection that writes, known to the server by a number.
type session struct {
	id   int64
	conn *pgx.Conn
	last int64 // number of its last attempt
}

// apply sends a batch, and returns what became of each leader once that is committed.
func (s *Store) apply(ctx context.Context, in *session, a *attempt) ([]outcome, error) {
	in.last++
	a.number = in.last
	keys, revisions, values := a.columns()
	rows, err := in.conn.Query(ctx, s.sql.apply, in.id, a.number, s.config.MaxLog, s.sql.channel, keys, revisions, values)
	if err != nil {
		return nil, err
	}
	outcomes := make([]outcome, 0, len(a.leaders))
	var o outcome
	_, err = pgx.ForEachRow(rows, []any{&o.place, &o.held, &o.written}, func() error {
		outcomes = append(outcomes, o)
		return nil
	})
	if err == nil && len(outcomes) != len(a.leaders) {
		err = fmt.Errorf("the server answered for %d of %d changes", len(outcomes), len(a.leaders))
	}
	return outcomes, err
}
