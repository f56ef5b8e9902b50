package postgres_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
	"github.com/converge-agents/converge/task"
)

// claimers come from so many processes, as far as the server can tell: each has a store of its own.
func claimers(t *testing.T, processes, claimers, tasks int, clocks ...func() time.Time) {
	config := postgres.Config{Schema: pgtest.Name()}
	stores := make([]store.Store, processes)
	for i := range stores {
		stores[i] = open(t, config)
	}
	tasktest.Claimers(t, stores, claimers, tasks, clocks...)
}

func TestClaimersOfTasks(t *testing.T) {
	t.Parallel()
	claimers(t, 4, 20, 100)
}

// off is a clock that is wrong by that much.
func off(by time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(by) } }

// The server's clock decides when a claim has run out, whatever those of the processes say.
func TestClaimersWhoseClocksAreAnHourOff(t *testing.T) {
	t.Parallel()
	claimers(t, 3, 12, 50, off(-time.Hour), off(0), off(time.Hour))
}

func TestClaimLastsAsLongForThoseWhoseClocksAreAnHourOff(t *testing.T) {
	t.Parallel()
	config := postgres.Config{Schema: pgtest.Name()}
	here, there := open(t, config), open(t, config)
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		first, second := clocked(t, here, -ahead), clocked(t, there, ahead)
		takesOver(t, here, first, second)
	}
}

func clocked(t *testing.T, s store.Store, by time.Duration) *task.Manager {
	t.Helper()
	m, err := task.New(task.Config{Store: s, UnsignedUnsafe: true, Now: off(by), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// takesOver has a manager claim a task, which another one can when that claim has run out, and not before.
func takesOver(t *testing.T, s *postgres.Store, first, second *task.Manager) {
	const ttl = 400 * time.Millisecond
	ctx := t.Context()
	k, err := first.Submit(ctx, task.Spec{Kind: "work", Submitter: identity.ID{1}, ClaimTTL: ttl, MaxAttempts: 5})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := s.Now(ctx); err != nil || now.Sub(k.CreatedAt).Abs() > time.Minute {
		t.Errorf("at %v, %v, a task was created at %v", now, err, k.CreatedAt)
	}
	began := time.Now()
	c, _, err := first.Claim(ctx, k.ID, task.Profile{Agent: identity.ID{2}})
	if left := first.Remaining(c); err != nil || left > ttl {
		t.Fatalf("a claim lasts %v, %v", left, err)
	}
	other := task.Profile{Agent: identity.ID{3}}
	var next task.Claim
	for deadline := time.Now().Add(time.Minute); next.Epoch == 0; time.Sleep(5 * time.Millisecond) {
		next, _, err = second.Claim(ctx, k.ID, other)
		if err != nil && (!errors.Is(err, task.ErrNotPending) || time.Now().After(deadline)) {
			t.Fatalf("%v after the first claim: %v", time.Since(began), err)
		}
	}
	if passed := time.Since(began); passed < ttl-100*time.Millisecond {
		t.Errorf("a claim of %v was lost after %v", ttl, passed)
	}
	if _, err := first.Report(ctx, c, nil, ""); !task.IsLost(err) {
		t.Errorf("a report of the first claim gives %v", err)
	}
	if _, err := second.Report(ctx, next, nil, ""); err != nil && !task.IsLost(err) { // on a slow machine
		t.Error(err)
	}
}

func tasksOfKilledProcess(t *testing.T, loops int) {
	place := func(t *testing.T) string { return pgtest.Shared(t).URL() + " " + pgtest.Name() }
	tasktest.Kills(t, loops, place, func(t *testing.T, place string) store.Store {
		url, schema, _ := strings.Cut(place, " ")
		return open(t, postgres.Config{URL: url, Schema: schema})
	})
}

func TestTasksOfKilledProcess(t *testing.T) {
	t.Parallel()
	tasksOfKilledProcess(t, 3)
}
