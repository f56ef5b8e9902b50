package remote_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

func TestPendingTasksAreToldAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var work recorder
		defer worker.Attach(work.listen)()
		work.tell()
		for i := range 3 {
			time.Sleep(time.Minute + time.Second/3)
			start := time.Now()
			boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i)})
			if told := work.tell(); len(told) != 1 || time.Since(start) != 0 {
				t.Errorf("told of %d tasks after %v", len(told), time.Since(start))
			}
		}
	})
}

func TestIdleClientsAskSixTimesAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		worker := s.client(bob)
		defer worker.Attach(func(task.Task) {})()
		time.Sleep(time.Second)
		before := s.desk.Stats()
		time.Sleep(10 * time.Minute)
		if asked := s.desk.Stats().Requests - before.Requests; asked > 62 || asked < 55 {
			t.Errorf("%d requests in ten minutes", asked)
		}
		if before.Parked != 1 || before.Clients != 1 {
			t.Errorf("%+v", before)
		}
	})
}

// TestWindowGoesOnAsOthersClaim has a client see what it had no room for, as others claim what it saw.
func TestWindowGoesOnAsOthersClaim(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker, other := s.client(alice), s.client(bob), s.client(carol)
		const n = 200
		var ops, claims []remote.Op
		for i := range n {
			id := fmt.Sprintf("t%03d", i)
			ops = append(ops, remote.Op{Kind: remote.OpSubmit, Spec: task.Spec{ID: id, Kind: "k"}})
			claims = append(claims, remote.Op{Kind: remote.OpClaim, TaskID: id})
		}
		boss.Do(t.Context(), ops)
		var work recorder
		defer worker.Attach(work.listen)()
		time.Sleep(time.Second)
		if got := worker.Visible(worker.profile, n); len(got) != 64 || got[0].ID != "t000" {
			t.Fatalf("%d tasks are visible", len(got))
		}
		other.Do(t.Context(), claims[:150])
		time.Sleep(time.Second)
		if got := worker.Visible(worker.profile, n); len(got) != 50 || got[0].ID != "t150" {
			t.Errorf("%d tasks are visible, the first %+v", len(got), got)
		}
		for what, n := range work.statuses() {
			if n != 1 {
				t.Errorf("%s was told %d times", what, n)
			}
		}
	})
}

// TestOneTaskDoesNotWakeTheWholeCrowd has most of those who wait hear nothing of a task that is claimed
// at once.
func TestOneTaskDoesNotWakeTheWholeCrowd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss := s.client(alice)
		var told atomic.Int64
		const crowd = 150
		for i := range crowd {
			seed := [32]byte{byte(i), byte(i >> 8), 7}
			id := must(identity.FromSeed(seed[:]))
			if err := s.registry.Register(id.ID(), id.PublicKey()); err != nil {
				t.Fatal(err)
			}
			c := s.client(id)
			wake := make(chan string, 100)
			defer c.Attach(func(t task.Task) { told.Add(1); wake <- t.ID })()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				for {
					select {
					case id := <-wake:
						c.Claim(ctx, id, c.profile)
					case <-ctx.Done():
						return
					}
				}
			}()
		}
		time.Sleep(15 * time.Second)
		boss.mustSubmit(t, task.Spec{ID: "one"})
		time.Sleep(15 * time.Second)
		s.expectStatus("one", task.Assigned)
		if n := told.Load(); n > 70 {
			t.Errorf("%d of %d were told", n, crowd)
		}
		if got := s.desk.Stats().Parked; got != crowd {
			t.Errorf("%d wait", got)
		}
	})
}

func TestCancellationReachesTheHolderAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var work recorder
		defer worker.Attach(work.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", ClaimTTL: time.Hour})
		worker.mustClaim(t, "a")
		work.tell()
		time.Sleep(time.Minute)
		start := time.Now()
		if _, err := boss.Cancel(t.Context(), "a", alice.ID()); err != nil {
			t.Fatal(err)
		}
		told := work.tell()
		if len(told) != 1 || told[0].Status != task.Cancelled || told[0].Claimant != bob.ID() || time.Since(start) != 0 {
			t.Errorf("after %v, the holder was told %+v", time.Since(start), told)
		}
		if told[0].Params != nil {
			t.Error("who no longer holds the task gets its params")
		}
	})
}

// TestManyEndsAtOnceAreAllTold has more tasks end at once than one answer tells of.
func TestManyEndsAtOnceAreAllTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss := s.client(alice)
		var ends recorder
		defer boss.Attach(ends.listen)()
		const n = 1500 // an answer has 1,024 at most
		var ops []remote.Op
		for i := range n {
			ops = append(ops, remote.Op{Kind: remote.OpSubmit, Spec: task.Spec{ID: fmt.Sprint(i), Kind: "k", Capabilities: []string{"none"}}})
		}
		boss.Do(t.Context(), ops)
		time.Sleep(time.Second)
		before := s.desk.Stats().Requests
		for i := range n {
			must(s.tasks.Cancel(t.Context(), fmt.Sprint(i), alice.ID()))
		}
		time.Sleep(time.Second)
		if got := ends.statuses(); len(got) != n {
			t.Errorf("%d of %d ends were told", len(got), n)
		}
		if took := s.desk.Stats().Requests - before; took > 20 {
			t.Errorf("that took %d polls", took)
		}
	})
}

func TestClaimsOfADeadWorkerRunOutAndAnotherEndsThem(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, dies, lives := s.client(alice), s.client(bob), s.client(carol)
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer lives.Attach(work.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", ClaimTTL: 30 * time.Second})
		dies.mustClaim(t, "a")
		work.tell()
		dies.stop()
		time.Sleep(29 * time.Second)
		if told := work.tell(); len(told) != 0 {
			t.Errorf("told %+v while the claim lasts", told)
		}
		time.Sleep(time.Second)
		told := work.tell()
		if len(told) != 1 || told[0].Epoch != 1 {
			t.Fatalf("told %+v when the claim has run out", told)
		}
		claim := lives.mustClaim(t, "a")
		if _, err := lives.Report(t.Context(), claim, []byte("done"), ""); err != nil || claim.Epoch != 2 {
			t.Errorf("epoch %d, %v", claim.Epoch, err)
		}
		time.Sleep(50 * time.Millisecond)
		if got := ends.statuses(); got["a completed"] != 1 {
			t.Errorf("the submitter was told %v", got)
		}
	})
}

// TestOwnClaimThatRanOutIsShownAgain has a worker that is alone lose a claim without hearing of it: it has to
// see the task again, since nobody else would do it.
func TestOwnClaimThatRanOutIsShownAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var work recorder
		defer worker.Attach(work.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", ClaimTTL: time.Second})
		lost := worker.mustClaim(t, "a")
		work.tell()
		if got := worker.Visible(worker.profile, 1); len(got) != 0 {
			t.Errorf("the worker is shown what it holds: %+v", got)
		}
		time.Sleep(2 * time.Second)
		if told := work.tell(); len(told) != 1 || told[0].Status != task.Pending || told[0].Epoch != lost.Epoch {
			t.Errorf("the worker was told %+v", told)
		}
		if again := worker.mustClaim(t, "a"); again.Epoch <= lost.Epoch {
			t.Errorf("claimed again with epoch %d after %d", again.Epoch, lost.Epoch)
		}
	})
}

// TestOwnDoingIsNotTold has the host tell of a task's end before the one who has ended it has read the answer.
func TestOwnDoingIsNotTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob, "work")
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		for _, id := range []string{"done", "failed", "given-back"} {
			boss.mustSubmit(t, task.Spec{ID: id, ClaimTTL: time.Hour, Capabilities: []string{"work"}, MaxAttempts: 1})
		}
		done, failed, back := worker.mustClaim(t, "done"), worker.mustClaim(t, "failed"), worker.mustClaim(t, "given-back")
		time.Sleep(time.Second)
		work.tell()
		ends.tell()
		worker.late.Store(int64(time.Second))
		if _, err := worker.Report(t.Context(), done, nil, ""); err != nil {
			t.Error(err)
		}
		if _, err := worker.Fail(t.Context(), failed, "bad day"); err != nil {
			t.Error(err)
		}
		time.AfterFunc(500*time.Millisecond, func() { must(s.tasks.Cancel(context.Background(), "given-back", alice.ID())) })
		if _, err := worker.Release(t.Context(), back); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if told := work.statuses(); told["done completed"]+told["failed failed"]+told["given-back cancelled"] > 0 {
			t.Errorf("the worker was told %v", told)
		}
		if told := ends.statuses(); told["done completed"] != 1 || told["failed failed"] != 1 || told["given-back cancelled"] != 1 {
			t.Errorf("the submitter was told %v", told)
		}
	})
}

// TestEndIsToldIfItIsNotKnownWhose has a worker's report meet a cancellation, and all answers to it be lost.
func TestEndIsToldIfItIsNotKnownWhose(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var work recorder
		defer worker.Attach(work.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", ClaimTTL: time.Hour})
		claim := worker.mustClaim(t, "a")
		time.Sleep(time.Second)
		work.tell()
		worker.late.Store(-1)
		must(s.tasks.Cancel(t.Context(), "a", alice.ID()))
		_, err := worker.Report(t.Context(), claim, nil, "")
		expectErr(t, "a report that nobody answers", err, remote.ErrUnavailable)
		worker.late.Store(0)
		time.Sleep(time.Minute)
		if told := work.statuses(); !maps.Equal(told, map[string]int{"a cancelled": 1}) {
			t.Errorf("the worker was told %v", told)
		}
	})
}

// TestRestartOfTheHostLosesNothing switches Hanna's machine off and on, with her store, while tasks end.
func TestRestartOfTheHostLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		const n = 5
		for i := range n {
			boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i), ClaimTTL: time.Hour})
		}
		claims := map[string]task.Claim{}
		for i := range n - 1 {
			claims[fmt.Sprint(i)] = worker.mustClaim(t, fmt.Sprint(i))
		}
		time.Sleep(50 * time.Millisecond)
		work.tell()
		s.stop()
		// What ends meanwhile is told by nobody.
		if _, err := s.tasks.Report(t.Context(), claims["0"], []byte("r"), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.tasks.Cancel(t.Context(), "1", alice.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(7 * time.Second)
		s.open()
		if _, err := worker.Report(t.Context(), claims["2"], []byte("r"), ""); err != nil {
			t.Errorf("report after the restart: %v", err)
		}
		time.Sleep(20 * time.Second)
		if got, want := ends.statuses(), map[string]int{"0 completed": 1, "1 cancelled": 1, "2 completed": 1}; !maps.Equal(filter(got, "pending"), want) {
			t.Errorf("the submitter was told %v, want %v", got, want)
		}
		if got, want := work.statuses(), map[string]int{"0 completed": 1, "1 cancelled": 1}; !maps.Equal(got, want) {
			t.Errorf("the worker was told %v, want %v", got, want)
		}
		boss.mustSubmit(t, task.Spec{ID: "new"})
		if got := work.statuses(); !maps.Equal(got, map[string]int{"new pending": 1}) {
			t.Errorf("the worker was told %v", got)
		}
		if got := worker.Visible(worker.profile, 10); len(got) != 2 {
			t.Errorf("visible: %+v", got)
		}
	})
}

func filter(counts map[string]int, without string) map[string]int {
	for what := range counts {
		if len(what) > len(without) && what[len(what)-len(without):] == without {
			delete(counts, what)
		}
	}
	return counts
}

// TestHostThatLostItsStoreSaysSo would leave the submitter waiting for ever otherwise.
func TestHostThatLostItsStoreSaysSo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss := s.client(alice, "none")
		var ends recorder
		defer boss.Attach(ends.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", Capabilities: []string{"sum"}})
		s.stop()
		fresh := must(memory.New(memory.Config{}))
		defer fresh.Close()
		s.store = fresh
		s.open()
		time.Sleep(20 * time.Second)
		told := ends.tell()
		if len(told) != 1 || told[0].ID != "a" || told[0].Status != task.Failed || told[0].Error == "" || told[0].Submitter != alice.ID() {
			t.Errorf("told %+v", told)
		}
		s.stop()
	})
}

// TestLostRequestsAndRepliesEndInCompletionOnce drops messages in both directions.
func TestLostRequestsAndRepliesEndInCompletionOnce(t *testing.T) {
	for seed := range uint64(lossySeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newSite(t)
				chance := rand.New(rand.NewPCG(seed, 0))
				var dropped atomic.Int64
				lose := func() bool {
					lost := chance.IntN(100) < 40
					if lost {
						dropped.Add(1)
					}
					return lost
				}
				gate := make(chan struct{}, 1) // rand.Rand is for one goroutine
				gate <- struct{}{}
				lossy := []transport.Hook{
					transport.OnSend(func(_ context.Context, d message.Draft) (*message.Draft, error) {
						<-gate
						defer func() { gate <- struct{}{} }()
						if lose() {
							d.To = mallory.ID() // nobody is there; the sender does not learn of it
						}
						return &d, nil
					}),
					transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
						<-gate
						defer func() { gate <- struct{}{} }()
						if lose() {
							return nil, nil
						}
						return m, nil
					}),
				}
				sink, stopSink := s.hook(mallory)
				sinking, cancel := context.WithCancel(t.Context())
				go func() {
					for {
						if _, err := sink.Receive(sinking); err != nil {
							return
						}
					}
				}()
				defer stopSink()
				defer cancel()
				patient := remote.Config{Patience: time.Hour}
				boss, worker := s.clientWith(alice, nil, patient, lossy...), s.clientWith(bob, nil, patient, lossy...)
				var ends recorder
				defer boss.Attach(ends.listen)()
				const n = 20
				defer worker.Attach(func(p task.Task) {
					if p.Status != task.Pending {
						return
					}
					go func() {
						claim, _, err := worker.Claim(t.Context(), p.ID, worker.profile)
						if err == nil {
							_, err = worker.Report(t.Context(), claim, []byte(p.ID), "")
						}
						if err != nil {
							t.Errorf("%s: %v", p.ID, err)
						}
					}()
				})()
				submitted := map[string]task.Status{}
				for i := range n {
					got := boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i), ClaimTTL: time.Hour})
					submitted[got.ID] = got.Status
				}
				time.Sleep(10 * time.Minute)
				counts := ends.statuses()
				for i := range n {
					got := s.expectStatus(fmt.Sprint(i), task.Completed)
					told := counts[got.ID+" completed"]
					if got.Epoch != 1 || told > 1 {
						t.Errorf("task %d was claimed %d times and its end told %d times", i, got.Epoch, told)
					}
					// One that has ended before its submission was confirmed says so then.
					if told == 0 && submitted[got.ID] != task.Completed {
						t.Errorf("the end of task %d was not told", i)
					}
				}
				if dropped.Load() < 30 {
					t.Errorf("only %d messages were lost", dropped.Load())
				}
			})
		})
	}
}

func TestHostThatIsAwayIsGivenUpAndFoundAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		worker := s.client(bob)
		var work recorder
		defer worker.Attach(work.listen)()
		if _, err := s.tasks.Submit(t.Context(), task.Spec{ID: "a", Kind: "k", Submitter: alice.ID()}); err != nil {
			t.Fatal(err)
		}
		work.tell()
		s.stop()
		start := time.Now()
		_, _, err := worker.Claim(t.Context(), "a", worker.profile)
		expectErr(t, "claim", err, remote.ErrUnavailable)
		expectErr(t, "its cause", err, transport.ErrUnreachable)
		if took := time.Since(start); took < 10*time.Second || took > remote.DefaultPatience {
			t.Errorf("the host was given up after %v", took)
		}
		if got := worker.Visible(worker.profile, 10); len(got) != 0 {
			t.Errorf("tasks are visible that cannot be claimed: %v", got)
		}
		start = time.Now()
		_, _, err = worker.Claim(t.Context(), "a", worker.profile)
		expectErr(t, "the next claim", err, remote.ErrUnavailable)
		if took := time.Since(start); took != 0 {
			t.Errorf("the next claim took %v to fail", took)
		}
		s.open()
		time.Sleep(6 * time.Second)
		if got := worker.Visible(worker.profile, 10); len(got) != 1 {
			t.Errorf("visible when the host is back: %v", got)
		}
		worker.mustClaim(t, "a")
	})
}

func TestContextEndsWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		worker := s.client(bob)
		s.stop()
		why := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		start := time.Now()
		_, _, err := worker.Claim(ctx, "a", worker.profile)
		if !errors.Is(err, why) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		detach := worker.Attach(func(task.Task) { t.Error("told something") })
		time.Sleep(time.Minute)
		detach()
		detach()
	})
}

func TestAttachAndDetachUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		for i := range 50 {
			var work recorder
			detach := worker.Attach(work.listen)
			second := worker.Attach(func(task.Task) {})
			boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i)})
			time.Sleep(time.Duration(i) * time.Millisecond)
			synctest.Wait()
			second()
			detach()
			if work.tell(); len(worker.Visible(worker.profile, 10)) != 0 {
				t.Fatal("tasks are visible to a client that follows nothing")
			}
		}
	})
}
