package natskv_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

// load is racers that count up in shared counters, each through a store of its own, while watchers follow.
type load struct {
	t       *testing.T
	stores  []*natskv.Store
	stopped atomic.Bool
	racing  sync.WaitGroup

	mu       sync.Mutex
	winners  map[store.Revision]string // who made a change, by the revision that was acknowledged
	acked    map[string][]byte         // what was acknowledged last in entries that one racer owns
	doubtful map[string][][]byte       // what may have been written there since
	changes  atomic.Int64
	doubts   atomic.Int64
}

const counters = 3

func startLoad(t *testing.T, stores ...*natskv.Store) *load {
	l := &load{t: t, stores: stores, winners: map[store.Revision]string{}, acked: map[string][]byte{}, doubtful: map[string][][]byte{}}
	for i, s := range stores {
		for j := range 2 {
			l.racing.Go(func() { l.race(s, fmt.Sprint("racer-", i, "-", j)) })
		}
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	l.stopped.Store(true)
	l.racing.Wait()
}

// wait waits for a number of further acknowledged changes.
func (l *load) wait(changes int64) {
	l.t.Helper()
	goal := l.changes.Load() + changes
	until(l.t, fmt.Sprintf("%d further changes", changes), func() bool { return l.changes.Load() >= goal })
}

// race changes a shared counter and an entry of its own in turn.
func (l *load) race(s *natskv.Store, name string) {
	ctx := context.WithoutCancel(l.t.Context())
	own := "own/" + name
	var rev store.Revision
	for i := 0; !l.stopped.Load(); i++ {
		l.count(ctx, s, name, fmt.Sprint("counter/", i%counters))
		rev = l.write(ctx, s, own, fmt.Append(nil, i), rev)
	}
}

// count replaces a counter's value by the racer's name and the revision that it replaces.
func (l *load) count(ctx context.Context, s *natskv.Store, name, key string) {
	e, err := s.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return
	}
	rev, err := s.Put(ctx, key, fmt.Appendf(nil, "%s %d", name, e.Revision), e.Revision)
	if err != nil {
		return
	}
	l.changes.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, twice := l.winners[rev]; twice {
		l.t.Errorf("%s and %s both won revision %d of %s", other, name, rev, key)
	}
	l.winners[rev] = fmt.Sprintf("%s %d", name, e.Revision)
}

// write changes an entry that nobody else writes: a conflict means that an earlier attempt of its own was lost or
// hidden.
func (l *load) write(ctx context.Context, s *natskv.Store, key string, value []byte, rev store.Revision) store.Revision {
	written, err := s.Put(ctx, key, value, rev)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked[key], l.doubtful[key] = value, nil
		l.changes.Add(1)
		return written
	case errors.Is(err, natskv.ErrInDoubt):
		l.doubts.Add(1)
		l.doubtful[key] = append(l.doubtful[key], value)
	case errors.Is(err, store.ErrConflict) && len(l.doubtful[key]) == 0:
		l.t.Errorf("Put of %s at %d, which nobody else writes: %v", key, rev, err)
	}
	if e, err := s.Get(ctx, key); err == nil {
		return e.Revision
	}
	return rev
}

// check reads what was acknowledged with a store, and what a watcher has seen.
func (l *load) check(s *natskv.Store, seen *history) {
	l.t.Helper()
	l.stop()
	for key, want := range l.acked {
		e, err := s.Get(l.t.Context(), key)
		fits := string(e.Value) == string(want)
		for _, value := range l.doubtful[key] {
			fits = fits || string(e.Value) == string(value)
		}
		if err != nil || !fits {
			l.t.Errorf("%s is %q, %v; acknowledged was %q, in doubt are %q", key, e.Value, err, want, l.doubtful[key])
		}
	}
	end := mustPut(l.t, s, "end", "", 0)
	until(l.t, "the watcher is through", func() bool { return seen.at() >= end })
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for rev, value := range l.winners {
		if seen.values[rev] != value {
			l.t.Errorf("the acknowledged change %d, %q, was watched as %q", rev, value, seen.values[rev])
		}
	}
	seen.checkWinners(l.t)
}

// history is what a watcher saw.
type history struct {
	mu     sync.Mutex
	last   store.Revision
	values map[store.Revision]string
}

// watchAll follows all changes from the start; where that is not possible it begins again, and counts it.
func watchAll(t *testing.T, s *natskv.Store) *history {
	h := &history{values: map[store.Revision]string{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var following sync.WaitGroup
	following.Go(func() {
		for ctx.Err() == nil {
			h.follow(ctx, t, s)
		}
	})
	t.Cleanup(func() { cancel(); following.Wait() })
	until(t, "the watcher is synced", func() bool { return h.at() > 0 })
	return h
}

func (h *history) follow(ctx context.Context, t *testing.T, s *natskv.Store) {
	live := false
	for ev, err := range s.Watch(ctx, "", h.at()) {
		if err != nil {
			if !errors.Is(err, natskv.ErrUnavailable) && ctx.Err() == nil {
				t.Errorf("Watch from %d ends with %v", h.at(), err)
				h.begin()
			}
			return
		}
		h.add(t, ev, live || h.at() > 0)
		live = live || ev.Op == store.OpSynced
	}
}

func (h *history) add(t *testing.T, ev store.Event, live bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if live && ev.Op != store.OpSynced && ev.Entry.Revision <= h.last {
		t.Errorf("the change %d is watched after %d", ev.Entry.Revision, h.last)
	}
	h.values[ev.Entry.Revision] = string(ev.Entry.Value)
	if live || ev.Op == store.OpSynced {
		h.last = ev.Entry.Revision
	}
}

// checkWinners checks that of all changes of the counters, acknowledged or not, no two replaced the same.
func (h *history) checkWinners(t *testing.T) {
	t.Helper()
	winners := map[string]store.Revision{}
	for rev, value := range h.values {
		_, replaced, isCounter := strings.Cut(value, " ")
		if !isCounter || replaced == "0" { // the first of each
			continue
		}
		if other, twice := winners[replaced]; twice {
			t.Errorf("the changes %d and %d both replaced %s", other, rev, replaced)
		}
		winners[replaced] = rev
	}
	if len(winners) == 0 {
		t.Error("no change of a counter was watched")
	}
}

func (h *history) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = 0
}

func (h *history) at() store.Revision {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

func TestStoresRaceOnOneBucket(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	var stores []*natskv.Store
	for range 3 {
		stores = append(stores, b.open(t, natskv.Config{Bucket: bucket, History: 1 << 16}))
	}
	seen := watchAll(t, stores[2])
	l := startLoad(t, stores[:2]...)
	l.wait(300)
	l.check(stores[2], seen)
}

func TestServerRestartUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{SyncAlways: true})
	bucket := newBucket()
	var stores []*natskv.Store
	for range 3 {
		stores = append(stores, b.open(t, natskv.Config{Bucket: bucket, History: 1 << 16}))
	}
	seen := watchAll(t, stores[2])
	l := startLoad(t, stores[:2]...)
	for range 2 {
		l.wait(50)
		b.stop()
		b.start(t)
	}
	l.wait(50)
	l.check(stores[2], seen)
}

func TestNodeOfClusterStopsUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	bucket := newBucket()
	var stores []*natskv.Store
	js := connect(t, c.url())
	for range 3 {
		stores = append(stores, open(t, natskv.Config{JetStream: connect(t, c.url()), Bucket: bucket, History: 1 << 16, Patience: patience}))
	}
	seen := watchAll(t, stores[2])
	l := startLoad(t, stores[:2]...)
	l.wait(30)
	stopped := c.leader(t, js, bucket)
	stopped.stop()
	l.wait(30)
	stopped.start(t)
	l.wait(30)
	l.check(stores[2], seen)
}
