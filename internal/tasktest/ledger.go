package tasktest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/converge-agents/converge/task"
)

// ledger is what a process was told of its tasks, over all its lives.
type ledger struct {
	t *testing.T

	last      [submitters]int  // the number of the last submission that was acknowledged to each, 0 for none
	submitted map[string]bool  // acknowledged
	claimed   map[round]bool   // acknowledged
	ended     map[string]round // acknowledged: the round that completed a task
	seen      map[string]sight // the completion that was watched

	submissions, claims, ends int
}

// sight is a completed task as somebody saw it.
type sight struct {
	epoch, revision uint64
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, submitted: map[string]bool{}, claimed: map[round]bool{}, ended: map[string]round{}, seen: map[string]sight{}}
}

// next returns where each submitter goes on: with what was acknowledged last, which has to be there already.
func (l *ledger) next() string {
	return strings.Trim(fmt.Sprint(l.last), "[]")
}

// add adds the sums of another ledger.
func (l *ledger) add(other *ledger) {
	l.submissions += len(other.submitted)
	l.claims += len(other.claimed)
	l.ends += len(other.ended)
}

// take takes a line down, and returns an error if it cannot be after what was told before.
func (l *ledger) take(line string) error {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	var id string
	var submitter, n int
	var existed bool
	var epoch, revision uint64
	var status task.Status
	read := func(into ...any) error {
		if _, err := fmt.Sscan(rest, into...); err != nil {
			return fmt.Errorf("it says %q", line)
		}
		return nil
	}
	switch verb {
	case "submitted":
		if err := read(&submitter, &n, &id, &existed); err != nil {
			return err
		}
		return l.submit(submitter, n, id, existed)
	case "claimed":
		if err := read(&id, &epoch); err != nil {
			return err
		}
		return l.claim(round{id, epoch})
	case "ended":
		if err := read(&id, &epoch); err != nil {
			return err
		}
		return l.end(round{id, epoch})
	case "seen":
		if err := read(&id, (*uint8)(&status), &epoch, &revision); err != nil {
			return err
		}
		return l.see(id, status, sight{epoch, revision})
	}
	return fmt.Errorf("it says %q", line)
}

func (l *ledger) submit(submitter, n int, id string, existed bool) error {
	if l.submitted[id] && !existed {
		return fmt.Errorf("task %s was acknowledged, and was not there when it was submitted again", id)
	}
	l.submitted[id] = true
	l.last[submitter] = n
	return nil
}

func (l *ledger) claim(won round) error {
	if l.claimed[won] {
		return fmt.Errorf("task %s was won twice in epoch %d", won.id, won.epoch)
	}
	l.claimed[won] = true
	if by, ended := l.ended[won.id]; ended && won.epoch > by.epoch {
		return fmt.Errorf("task %s was won in epoch %d after it was completed in epoch %d", won.id, won.epoch, by.epoch)
	}
	return nil
}

func (l *ledger) end(by round) error {
	if !l.claimed[by] {
		return fmt.Errorf("task %s was completed in epoch %d, which nobody has won", by.id, by.epoch)
	}
	if other, twice := l.ended[by.id]; twice {
		return fmt.Errorf("task %s was completed in epoch %d and in epoch %d", by.id, other.epoch, by.epoch)
	}
	l.ended[by.id] = by
	return nil
}

func (l *ledger) see(id string, status task.Status, s sight) error {
	before, completed := l.seen[id]
	switch {
	case completed && s.revision > before.revision, completed && s.revision == before.revision && status != task.Completed:
		return fmt.Errorf("task %s was completed at revision %d, and is %s at %d", id, before.revision, status, s.revision)
	case status == task.Completed && completed && s != before:
		return fmt.Errorf("task %s was completed as %v and as %v", id, before, s)
	case status == task.Completed:
		l.seen[id] = s
	case status.Terminal():
		return fmt.Errorf("task %s is %s", id, status)
	}
	return nil
}

// check holds what is there in the end against what was told.
func (l *ledger) check(all []task.Task) {
	l.t.Helper()
	found := map[string]bool{}
	for _, k := range all {
		found[k.ID] = true
		if err := l.checkTask(k); err != nil {
			l.t.Errorf("task %s: %v", k.ID, err)
		}
	}
	for id := range l.submitted {
		if !found[id] {
			l.t.Errorf("task %s was acknowledged, and is lost", id)
		}
	}
	if most := len(l.submitted) + submitters; len(found) != len(all) || len(all) > most || len(all) == 0 {
		l.t.Errorf("there are %d tasks, of %d IDs, where at most %d were submitted", len(all), len(found), most)
	}
}

func (l *ledger) checkTask(k task.Task) error {
	if k.Status != task.Completed || string(k.Result) != string(result(k.Epoch)) {
		return fmt.Errorf("is %s in epoch %d with the result %q", k.Status, k.Epoch, k.Result)
	}
	if by, acknowledged := l.ended[k.ID]; acknowledged && by.epoch != k.Epoch {
		return fmt.Errorf("was completed in epoch %d, and is completed in epoch %d", by.epoch, k.Epoch)
	}
	if s, watched := l.seen[k.ID]; watched && s != (sight{k.Epoch, uint64(k.Revision)}) {
		return fmt.Errorf("was seen completed as %v, and is completed in epoch %d at %d", s, k.Epoch, k.Revision)
	}
	return nil
}
