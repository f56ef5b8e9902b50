package task

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/converge-agents/converge/store"
)

// listener is one who is attached.
type listener struct{ fn func(Task) }

// Attach has fn called whenever a task changes, by whomever, until detach is called. The calls come from
// one goroutine, one after the other: fn must not block, must not call Attach or detach, and must not
// change what the task's slices hold, which it shares with others who are attached. It is there to wake
// somebody up.
//
// After Attach returns, every change is told that comes later; where several follow each other closely,
// only the last may be. Tasks that have not changed may be told too. When detach returns, fn is not
// running and is not called again; detaching twice is fine.
//
// The first Attach reads the tasks of the store, and returns when that is done or has gone wrong, which
// is logged and tried again. While somebody is attached, the manager runs two goroutines: one follows
// the store, the other sleeps until something is due and then releases expired claims and fails tasks
// at their deadline. The last detach stops them and waits for them.
func (m *Manager) Attach(fn func(Task)) (detach func()) {
	m.life.Lock()
	defer m.life.Unlock()
	l := &listener{fn}
	if m.listen(l) == 1 {
		m.start()
	}
	return sync.OnceFunc(func() {
		m.life.Lock()
		defer m.life.Unlock()
		if m.unlisten(l) == 0 {
			m.stop()
			m.running.Wait()
		}
	})
}

func (m *Manager) listen(l *listener) int {
	m.deliver.Lock()
	defer m.deliver.Unlock()
	m.listeners = append(m.listeners, l)
	return len(m.listeners)
}

func (m *Manager) unlisten(l *listener) int {
	m.deliver.Lock()
	defer m.deliver.Unlock()
	m.listeners = slices.DeleteFunc(m.listeners, func(other *listener) bool { return other == l })
	return len(m.listeners)
}

// tell tells all listeners of a task.
func (m *Manager) tell(r *record) {
	t := r.task()
	m.deliver.Lock()
	defer m.deliver.Unlock()
	for _, l := range m.listeners {
		l.fn(t)
	}
}

func (m *Manager) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	f := follower{m: m, started: make(chan struct{})}
	m.running.Go(func() { f.run(ctx) })
	m.running.Go(func() { m.expireDue(ctx) })
	<-f.started
}

// follower keeps a manager's index in step with the store.
type follower struct {
	m       *Manager
	started chan struct{} // closed when the first attempt to read the store has ended
	pause   pause

	at   store.Revision // how far the store has been followed; 0 to read it afresh
	told store.Revision // how far listeners have been told
}

// run follows the store until ctx is done or the store is closed.
func (f *follower) run(ctx context.Context) {
	defer f.m.setIndex(nil)
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.m.logger.Warn("tasks can no longer be followed", "error", err)
		f.begin()
		if errors.Is(err, store.ErrClosed) {
			return
		}
		if errors.Is(err, store.ErrCompacted) {
			f.at = 0
		}
		if !f.pause.wait(ctx) {
			return
		}
	}
}

// begin lets Attach return, if it has not.
func (f *follower) begin() {
	if f.waitedFor() {
		close(f.started)
	}
}

// waitedFor tells whether Attach waits for the first attempt to read the store.
func (f *follower) waitedFor() bool {
	select {
	case <-f.started:
		return false
	default:
		return true
	}
}

// follow returns the error that ends the watch.
func (f *follower) follow(ctx context.Context) error {
	var afresh *index
	if f.at == 0 {
		afresh = newIndex()
	}
	for ev, err := range f.m.store.Watch(ctx, keyPrefix, f.at) {
		switch {
		case err != nil:
			return err
		case ev.Op == store.OpSynced:
			f.publish(afresh, ev.Entry.Revision)
			afresh = nil
		case afresh != nil:
			f.load(afresh, ev.Entry)
		default:
			f.apply(ev)
		}
	}
	return errors.New("the watch of the store has ended")
}

// load takes in an entry of the snapshot. Tasks that have not ended are told when they can be found.
func (f *follower) load(x *index, e store.Entry) {
	r := f.m.decode(e)
	if r == nil {
		return
	}
	if !r.status.Terminal() {
		x.put(r)
	} else if f.isNews(r) {
		f.m.tell(r)
	}
}

// isNews leaves out what there was when Attach returned, and what has been told already.
func (f *follower) isNews(r *record) bool { return !f.waitedFor() && r.revision > f.told }

// publish puts a complete index in place.
func (f *follower) publish(x *index, at store.Revision) {
	x.seen = at
	var news []*record
	for _, r := range x.known {
		if f.isNews(r.record) {
			news = append(news, r.record)
		}
	}
	f.m.setIndex(x)
	f.at, f.told, f.pause = at, at, 0
	f.begin()
	for _, r := range news {
		f.m.tell(r)
	}
}

func (m *Manager) setIndex(x *index) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = x
	if x != nil {
		m.checkAlarm()
	}
}

// apply takes in a change. Most of those that this program made are known already, and need no decoding.
func (f *follower) apply(ev store.Event) {
	f.at, f.told, f.pause = ev.Entry.Revision, ev.Entry.Revision, 0
	id, err := idOf(ev.Entry.Key)
	r, known := f.m.pass(id, ev.Entry.Revision)
	if !known {
		if err == nil && ev.Op == store.OpPut {
			r = f.m.decode(ev.Entry)
		}
		f.m.settle(id, r)
	}
	if r != nil {
		f.m.tell(r)
	}
}

// pass notes how far the watch has come. If the index knows the task as of that change or a later one,
// it says so; r is the record if it is of that very change, and otherwise the watch has yet to come to it.
func (m *Manager) pass(id string, at store.Revision) (r *record, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index.seen = at
	k := m.index.known[id]
	switch {
	case k == nil || k.revision < at:
		return nil, false
	case k.revision > at:
		return nil, true
	case k.status.Terminal():
		m.index.drop(k.record)
	}
	return k.record, true
}

// settle brings the index up to a change that it did not know, r being nil if it left no readable record.
func (m *Manager) settle(id string, r *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r != nil && !r.status.Terminal() {
		m.index.put(r)
	} else if k := m.index.known[id]; k != nil && k.revision <= m.index.seen {
		m.index.drop(k.record)
	}
	m.checkAlarm()
}
