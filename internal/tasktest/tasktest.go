// Package tasktest proves of a store that tasks on it go to one winner a claim, whoever asks for them from
// wherever ([Claimers]), and that nothing is lost or done twice when the process is killed ([Kills]). What it checks
// is the history that the store tells, not what the managers say of themselves. It measures them as well ([Bench]).
package tasktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// claimTTL lets claims that are dropped run out within the test, and those of slow machines not.
const claimTTL = time.Second

// Claimers has so many claimers work off so many new tasks, on stores that all show the same data: one
// opened store, or several, such as the connections of several processes to one database. There is a
// manager for each store, and each claimer uses one of them.
//
// All claimers run for the same tasks. Most claims end in a report; some fail and are tried again, some
// are given back, and some are dropped until they have run out and then reported all the same, which has
// to be refused. In the end every task has to be completed, and the history, read as it happened through
// the first store, must show one winner for each epoch, who is the one that was told so, epochs that rise
// by one, and one completion of each task by the winner of its last epoch.
//
// Clocks, if there are any, are those of the managers, in turn: on stores with a clock of their own they may be wrong.
//
// It takes other tasks on the stores, and other programs that work on them, as they are. The context of
// the test bounds how long it takes.
func Claimers(t *testing.T, stores []store.Store, claimers, tasks int, clocks ...func() time.Time) {
	t.Helper()
	r := &race{t: t, ids: map[string]bool{}, all: int64(tasks)}
	for i, s := range stores {
		c := task.Config{Store: s, UnsignedUnsafe: true, Retention: task.Forever, Logger: slog.New(slog.DiscardHandler)}
		if len(clocks) > 0 {
			c.Now = clocks[i%len(clocks)]
		}
		m, err := task.New(c)
		if err != nil {
			t.Fatal(err)
		}
		r.managers = append(r.managers, m)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); r.recording.Wait() }()
	history := r.record(ctx)
	r.submit(tasks)
	if !t.Failed() {
		r.run(claimers)
	}
	if t.Failed() {
		return
	}
	select {
	case steps := <-history:
		r.check(steps)
	case <-time.After(patience):
		t.Errorf("all tasks were reported, and the store does not tell of all of their ends within %v", patience)
	}
}

// patience is how long the store may take to tell what has happened.
const patience = 2 * time.Minute

// race is one run of claimers.
type race struct {
	t         *testing.T
	managers  []*task.Manager
	ids       map[string]bool
	kind      string
	all       int64
	ended     atomic.Int64 // tasks that a claimer was told to have completed
	recording sync.WaitGroup
	winners   sync.Map // by round: who was told to have won it
	by        sync.Map // by task: the round that was told to have completed it
}

// round is one claim of one task.
type round struct {
	id    string
	epoch uint64
}

// record reads the history of the race as it happens, until all tasks have ended.
func (r *race) record(ctx context.Context) <-chan []task.Task {
	history := make(chan []task.Task, 1)
	r.kind = "race-" + task.NewID()
	started := make(chan struct{})
	r.recording.Go(func() {
		var steps []task.Task
		var ended int64
		begun := false
		for c, err := range r.managers[0].Watch(ctx, task.Filter{Kinds: []string{r.kind}}, 0) {
			if err != nil {
				if ctx.Err() == nil {
					r.t.Errorf("the history of the race: %v", err)
				}
				if !begun {
					close(started)
				}
				return
			}
			if c.Synced {
				begun = true
				close(started)
				continue
			}
			steps = append(steps, slim(c.Task))
			if c.Task.Status.Terminal() {
				ended++
			}
			if ended == r.all {
				break
			}
		}
		history <- steps
	})
	<-started
	return history
}

// slim leaves out what the check does not need.
func slim(t task.Task) task.Task {
	t.Spec = task.Spec{ID: t.ID}
	t.Result = nil
	return t
}

var boss = identity.ID{0xb0, 0x55}

func (r *race) submit(n int) {
	r.t.Helper()
	const together = 32 // so that a store can share the cost of changes
	var all sync.WaitGroup
	var mu sync.Mutex
	for first := range together {
		all.Go(func() {
			for i := first; i < n && !r.t.Failed(); i += together {
				k, err := r.managers[i%len(r.managers)].Submit(r.t.Context(), task.Spec{
					Kind: r.kind, Submitter: boss, ClaimTTL: claimTTL, MaxAttempts: task.MostAttempts, Priority: i % 3,
					Backoff: task.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond},
				})
				if err != nil {
					r.t.Error(err)
				}
				mu.Lock()
				r.ids[k.ID] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

func (r *race) run(claimers int) {
	var all sync.WaitGroup
	for i := range claimers {
		m := r.managers[i%len(r.managers)]
		p := task.Profile{Agent: identity.ID{0xc1, byte(i >> 8), byte(i)}, Kinds: []string{r.kind}}
		wake := make(chan struct{}, 1)
		detach := m.Attach(func(task.Task) {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		all.Go(func() {
			defer detach()
			r.work(m, p, wake)
		})
	}
	all.Wait()
}

// work runs for the same few tasks as everybody else, until all have ended.
func (r *race) work(m *task.Manager, p task.Profile, wake <-chan struct{}) {
	const window = 32
	tick := time.NewTicker(100 * time.Millisecond) // for those whose wake another claimer's end has taken
	defer tick.Stop()
	for r.ended.Load() < r.all && !r.t.Failed() && r.t.Context().Err() == nil {
		visible := m.Visible(p, window)
		if len(visible) == 0 {
			select {
			case <-wake:
			case <-tick.C:
			}
			continue
		}
		r.try(m, p, visible[rand.IntN(len(visible))].ID)
	}
}

func (r *race) try(m *task.Manager, p task.Profile, id string) {
	c, _, err := m.Claim(r.t.Context(), id, p)
	if errors.Is(err, task.ErrNotPending) || errors.Is(err, task.ErrTerminal) {
		return
	}
	if err != nil {
		r.t.Errorf("claim of task %s: %v", id, err)
		return
	}
	if other, twice := r.winners.LoadOrStore(round{id, c.Epoch}, p.Agent); twice {
		r.t.Errorf("task %s epoch %d was won by %v and by %v", id, c.Epoch, other, p.Agent.Short())
	}
	r.finish(m, c)
}

// finish ends a claim in one of several ways. One that runs out meanwhile, on a slow machine, is lost and
// no error.
func (r *race) finish(m *task.Manager, c task.Claim) {
	ctx := r.t.Context()
	var err error
	switch n := rand.IntN(200); {
	case n == 0: // drop it, and come too late
		r.comeLate(m, c)
		return
	case n < 10:
		_, err = m.Release(ctx, c)
	case n < 20:
		_, err = m.Fail(ctx, c, "another time")
	case n < 30:
		if c, err = m.Heartbeat(ctx, c); err == nil {
			err = r.report(m, c)
		}
	default:
		err = r.report(m, c)
	}
	if err != nil && !task.IsLost(err) {
		r.t.Errorf("task %s epoch %d: %v", c.TaskID, c.Epoch, err)
	}
}

func (r *race) report(m *task.Manager, c task.Claim) error {
	_, err := m.Report(r.t.Context(), c, fmt.Append(nil, c.Epoch), "text/plain")
	if err != nil {
		return err
	}
	if other, twice := r.by.LoadOrStore(c.TaskID, c.Epoch); twice {
		r.t.Errorf("task %s was completed in epochs %d and %d", c.TaskID, other, c.Epoch)
	}
	r.ended.Add(1)
	return nil
}

// comeLate reports when the claim has run out.
func (r *race) comeLate(m *task.Manager, c task.Claim) {
	select {
	case <-time.After(claimTTL + 50*time.Millisecond):
	case <-r.t.Context().Done():
		return
	}
	ctx := r.t.Context()
	_, reported := m.Report(ctx, c, []byte("late"), "")
	_, failed := m.Fail(ctx, c, "late")
	_, renewed := m.Heartbeat(ctx, c)
	_, released := m.Release(ctx, c)
	for what, err := range map[string]error{"report": reported, "failure": failed, "heartbeat": renewed, "release": released} {
		if !task.IsLost(err) {
			r.t.Errorf("a late %s of task %s in epoch %d: %v", what, c.TaskID, c.Epoch, err)
		}
	}
}

// check holds the history against what the claimers were told.
func (r *race) check(history []task.Task) {
	r.t.Helper()
	last := map[string]task.Task{}
	claims := 0
	for _, k := range history {
		if !r.ids[k.ID] {
			r.t.Errorf("task %s was not submitted", k.ID)
		}
		before, known := last[k.ID]
		if err := r.checkStep(before, known, k); err != nil {
			r.t.Errorf("task %s at revision %d: %v", k.ID, k.Revision, err)
		}
		if k.Epoch != before.Epoch {
			claims++
		}
		last[k.ID] = k
	}
	for id := range r.ids {
		epoch, _ := r.by.Load(id)
		if k := last[id]; k.Status != task.Completed || epoch != k.Epoch {
			r.t.Errorf("task %s is %s in epoch %d, and was completed in epoch %v", id, k.Status, k.Epoch, epoch)
		}
	}
	r.t.Logf("%d tasks, %d claims, %d changes", len(r.ids), claims, len(history))
}

func (r *race) checkStep(before task.Task, known bool, k task.Task) error {
	switch {
	case before.Status.Terminal():
		return fmt.Errorf("was %s, and is %s", before.Status, k.Status)
	case !known && (k.Status != task.Pending || k.Epoch != 0):
		return fmt.Errorf("begins as %s in epoch %d", k.Status, k.Epoch)
	case k.Epoch != before.Epoch && (k.Epoch != before.Epoch+1 || k.Status != task.Assigned):
		return fmt.Errorf("is %s in epoch %d after %d", k.Status, k.Epoch, before.Epoch)
	case k.Status == task.Completed && (before.Status != task.Assigned || k.Claimant != before.Claimant):
		return fmt.Errorf("was %s to %s and completed by %s", before.Status, before.Claimant.Short(), k.Claimant.Short())
	case k.Status == task.Completed && !k.UpdatedAt.Before(before.ClaimExpires):
		return fmt.Errorf("was completed at %v, after its claim had expired at %v", k.UpdatedAt, before.ClaimExpires)
	}
	if k.Status == task.Assigned {
		if winner, _ := r.winners.Load(round{k.ID, k.Epoch}); winner != k.Claimant {
			return fmt.Errorf("epoch %d belongs to %s, and %v was told to have won it", k.Epoch, k.Claimant.Short(), winner)
		}
	}
	return nil
}
