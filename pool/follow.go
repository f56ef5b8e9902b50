package pool

import (
	"context"
	"errors"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// Change says what has changed: the pool itself, or a member of it.
type Change struct {
	Pool   string
	Member identity.ID // zero if the pool itself has changed: any member may have come or gone
}

// Attach has fn called whenever a pool or a membership changes, by whomever, until detach is called. It may be
// told of changes that make no difference. fn must not block, and must not call Attach or detach; it may ask
// the manager what is now. When detach returns, fn is not running and is not called again; detaching twice is
// fine.
//
// The first Attach reads the pools of the store, and returns when that is done or has gone wrong, which is
// logged and tried again. While somebody is attached, the manager runs one goroutine, which follows the store;
// the last detach stops it and waits for it.
func (m *Manager) Attach(fn func(Change)) (detach func()) {
	return m.listeners.Attach(fn, m.start, m.halt)
}

func (m *Manager) halt() {
	m.stop()
	m.running.Wait()
	m.setAttached(false)
	m.health.forget()
}

func (m *Manager) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	m.setAttached(true)
	f := follower{m: m, started: make(chan struct{})}
	m.running.Go(func() { f.run(ctx) })
	<-f.started
}

func (m *Manager) setAttached(attached bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached, m.following = attached, false
}

// nextPass numbers the passes over the store.
func (m *Manager) nextPass() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passes++
	return m.passes
}

// follower keeps what a manager knows in step with the store.
type follower struct {
	m       *Manager
	started chan struct{} // closed when the first attempt to read the store has ended
	at      store.Revision
	pause   time.Duration
}

// Pauses between attempts to follow a store that fails.
const (
	minPause = 50 * time.Millisecond
	maxPause = 10 * time.Second
)

// run follows the store until ctx is done or the store is closed.
func (f *follower) run(ctx context.Context) {
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.m.health.fail(err)
		f.m.log.Warn("pools can no longer be followed", "error", err)
		f.begin()
		if errors.Is(err, store.ErrClosed) {
			return
		}
		if errors.Is(err, store.ErrCompacted) {
			f.at = 0
		}
		if !f.wait(ctx) {
			return
		}
	}
}

func (f *follower) begin() {
	select {
	case <-f.started:
	default:
		close(f.started)
	}
}

// wait returns false when ctx is done.
func (f *follower) wait(ctx context.Context) bool {
	f.pause = min(max(2*f.pause, minPause), maxPause)
	return sleep.For(ctx, f.pause) == nil
}

// follow returns the error that ends the watch.
func (f *follower) follow(ctx context.Context) error {
	generation := f.m.nextPass()
	defer f.m.health.confirmSoon()()
	for ev, err := range f.m.store.Watch(ctx, f.m.prefix, f.at) {
		switch {
		case err != nil:
			return err
		case ev.Op == store.OpSynced:
			f.synced(generation, ev.Entry.Revision)
		case ev.Op == store.OpDelete:
			f.remove(ev.Entry)
		default:
			f.put(ev.Entry, generation)
		}
		if f.at != 0 || ev.Op == store.OpSynced {
			f.at, f.pause = ev.Entry.Revision, 0
		}
	}
	return errors.New("the watch of the store has ended")
}

func (f *follower) put(e store.Entry, generation uint64) {
	if c, changed := f.m.take(e, generation); changed {
		f.m.listeners.Tell(c)
	}
}

func (f *follower) remove(e store.Entry) {
	name, member, err := f.m.place(e.Key)
	if err != nil {
		return
	}
	f.m.mu.Lock()
	changed := f.m.state.vanish(name, member, e.Revision)
	f.m.mu.Unlock()
	if changed {
		f.m.listeners.Tell(Change{name, member})
	}
}

// synced takes in that the whole store has been seen.
func (f *follower) synced(generation uint64, at store.Revision) {
	f.m.mu.Lock()
	changed := f.m.state.vanishUnseen(generation, at)
	f.m.following = true
	f.m.mu.Unlock()
	for _, name := range changed {
		f.m.listeners.Tell(Change{Pool: name})
	}
	f.begin()
}
