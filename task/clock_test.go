package task_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// reading returns what a computer's clock reads: the time of day, which somebody can set, and the monotonic
// reading, which nobody can. Package time lets nobody make one, and fake time has none, so this reaches
// into it.
func reading(t *testing.T, wall time.Time, elapsed time.Duration) (r time.Time) {
	t.Helper()
	in := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&r))
	from1885 := wall.Sub(time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second
	in.wall = 1<<63 | uint64(from1885)<<30 | uint64(wall.Nanosecond())
	in.ext = int64(elapsed)
	if !r.Round(0).Equal(wall) || !strings.Contains(r.String(), "m=") {
		t.Fatalf("%v after %v is read as %v", wall, elapsed, r)
	}
	return r
}

// computer is one whose clock can be set.
type computer struct {
	t     *testing.T
	begin time.Time
	by    atomic.Int64
}

func newComputer(t *testing.T, by time.Duration) *computer {
	c := &computer{t: t, begin: time.Now()}
	c.set(by)
	return c
}

// set sets the clock off by that much.
func (c *computer) set(by time.Duration) { c.by.Store(int64(by)) }

func (c *computer) now() time.Time {
	return reading(c.t, time.Now().Add(time.Duration(c.by.Load())), time.Since(c.begin)+time.Second)
}

func (c *computer) config(o *task.Config) { o.Now = c.now }

var jumps = []time.Duration{time.Hour, -time.Hour}

func TestSettingTheClockChangesNothing(t *testing.T) {
	for _, jump := range jumps {
		synctest.Test(t, func(t *testing.T) {
			c := newComputer(t, 0)
			m := newManager(t, newStore(t), c.config)
			var r recorder
			defer m.Attach(r.listen)()
			mustSubmit(t, m, task.Spec{ID: "a"})
			mustSubmit(t, m, task.Spec{ID: "b"})
			mustSubmit(t, m, task.Spec{ID: "later", NotBefore: time.Now().Add(time.Minute)})
			mustSubmit(t, m, task.Spec{ID: "short", Deadline: time.Now().Add(2 * time.Minute)})
			a, b := claimed(t, m, "a", alice), claimed(t, m, "b", alice)
			time.Sleep(20 * time.Second)
			r.reset()
			c.set(jump)
			r.want(t)
			if left := m.Remaining(b); left != 10*time.Second || b.Expires.Sub(c.now()) != left {
				t.Errorf("after a jump of %v the claim lasts %v, %v", jump, left, b.Expires.Sub(c.now()))
			}
			if _, err := m.Report(t.Context(), b, nil, ""); err != nil {
				t.Error(err)
			}
			a, err := m.Heartbeat(t.Context(), a)
			if err != nil || a.Expires.Sub(c.now()) != 30*time.Second {
				t.Errorf("Heartbeat gives %v, %v", a.Expires.Sub(c.now()), err)
			}
			r.reset()
			time.Sleep(30*time.Second - 1)
			r.want(t)
			time.Sleep(time.Nanosecond)
			r.want(t, "a pending 1")
			time.Sleep(10 * time.Second)
			r.want(t, "later pending 0")
			time.Sleep(time.Minute)
			r.want(t, "short failed 0")
			if now := m.Now(); !now.Equal(time.Now()) {
				t.Errorf("it is %v, want %v", now, time.Now())
			}
		})
	}
}

// A process that comes after the clock was set goes by the new time; claims of before last no longer than
// their time to live from then on.
func TestClockThatIsSetBetweenTwoRuns(t *testing.T) {
	for _, jump := range jumps {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			c := newComputer(t, 0)
			gone := newManager(t, s, c.config)
			mustSubmit(t, gone, task.Spec{ID: "t", ClaimTTL: time.Minute})
			claimed(t, gone, "t", alice)
			c.set(jump)
			m := newManager(t, s, c.config)
			var r recorder
			defer m.Attach(r.listen)()
			time.Sleep(time.Minute)
			r.want(t, "t pending 1")
			claimed(t, m, "t", bob)
		})
	}
}

// clockStore has a clock of its own, which takes its time to answer.
type clockStore struct {
	store.Store
	ahead atomic.Int64
	takes atomic.Int64
	asked atomic.Int64
	fails atomic.Bool
}

func (c *clockStore) Now(ctx context.Context) (time.Time, error) {
	c.asked.Add(1)
	if c.fails.Load() {
		return time.Time{}, errFault
	}
	half := time.Duration(c.takes.Load()) / 2
	select {
	case <-time.After(half):
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
	now := time.Now().Add(time.Duration(c.ahead.Load()))
	time.Sleep(half)
	return now, nil
}

func TestStoresClockIsTheTimeOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &clockStore{Store: newStore(t)}
		s.ahead.Store(int64(5 * time.Hour))
		s.takes.Store(int64(40 * time.Millisecond))
		early, late := newComputer(t, -time.Hour), newComputer(t, time.Hour)
		here, there := newManager(t, s, early.config), newManager(t, s, late.config)
		k := mustSubmit(t, here, task.Spec{ID: "t"})
		if off := k.CreatedAt.Sub(time.Now().Add(5 * time.Hour)).Abs(); off > time.Second {
			t.Errorf("the task was created %v off the store's time", off)
		}
		c := claimed(t, here, "t", alice)
		if left := c.Expires.Sub(early.now()); left != 30*time.Second || here.Remaining(c) != left {
			t.Errorf("the claim lasts %v by this computer's clock, and %v", left, here.Remaining(c))
		}
		time.Sleep(20 * time.Second)
		early.set(time.Hour) // and back, which nobody notices
		late.set(-time.Hour)
		_, _, err := there.Claim(t.Context(), "t", bob)
		wantIs(t, err, task.ErrNotPending)
		if left := here.Remaining(c); (left - 10*time.Second).Abs() > time.Second {
			t.Errorf("the claim lasts %v", left)
		}
		time.Sleep(10 * time.Second)
		_, err = here.Report(t.Context(), c, nil, "")
		wantIs(t, err, task.ErrClaimLost)
		claimed(t, there, "t", bob)
	})
}

// The store's clock may drift from that of this computer, or be another one after a failover.
func TestStoresClockIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &clockStore{Store: newStore(t)}
		attached, lazy := newManager(t, s), newManager(t, s)
		defer attached.Attach(func(task.Task) {})()
		lazy.Now()
		s.ahead.Store(int64(time.Hour))
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if off := time.Until(attached.Now()); off != time.Hour {
			t.Errorf("an attached manager is %v ahead", off)
		}
		if off := time.Until(lazy.Now()); off != 0 {
			t.Errorf("the other has looked too soon: %v", off)
		}
		time.Sleep(5 * time.Minute)
		if off := time.Until(lazy.Now()); off != time.Hour {
			t.Errorf("the other is %v ahead", off)
		}
		asked := s.asked.Load()
		for range 1000 {
			lazy.Now()
		}
		if n := s.asked.Load() - asked; n != 0 {
			t.Errorf("1,000 looks at the time ask the store %d times", n)
		}
	})
}

func TestStoreWhoseClockDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &clockStore{Store: newStore(t)}
		s.ahead.Store(int64(time.Hour))
		m := newManager(t, s)
		m.Now()
		s.fails.Store(true)
		time.Sleep(time.Hour)
		if off := time.Until(m.Now()); off != time.Hour { // by the last estimate
			t.Errorf("the manager is %v ahead", off)
		}
		s.fails.Store(false)
		s.takes.Store(int64(time.Minute)) // too long to be believed
		s.ahead.Store(int64(2 * time.Hour))
		time.Sleep(time.Hour)
		begin := time.Now()
		if off := time.Until(m.Now()); off != time.Hour {
			t.Errorf("the manager is %v ahead", off)
		}
		if waited := time.Since(begin); waited > 40*time.Second {
			t.Errorf("looking at the time took %v", waited)
		}
	})
}
