package task_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

// recorder keeps what a listener was told.
type recorder struct {
	mu   sync.Mutex
	told []string
}

func (r *recorder) listen(t task.Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf("%s %s %d", t.ID, t.Status, t.Epoch))
}

func (r *recorder) reset() {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = nil
}

// want waits until everything has come to rest, and checks what was told since the last time.
func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, want) {
		t.Errorf("told %q, want %q", r.told, want)
	}
	r.told = nil
}

func TestListenersAreToldOfChangesByAnyManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		here, there := newManager(t, s), newManager(t, s)
		mustSubmit(t, here, task.Spec{ID: "before"})
		var r, second recorder
		detach := here.Attach(r.listen)
		r.want(t)

		mustSubmit(t, here, task.Spec{ID: "a"})
		r.want(t, "a pending 0")
		detachSecond := here.Attach(second.listen)
		mustSubmit(t, there, task.Spec{ID: "b"})
		r.want(t, "b pending 0")
		second.want(t, "b pending 0")
		detachSecond()
		detachSecond()

		claim, _, err := there.Claim(t.Context(), "before", alice)
		if err != nil {
			t.Fatal(err)
		}
		r.want(t, "before assigned 1")
		if got := idsOf(here.Visible(alice, 10)); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("after a claim elsewhere, %q is visible", got)
		}
		if _, err := there.Report(t.Context(), claim, nil, ""); err != nil {
			t.Fatal(err)
		}
		r.want(t, "before completed 1")
		detach()
		mustSubmit(t, here, task.Spec{ID: "c"})
		r.want(t)
		second.want(t)

		defer here.Attach(second.listen)()
		mustSubmit(t, here, task.Spec{ID: "d"})
		second.want(t, "d pending 0")
		r.want(t)
	})
}

// Own changes that come in quick succession may be told as one, but never without the last.
func TestTheLastChangeIsAlwaysTold(t *testing.T) {
	m := newManager(t, newStore(t))
	const n = 200
	ended := make(chan string, n)
	defer m.Attach(func(t task.Task) {
		if t.Status == task.Completed {
			ended <- t.ID
		}
	})()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			got := mustSubmit(t, m, task.Spec{ID: fmt.Sprint(i)})
			claim, _, err := m.Claim(t.Context(), got.ID, alice)
			if err == nil {
				_, err = m.Report(t.Context(), claim, nil, "")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for range n {
		seen[<-ended] = true
	}
	if len(seen) != n {
		t.Errorf("told the end of %d tasks, want %d", len(seen), n)
	}
}

func TestExpiredClaimIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		var r recorder
		defer m.Attach(r.listen)()
		mustSubmit(t, m, task.Spec{ID: "slow", ClaimTTL: time.Minute})
		mustSubmit(t, m, task.Spec{ID: "quick", ClaimTTL: time.Second})
		r.want(t, "slow pending 0", "quick pending 0")
		for _, id := range []string{"slow", "quick"} { // the later one first
			if _, _, err := m.Claim(t.Context(), id, alice); err != nil {
				t.Fatal(err)
			}
		}
		r.want(t, "slow assigned 1", "quick assigned 1")

		time.Sleep(time.Second - 1)
		r.want(t)
		time.Sleep(time.Nanosecond)
		r.want(t, "quick pending 1")
		got := m.Visible(bob, 10)
		if len(got) != 1 || got[0].ID != "quick" || !got[0].Claimant.IsZero() || !got[0].ClaimExpires.IsZero() {
			t.Errorf("%+v is visible", got)
		}
		claim, _, err := m.Claim(t.Context(), "quick", bob)
		if err != nil || claim.Epoch != 2 {
			t.Errorf("Claim gives %+v, %v", claim, err)
		}
		time.Sleep(time.Minute - time.Second)
		r.want(t, "quick assigned 2", "quick pending 2", "slow pending 1")
		if stats := m.Stats(); stats.Expired != 3 || stats.Conflicts != 0 {
			t.Errorf("Stats gives %+v", stats)
		}
	})
}

// Nobody is attached, so nothing releases the claim, and yet it is lost.
func TestLateReportIsRefusedBeforeTheRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.claimAs(alice)
		time.Sleep(30*time.Second - 1)
		f.must(f.do("heartbeat"))
		time.Sleep(30 * time.Second)
		if got := f.get(); got.Status != task.Assigned {
			t.Fatalf("the task is %s", got.Status)
		}
		for _, op := range []string{"report", "fail", "heartbeat", "release"} {
			wantIs(t, f.do(op), task.ErrClaimLost)
		}
		if got := f.m.Visible(bob, 1); len(got) != 1 || got[0].Status != task.Pending || got[0].Epoch != 1 {
			t.Errorf("%+v is visible", got)
		}
		lost := f.claim
		f.claimAs(bob) // without a release in between
		if f.claim.Epoch != 2 || f.m.Stats().Expired != 1 {
			t.Errorf("Claim gives %+v, Stats %+v", f.claim, f.m.Stats())
		}
		mine := f.claim
		f.claim = lost
		wantIs(t, f.do("report"), task.ErrClaimLost)
		f.claim = mine
		f.must(f.do("report"))
	})
}

func TestHeartbeatKeepsAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		defer f.m.Attach(func(task.Task) {})()
		f.claimAs(alice)
		for range 100 {
			time.Sleep(29 * time.Second)
			f.must(f.do("heartbeat"))
		}
		f.must(f.do("report"))
		time.Sleep(time.Hour)
		if stats := f.m.Stats(); stats.Expired != 0 {
			t.Errorf("Stats gives %+v", stats)
		}
	})
}

// A claim that was made when the clock was ahead lasts for its time to live from when that is noticed.
func TestClaimOfAClockThatWasAheadIsBounded(t *testing.T) {
	var now atomic.Pointer[time.Time]
	set := func(at time.Time) time.Time { now.Store(&at); return at }
	start := set(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	m := newManager(t, newStore(t), func(c *task.Config) { c.Now = func() time.Time { return *now.Load() } })
	mustSubmit(t, m, task.Spec{ID: "t"})
	claim, _, err := m.Claim(t.Context(), "t", alice)
	if err != nil {
		t.Fatal(err)
	}
	back := set(start.Add(-time.Hour))
	again, err := m.Heartbeat(t.Context(), claim)
	if err != nil || !again.Expires.Equal(back.Add(30*time.Second)) {
		t.Errorf("Heartbeat gives %v, %v, at %v, after %v", again.Expires, err, back, claim.Expires)
	}
	defer m.Attach(func(task.Task) {})()
	back = set(back.Add(-time.Hour))
	if again, err = m.Heartbeat(t.Context(), again); err != nil || !again.Expires.After(back.Add(time.Hour)) {
		t.Errorf("Heartbeat gives %v, %v: it shortens a claim that this manager has seen", again.Expires, err)
	}
}

func TestDeadlineFailsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, newStore(t))
		var r recorder
		detach := m.Attach(r.listen)
		deadline := time.Now().Add(time.Minute)
		mustSubmit(t, m, task.Spec{ID: "pending", Deadline: deadline})
		mustSubmit(t, m, task.Spec{ID: "assigned", Deadline: deadline.Add(1), ClaimTTL: time.Hour})
		mustSubmit(t, m, task.Spec{ID: "done", Deadline: deadline})
		claim, _, err := m.Claim(t.Context(), "assigned", alice)
		if err != nil || !claim.Expires.Equal(deadline.Add(1)) {
			t.Fatalf("Claim gives %+v, %v", claim, err)
		}
		done, _, err := m.Claim(t.Context(), "done", alice)
		if err == nil {
			_, err = m.Report(t.Context(), done, nil, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		r.reset()
		time.Sleep(time.Minute + 1)
		r.want(t, "pending failed 0", "assigned failed 1")
		got, err := m.Get(t.Context(), "pending")
		if err != nil || got.Error != "deadline exceeded" {
			t.Errorf("Get gives %+v, %v", got, err)
		}
		_, err = m.Report(t.Context(), claim, nil, "")
		wantIs(t, err, task.ErrTerminal)
		if stats := m.Stats(); stats.Failed != 2 || stats.Expired != 1 {
			t.Errorf("Stats gives %+v", stats)
		}

		detach()
		mustSubmit(t, m, task.Spec{ID: "unattended", Deadline: time.Now().Add(time.Second)})
		time.Sleep(time.Second)
		if got := m.Visible(alice, 10); got != nil {
			t.Errorf("%v is visible after its deadline", idsOf(got))
		}
		_, _, err = m.Claim(t.Context(), "unattended", alice)
		wantIs(t, err, task.ErrNotPending)
	})
}

// A manager that comes later does what is due since before.
func TestAttachCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		gone := newManager(t, s)
		mustSubmit(t, gone, task.Spec{ID: "t"})
		if _, _, err := gone.Claim(t.Context(), "t", alice); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		m := newManager(t, s)
		var r recorder
		defer m.Attach(r.listen)()
		r.want(t, "t pending 1")
	})
}

// Of several managers that release a claim at the same instant, one does.
func TestManyManagersReleaseOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		var managers []*task.Manager
		for range 5 {
			m := newManager(t, s)
			defer m.Attach(func(task.Task) {})()
			managers = append(managers, m)
		}
		const n = 50
		for i := range n {
			mustSubmit(t, managers[0], task.Spec{ID: fmt.Sprint(i)})
			if _, _, err := managers[i%5].Claim(t.Context(), fmt.Sprint(i), alice); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		var expired uint64
		for _, m := range managers {
			expired += m.Stats().Expired
			if visible := m.Visible(bob, 2*n); len(visible) != n {
				t.Errorf("%d tasks are visible", len(visible))
			}
		}
		if expired != n {
			t.Errorf("%d releases of %d claims", expired, n)
		}
	})
}

func TestAttachAndDetachUnderLoad(t *testing.T) {
	m := newManager(t, newStore(t))
	stop := make(chan struct{})
	var load, all sync.WaitGroup
	load.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				mustSubmit(t, m, task.Spec{ID: fmt.Sprint(i)})
				m.Visible(alice, 3)
			}
		}
	})
	for range 10 {
		all.Go(func() {
			for range 50 {
				attached := true
				detach := m.Attach(func(task.Task) {
					if !attached { // a race here is an error too
						t.Error("called after detach")
					}
				})
				detach()
				attached = false
			}
		})
	}
	all.Wait()
	close(stop)
	load.Wait()
}

// faultyStore gives errors when told to.
type faultyStore struct {
	store.Store
	mu     sync.Mutex
	err    error
	broken context.CancelCauseFunc // ends the watches under way
	ctx    context.Context
}

func newFaultyStore(s store.Store) *faultyStore {
	f := &faultyStore{Store: s}
	f.repair()
	return f
}

func (f *faultyStore) breakWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	f.broken(err)
}

func (f *faultyStore) repair() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
	f.ctx, f.broken = context.WithCancelCause(context.Background())
}

func (f *faultyStore) state() (context.Context, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ctx, f.err
}

func (f *faultyStore) Put(ctx context.Context, key string, value []byte, rev store.Revision) (store.Revision, error) {
	if _, err := f.state(); err != nil {
		return 0, err
	}
	return f.Store.Put(ctx, key, value, rev)
}

func (f *faultyStore) Get(ctx context.Context, key string) (store.Entry, error) {
	if _, err := f.state(); err != nil {
		return store.Entry{}, err
	}
	return f.Store.Get(ctx, key)
}

func (f *faultyStore) Delete(ctx context.Context, key string, rev store.Revision) error {
	if _, err := f.state(); err != nil {
		return err
	}
	return f.Store.Delete(ctx, key, rev)
}

func (f *faultyStore) List(ctx context.Context, prefix string) iter.Seq2[store.Entry, error] {
	if _, err := f.state(); err != nil {
		return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, err) }
	}
	return f.Store.List(ctx, prefix)
}

func (f *faultyStore) Watch(ctx context.Context, prefix string, after store.Revision) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		broken, err := f.state()
		if err != nil {
			yield(store.Event{}, err)
			return
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer context.AfterFunc(broken, func() { cancel(context.Cause(broken)) })()
		f.Store.Watch(ctx, prefix, after)(yield)
	}
}

func second[T any](_ T, err error) error { return err }

var errFault = errors.New("no connection")

func TestStoreFaultsAreRiddenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		healthy := newStore(t)
		s := newFaultyStore(healthy)
		there, here := newManager(t, healthy), newManager(t, s)
		s.breakWith(errFault)
		var r recorder
		wantIs(t, here.Healthy(), nil)  // nobody is attached
		detach := here.Attach(r.listen) // returns in spite of the fault
		defer func() {
			detach()
			wantIs(t, here.Healthy(), nil)
		}()
		wantIs(t, here.Healthy(), errFault)
		mustSubmit(t, there, task.Spec{ID: "a"})
		if got := here.Visible(alice, 10); got != nil {
			t.Errorf("Visible gives %v", got)
		}
		r.want(t)
		s.repair()
		time.Sleep(time.Minute)
		r.want(t, "a pending 0")
		wantIs(t, here.Healthy(), nil)

		s.breakWith(errFault)
		synctest.Wait()
		claim, _, err := there.Claim(t.Context(), "a", alice)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := there.Report(t.Context(), claim, nil, ""); err != nil {
			t.Fatal(err)
		}
		mustSubmit(t, there, task.Spec{ID: "b"})
		r.want(t)
		_, _, err = here.Claim(t.Context(), "b", alice)
		wantIs(t, err, errFault)
		wantIs(t, here.Healthy(), errFault)
		for _, err := range []error{
			second(here.Submit(t.Context(), task.Spec{Kind: "work", Submitter: submitter})), second(here.Report(t.Context(), claim, nil, "")),
			second(here.Cancel(t.Context(), "b", submitter)), second(here.Get(t.Context(), "b")), second(here.List(t.Context(), task.Filter{}, 1, "")),
		} {
			wantIs(t, err, errFault) // nothing is acknowledged
		}
		s.repair()
		time.Sleep(time.Minute)
		r.want(t, "a assigned 1", "a completed 1", "b pending 0")

		if _, _, err := here.Claim(t.Context(), "b", alice); err != nil {
			t.Fatal(err)
		}
		r.want(t, "b assigned 1")
		s.breakWith(errFault)
		synctest.Wait()
		time.Sleep(10 * time.Minute) // the claim cannot be released
		wantText(t, here.Healthy(), "since 2000-01-01T00:02:00Z")
		s.repair()
		time.Sleep(time.Minute)
		r.want(t, "b pending 1")
	})
}

// The manager falls behind a log of few changes, reads the store afresh and misses no task's end.
func TestCompactionIsRiddenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(memory.Config{MaxLog: 4})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		here, there := newManager(t, s), newManager(t, s)
		var r recorder
		held := make(chan struct{})
		var block sync.Once
		defer here.Attach(func(t task.Task) {
			r.listen(t)
			block.Do(func() { <-held })
		})()
		mustSubmit(t, here, task.Spec{ID: "first"})
		synctest.Wait() // the listener blocks, as it must not
		for i := range 10 {
			mustSubmit(t, there, task.Spec{ID: fmt.Sprint("t", i)})
		}
		claim, _, err := there.Claim(t.Context(), "t3", alice)
		if err == nil {
			_, err = there.Report(t.Context(), claim, nil, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			mustSubmit(t, here, task.Spec{ID: fmt.Sprint("u", i)})
		}
		close(held)
		time.Sleep(time.Second)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, want := range []string{"t9 pending 0", "t3 completed 1", "u0 pending 0", "u9 pending 0"} {
			if !slices.Contains(r.told, want) {
				t.Errorf("%q is not among what was told: %q", want, r.told)
			}
		}
		if got := len(here.Visible(alice, 100)); got != 20 {
			t.Errorf("%d tasks are visible, want 20", got)
		}
	})
}

func TestClosedStoreEndsTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		m := newManager(t, s)
		detach := m.Attach(func(task.Task) {})
		s.Close()
		synctest.Wait()
		if got := m.Visible(alice, 1); got != nil {
			t.Errorf("Visible gives %v", got)
		}
		_, err := m.Submit(t.Context(), task.Spec{Kind: "work", Submitter: submitter})
		wantIs(t, err, store.ErrClosed)
		detach()
		m.Attach(func(task.Task) {})()
	})
}

// A record that cannot be read is logged and counted once, and harms nothing else.
func TestUnreadableRecordsAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		var log bytes.Buffer
		m := newManager(t, s, func(c *task.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		ctx := t.Context()
		mustSubmit(t, m, task.Spec{ID: "good"})
		mustSubmit(t, m, task.Spec{ID: "spoiled"})
		good, err := s.Get(ctx, "task/good")
		if err != nil {
			t.Fatal(err)
		}
		put := func(key string, value []byte) {
			t.Helper()
			old, _ := s.Get(ctx, key)
			if _, err := s.Put(ctx, key, value, old.Revision); err != nil {
				t.Fatal(err)
			}
		}
		put("task/garbage", []byte("garbage"))
		put("task/moved", good.Value)                    // belongs to another task
		put("task/newer", []byte{0x82, 0x02, 0x61, 'x'}) // version 2
		var r recorder
		defer m.Attach(r.listen)()
		var told []string
		check := func(corrupt uint64, visible ...string) {
			t.Helper()
			r.want(t, told...)
			told = nil
			for range 2 {
				if got := idsOf(m.Visible(alice, 10)); !slices.Equal(got, visible) {
					t.Errorf("%q is visible, want %q", got, visible)
				}
			}
			if got := m.Stats().Corrupt; got != corrupt || strings.Count(log.String(), "level=ERROR") != int(corrupt) {
				t.Errorf("counted %d, want %d, and logged\n%s", got, corrupt, &log)
			}
		}
		check(3, "good", "spoiled")
		put("task/spoiled", []byte("garbage"))
		put("task/dir/deep", good.Value)
		told = append(told, "spoiled failed 0") // those who wait for it are told that it is lost
		check(5, "good")
		for id, want := range map[string]string{"garbage": "", "moved": "good", "newer": "version 2 is newer", "spoiled": ""} {
			_, err := m.Get(ctx, id)
			if !errors.Is(err, task.ErrRecord) || !strings.Contains(err.Error(), want) {
				t.Errorf("Get of %s gives %v", id, err)
			}
			_, _, err = m.Claim(ctx, id, alice)
			wantIs(t, err, task.ErrRecord)
		}
		if err := s.Delete(ctx, "task/good", good.Revision); err != nil {
			t.Fatal(err)
		}
		check(5)
		mustSubmit(t, m, task.Spec{ID: "good"})
		r.want(t, "good pending 0")
	})
}

// A manager that has not heard of changes elsewhere finds out when it comes to release a claim.
func TestReleaseOfWhatHasMovedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		deaf, there := newManager(t, s), newManager(t, s)
		ctx := t.Context()
		held := make(chan struct{})
		defer deaf.Attach(func(t task.Task) {
			if t.ID == "block" {
				<-held
			}
		})()
		claims := map[string]task.Claim{}
		for _, id := range []string{"kept", "reported", "deleted", "spoiled"} {
			mustSubmit(t, deaf, task.Spec{ID: id})
			claim, _, err := deaf.Claim(ctx, id, alice)
			if err != nil {
				t.Fatal(err)
			}
			claims[id] = claim
		}
		mustSubmit(t, deaf, task.Spec{ID: "block"})
		synctest.Wait()
		time.Sleep(20 * time.Second)
		_, err := there.Heartbeat(ctx, claims["kept"])
		if err == nil {
			_, err = there.Report(ctx, claims["reported"], nil, "")
		}
		for id, change := range map[string]func(rev store.Revision) error{
			"deleted": func(rev store.Revision) error { return s.Delete(ctx, "task/deleted", rev) },
			"spoiled": func(rev store.Revision) error { _, err := s.Put(ctx, "task/spoiled", nil, rev); return err },
		} {
			e, getErr := s.Get(ctx, "task/"+id)
			err = errors.Join(err, getErr, change(e.Revision))
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		got, err := deaf.Get(ctx, "kept")
		if err != nil || got.Status != task.Assigned || got.Epoch != 1 {
			t.Errorf("the task is %+v, %v", got, err)
		}
		if stats := deaf.Stats(); stats.Expired != 0 || stats.Conflicts != 4 {
			t.Errorf("Stats gives %+v", stats)
		}
		time.Sleep(16 * time.Second) // and then it does expire
		if got, err = deaf.Get(ctx, "kept"); err != nil || got.Status != task.Pending {
			t.Errorf("the task is %+v, %v", got, err)
		}
		close(held)
	})
}

// A store without room holds up only the changes that need some.
func TestFullStoreDoesNotHoldUpReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := memory.New(memory.Config{MaxBytes: 2000})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		m := newManager(t, s)
		defer m.Attach(func(task.Task) {})()
		mustSubmit(t, m, task.Spec{ID: "overdue", Deadline: time.Now().Add(time.Second)}) // due first
		mustSubmit(t, m, task.Spec{ID: "held", ClaimTTL: 2 * time.Second})
		if _, _, err := m.Claim(t.Context(), "held", alice); err != nil {
			t.Fatal(err)
		}
		filler := store.Revision(0)
		for n := 2000; filler == 0; n-- {
			filler, _ = s.Put(t.Context(), "filler", make([]byte, n), 0)
		}
		status := func(id string) task.Status {
			got, err := m.Get(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			return got.Status
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := status("overdue"); got != task.Pending {
			t.Errorf("in a full store, the overdue task is %s", got)
		}
		time.Sleep(time.Minute)
		if got := status("held"); got != task.Pending {
			t.Errorf("in a full store, the held task is %s", got)
		}
		if got := status("overdue"); got != task.Failed { // the release made room
			t.Errorf("when there is room, the overdue task is %s", got)
		}
	})
}

// Whoever makes a change sees it in what is visible, even if the watch is just about to bring it.
func TestOwnChangesAreVisibleAtOnce(t *testing.T) {
	m := newManager(t, newStore(t))
	defer m.Attach(func(task.Task) {})()
	for i := range 3000 {
		submitted := mustSubmit(t, m, task.Spec{ID: fmt.Sprint(i)})
		if got := idsOf(m.Visible(alice, 2)); !slices.Equal(got, []string{submitted.ID}) {
			t.Fatalf("after task %s was submitted, %q is visible", submitted.ID, got)
		}
		if _, _, err := m.Claim(t.Context(), submitted.ID, alice); err != nil {
			t.Fatal(err)
		}
		if got := idsOf(m.Visible(alice, 2)); got != nil {
			t.Fatalf("after task %s was claimed, %q is visible", submitted.ID, got)
		}
	}
}
