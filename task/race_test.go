package task

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

// Several managers with many agents each work off tasks on one store. Agents finish, fail, give back,
// or vanish and report too late. Afterwards the history of the store is replayed: every change was one
// that may be, every epoch had one winner, who is the one that was told so, and nothing was reported
// under a lost claim.
func TestManyManagersOneStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const managers, agents, tasks = 4, 8, 200
		s, err := memory.New(memory.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		b := newBout(t, tasks)
		for i := range managers {
			m, err := New(Config{Store: s, UnsignedUnsafe: true})
			if err != nil {
				t.Fatal(err)
			}
			for j := range agents {
				b.join(m, identity.ID{1, byte(i), byte(j)})
			}
			if i == 0 {
				for n := range tasks {
					_, err := m.Submit(t.Context(), Spec{ID: fmt.Sprint(n), Kind: "work", Submitter: identity.ID{9}, ClaimTTL: time.Second})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		b.all.Wait()
		b.check(s)
	})
}

// bout is one run of agents on tasks, and what they were told.
type bout struct {
	t      *testing.T
	open   atomic.Int64 // tasks that have not ended
	done   chan struct{}
	all    sync.WaitGroup
	winner sync.Map // of a task and epoch
	ended  sync.Map // by task: the epoch that ended it
}

type round struct {
	id    string
	epoch uint64
}

func newBout(t *testing.T, tasks int64) *bout {
	b := &bout{t: t, done: make(chan struct{})}
	b.open.Store(tasks)
	return b
}

// join starts an agent.
func (b *bout) join(m *Manager, id identity.ID) {
	wake := make(chan struct{}, 1)
	detach := m.Attach(func(Task) {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	b.all.Go(func() {
		defer detach()
		for {
			if visible := m.Visible(Profile{Agent: id}, 5); len(visible) > 0 {
				b.work(m, id, visible[rand.IntN(len(visible))].ID)
				continue
			}
			select {
			case <-wake:
			case <-b.done:
				return
			}
		}
	})
}

func (b *bout) work(m *Manager, id identity.ID, taskID string) {
	ctx := b.t.Context()
	claim, _, err := m.Claim(ctx, taskID, Profile{Agent: id})
	if errors.Is(err, ErrNotPending) || errors.Is(err, ErrTerminal) {
		return
	}
	if err != nil {
		b.t.Error(err)
		return
	}
	if other, twice := b.winner.LoadOrStore(round{taskID, claim.Epoch}, id); twice {
		b.t.Errorf("task %s epoch %d was won by %v and %v", taskID, claim.Epoch, other, id)
	}
	switch rand.IntN(5) {
	case 0: // vanish and come back
		time.Sleep(time.Second)
		for _, late := range []error{second(m.Report(ctx, claim, nil, "")), second(m.Fail(ctx, claim, "")), second(m.Heartbeat(ctx, claim)), second(m.Release(ctx, claim))} {
			if !errors.Is(late, ErrClaimLost) {
				b.t.Errorf("task %s epoch %d, too late: %v", taskID, claim.Epoch, late)
			}
		}
		return
	case 1: // give back
		if _, err := m.Release(ctx, claim); err != nil {
			b.t.Errorf("task %s epoch %d: %v", taskID, claim.Epoch, err)
		}
		return
	case 2: // take long
		time.Sleep(900 * time.Millisecond)
		if claim, err = m.Heartbeat(ctx, claim); err == nil {
			time.Sleep(900 * time.Millisecond)
			_, err = m.Report(ctx, claim, nil, "")
		}
	case 3:
		_, err = m.Fail(ctx, claim, "no luck")
	default:
		_, err = m.Report(ctx, claim, []byte("done"), "")
	}
	b.end(claim, err)
}

func second[T any](_ T, err error) error { return err }

func (b *bout) end(claim Claim, err error) {
	if err != nil {
		b.t.Errorf("task %s epoch %d: %v", claim.TaskID, claim.Epoch, err)
		return
	}
	if other, twice := b.ended.LoadOrStore(claim.TaskID, claim.Epoch); twice {
		b.t.Errorf("task %s was ended in epochs %d and %d", claim.TaskID, other, claim.Epoch)
	}
	if b.open.Add(-1) == 0 {
		close(b.done)
	}
}

// check replays the history of the store.
func (b *bout) check(s store.Store) {
	last := map[string]*record{}
	end, err := s.Put(b.t.Context(), keyPrefix+"end", nil, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	for ev, err := range s.Watch(b.t.Context(), keyPrefix, 1) { // after the creation of the first task
		if err != nil {
			b.t.Fatal(err)
		}
		if ev.Entry.Revision == end {
			break
		}
		r, err := decodeRecord(ev.Entry)
		if err != nil {
			b.t.Fatal(err)
		}
		if err := b.checkStep(last[r.spec.ID], r); err != nil {
			b.t.Errorf("task %s at revision %d: %v", r.spec.ID, r.revision, err)
		}
		last[r.spec.ID] = r
	}
	for id, r := range last {
		epoch, _ := b.ended.Load(id)
		if !r.status.Terminal() || epoch != r.epoch {
			b.t.Errorf("task %s is %s in epoch %d, and was ended in epoch %v", id, r.status, r.epoch, epoch)
		}
	}
}

func (b *bout) checkStep(old, r *record) error {
	if old == nil {
		old = &record{fixed: r.fixed, status: Pending}
	}
	if old.status.Terminal() {
		return fmt.Errorf("was %s and is %s", old.status, r.status)
	}
	if r.status == Assigned && (old.status == Pending || r.epoch != old.epoch) {
		if r.epoch != old.epoch+1 {
			return fmt.Errorf("epoch %d follows %d", r.epoch, old.epoch)
		}
		if winner, _ := b.winner.Load(round{r.spec.ID, r.epoch}); winner != r.claimant {
			return fmt.Errorf("epoch %d went to %v, and %v was told so", r.epoch, r.claimant, winner)
		}
		return nil
	}
	if r.epoch != old.epoch || r.status != Pending && r.claimant != old.claimant {
		return fmt.Errorf("from %s in epoch %d to %s in %d", old.status, old.epoch, r.status, r.epoch)
	}
	if r.status.Terminal() && r.updated >= old.expires {
		return fmt.Errorf("ended at %d, when the claim had expired at %d", r.updated, old.expires)
	}
	return nil
}
