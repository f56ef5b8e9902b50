package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// The connection breaks while a transaction is on its way: each change happens once, and its caller gets the truth.
func TestConnectionCutInMidCommit(t *testing.T) {
	for name, harm := range map[string]harm{"AnswerLost": loseAnswer, "RequestCut": cutRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, pgtest.Shared(t).Addr)
			s := open(t, postgres.Config{URL: pgtest.Shared(t).URL(p.addr())})
			start := mustPut(t, s, "start", "", 0)
			for i := range 2 {
				key := fmt.Sprintf("cut/%d", i)
				p.arm(key, harm)
				rev := mustPut(t, s, key, "once", 0)
				wantEntry(t, s, key, "once", rev)
				p.arm(key, harm)
				if err := s.Delete(t.Context(), key, rev); err != nil {
					t.Fatal(err)
				}
				wantChanges(t, s, key, start, "put once", "delete")
			}
			if p.struck() != 4 {
				t.Errorf("the proxy cut %d connections, want 4", p.struck())
			}
		})
	}
}

// A batch of many changes, of which some win and some lose, is cut off from its answer.
func TestBatchInDoubtSettlesEachOfItsChanges(t *testing.T) {
	t.Parallel()
	p := newProxy(t, pgtest.Shared(t).Addr)
	s := open(t, postgres.Config{URL: pgtest.Shared(t).URL(p.addr())})
	direct := open(t, postgres.Config{Schema: s.Schema()})
	taken := mustPut(t, direct, "batch/taken", "", 0)
	mustPut(t, s, "warm", "", 0)
	p.arm("batch/", loseAnswer)
	results := make(chan error)
	for i := range 60 {
		go func() { results <- changeOf(t, s, i, taken) }()
	}
	for range 60 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if p.struck() != 1 {
		t.Errorf("the proxy cut %d connections", p.struck())
	}
}

// changeOf makes one of three changes that win, lose against what is there, or lose against each other.
func changeOf(t *testing.T, s store.Store, i int, taken store.Revision) error {
	switch i % 3 {
	case 0:
		key := fmt.Sprintf("batch/new/%d", i)
		rev, err := s.Put(t.Context(), key, []byte("x"), 0)
		if e, got := s.Get(t.Context(), key); err != nil || got != nil || e.Revision != rev {
			return fmt.Errorf("put of %s: %d, %v; it is at %d, %v", key, rev, err, e.Revision, got)
		}
		return nil
	case 1:
		if _, err := s.Put(t.Context(), "batch/taken", nil, taken+1000); !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("put at a wrong revision: %w", err)
		}
		return nil
	}
	if err := s.Delete(t.Context(), fmt.Sprintf("batch/absent/%d", i), 0); !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete of what is not there: %w", err)
	}
	return nil
}

// A request that lingers in the network and arrives after its sender has tried again must do nothing: the key is created,
// deleted, and must not come back.
func TestRequestThatArrivesLateIsLockedOut(t *testing.T) {
	t.Parallel()
	p := newProxy(t, pgtest.Shared(t).Addr)
	s := open(t, postgres.Config{URL: pgtest.Shared(t).URL(p.addr())})
	start := mustPut(t, s, "start", "", 0)
	p.arm("late", delayBeyond)
	rev := mustPut(t, s, "late", "v", 0)
	if err := s.Delete(t.Context(), "late", rev); err != nil {
		t.Fatal(err)
	}
	p.release()
	mustPut(t, s, "after", "", 0)
	awaitIdle(t, s.Schema())
	if _, err := s.Get(t.Context(), "late"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of the key that a late request creates again: %v", err)
	}
	wantChanges(t, s, "late", start, "put v", "delete")
}

// A session that was idle for so long that its row was swept makes a new one.
func TestForgottenSessionIsReplaced(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{})
	rev := mustPut(t, s, "a", "1", 0)
	execute(t, pgtest.Shared(t).URL(), "DELETE FROM "+s.Schema()+".writers")
	rev = mustPut(t, s, "a", "2", rev)
	wantEntry(t, s, "a", "2", rev)
}

// awaitIdle returns when no session of the database is at work, other than the one that asks.
func awaitIdle(t *testing.T, schema string) {
	execute(t, pgtest.Shared(t).URL(), fmt.Sprintf(`DO $$ BEGIN
		FOR i IN 1..500 LOOP
			EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%%s%%' AND pid <> pg_backend_pid());
			PERFORM pg_sleep(0.01);
			PERFORM pg_stat_clear_snapshot();
		END LOOP; END $$`, schema))
}

// Nobody is told that a change did not happen while that is not known.
func TestCallThatEndsInDoubtSaysSo(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t)
	s := open(t, postgres.Config{URL: server.URL(), Patience: 1500 * time.Millisecond})
	rev := mustPut(t, s, "a", "1", 0)
	server.Pause()
	_, err := s.Put(t.Context(), "a", []byte("2"), rev)
	if !errors.Is(err, postgres.ErrUnavailable) || !strings.Contains(err.Error(), "may have happened") {
		t.Errorf("Put to a server that does not answer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Delete(ctx, "b", 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Delete with a deadline: %v", err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, postgres.ErrUnavailable) {
		t.Errorf("Get from a server that does not answer: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Healthy(ctx); err == nil {
		t.Error("a store is healthy whose server does not answer")
	}
	server.Resume()
	awaitHealthy(t, s)
	if err = replace(t, s, "3"); errors.Is(err, store.ErrConflict) { // the change in doubt happened just now, which it does once
		err = replace(t, s, "3")
	}
	if err != nil {
		t.Errorf("Put once the server answers again: %v", err)
	}
	closeWhileStalled(t, s, server)
}

// replace replaces what is there, which is "1" or "2".
func replace(t *testing.T, s *postgres.Store, value string) error {
	t.Helper()
	e, err := s.Get(t.Context(), "a")
	if err != nil || string(e.Value) != "1" && string(e.Value) != "2" {
		t.Fatalf("Get gives %q, %v", e.Value, err)
	}
	_, err = s.Put(t.Context(), "a", []byte(value), e.Revision)
	return err
}

// closeWhileStalled closes a store whose server does not answer, amid a Put: Close ends, and so does the Put.
func closeWhileStalled(t *testing.T, s *postgres.Store, server *pgtest.Server) {
	server.Pause()
	defer server.Resume()
	ended := make(chan error)
	go func() {
		_, err := s.Put(context.Background(), "closing", nil, 0)
		ended <- err
	}()
	s.AwaitSent()
	started := time.Now()
	if err := s.Close(); err != nil || time.Since(started) > 30*time.Second {
		t.Errorf("Close takes %v, %v", time.Since(started), err)
	}
	if err := <-ended; !errors.Is(err, store.ErrClosed) && !errors.Is(err, postgres.ErrUnavailable) {
		t.Errorf("Put that Close ends: %v", err)
	}
}

func awaitHealthy(t *testing.T, s *postgres.Store) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s.Healthy(t.Context()) == nil {
			return
		}
	}
	t.Fatal("the store does not become healthy")
}

func wantEntry(t *testing.T, s store.Store, key, value string, rev store.Revision) {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil || string(e.Value) != value || e.Revision != rev {
		t.Fatalf("Get of %s gives %q at %d, %v, want %q at %d", key, e.Value, e.Revision, err, value, rev)
	}
}

// wantChanges checks all that ever happened to a key.
func wantChanges(t *testing.T, s store.Store, key string, after store.Revision, want ...string) {
	t.Helper()
	end := mustPut(t, s, key+"-end", "", 0)
	var got []string
	for ev, err := range s.Watch(t.Context(), key, after) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Entry.Revision == end {
			break
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s", ev.Op, ev.Entry.Value)))
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("%s changed by %q, want %q", key, got, want)
	}
}
