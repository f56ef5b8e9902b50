package task

import (
	"context"
	"errors"

	"github.com/converge-agents/converge/store"
)

// Attach has fn called whenever a task changes, by whomever, and when one is ready that had to wait, until
// detach is called. The calls come one after the other: fn must not block, must not call Attach or detach, and must not
// change what the task's slices hold, which it shares with others who are attached. It is there to wake
// somebody up.
//
// After Attach returns, every change is told that comes later; where several follow each other closely,
// only the last may be. Tasks that have not changed may be told too. When detach returns, fn is not
// running and is not called again; detaching twice is fine.
//
// The first Attach reads the tasks of the store, and returns when that is done or has gone wrong, which
// is logged and tried again. While somebody is attached, the manager runs a few goroutines: one follows
// the store; one sleeps until something is due and then releases expired claims, fails tasks at their
// deadline and shows those that are ready; one deletes tasks that have ended long ago, if Config.Retention
// says so; and one looks at the store's clock, if it has one. The last detach stops them and waits for
// them.
func (m *Manager) Attach(fn func(Task)) (detach func()) {
	return m.listeners.Attach(fn, m.start, m.halt)
}

func (m *Manager) halt() {
	m.stop()
	m.running.Wait()
	m.health.set(&m.health.following, nil)
	m.health.set(&m.health.expiring, nil)
}

// tell tells all listeners of a task.
func (m *Manager) tell(r *record) {
	var one [1]Task
	r.showTo(&one[0])
	m.listeners.Tell(one[:]...)
}

// tellIf tells them if that is so when nobody else tells anything.
func (m *Manager) tellIf(r *record, so func() bool) { m.listeners.TellIf(so, r.task()) }

func (m *Manager) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	f := follower{m: m, started: make(chan struct{})}
	m.running.Go(func() { f.run(ctx) })
	m.running.Go(func() { m.expireDue(ctx) })
	if m.clock.store != nil {
		m.running.Go(func() { m.clock.keep(ctx, m.resetAlarm) })
	}
	if m.prunes() {
		m.running.Go(func() { m.prune(ctx) })
	}
	if m.verifier != nil {
		m.running.Go(func() { m.awaitKeys(ctx) })
	}
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
	defer f.m.dropIndex()
	for {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.m.health.set(&f.m.health.following, err)
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
	past := f.m.attic.newCollector()
	if f.at == 0 {
		afresh = newIndex()
	} else {
		confirming, cancel := context.WithCancel(ctx)
		defer cancel()
		f.m.running.Go(func() { f.m.confirm(confirming) })
	}
	for ev, err := range store.WatchText(ctx, f.m.store, keyPrefix, f.at) {
		switch {
		case err != nil:
			return err
		case ev.Op == store.OpSynced:
			f.publish(afresh, ev.Revision)
			f.m.attic.replace(past)
			afresh, past = nil, nil
		case afresh != nil:
			e := ev.Entry()
			f.m.collect(past, e)
			f.load(afresh, e)
		default:
			f.apply(ev)
		}
	}
	return errors.New("the watch of the store has ended")
}

// load takes in an entry of the snapshot. Tasks that have not ended are told when they can be found.
func (f *follower) load(x *index, e store.Entry) {
	if _, _, ended := peek(e.Value); ended && f.waitedFor() {
		return
	}
	r, known := f.known(e)
	if !known {
		r = f.m.decode(e)
	}
	if r == nil {
		return
	}
	if !r.status.Terminal() {
		x.put(r)
	} else if f.isNews(r) {
		f.m.tell(r)
	}
}

// known tells whether an entry of the snapshot says nothing that the index that is to be replaced does
// not. Where it is no newer than what has been told and the index does not have it, the task has ended,
// or could not be read then either.
func (f *follower) known(e store.Entry) (r *record, known bool) {
	id, _ := idOf(e.Key)
	if r = f.m.recall(id); r != nil && r.revision == e.Revision {
		return r, true
	}
	return nil, e.Revision <= f.told
}

// isNews leaves out what there was when Attach returned, and what has been told already.
func (f *follower) isNews(r *record) bool { return !f.waitedFor() && r.revision > f.told }

// publish puts a complete index in place.
func (f *follower) publish(x *index, at store.Revision) {
	x.book.see(at)
	var news []*record
	for r := range x.book.all() {
		if f.isNews(r) {
			news = append(news, r)
		}
	}
	f.m.replaceIndex(x)
	f.m.health.set(&f.m.health.following, nil)
	f.at, f.told, f.pause = at, at, 0
	f.begin()
	for _, r := range news {
		f.m.tell(r)
	}
}

// replaceIndex carries over what is newer than the snapshot that x was made of. Should somebody enter something in
// the old one meanwhile, the watch comes to it.
func (m *Manager) replaceIndex(x *index) {
	if old := m.index.Load(); old != nil {
		for r := range old.book.all() {
			x.put(r)
		}
	}
	x.waken(m.clock.now())
	m.index.Store(x)
	m.resetAlarm()
}

func (m *Manager) dropIndex() { m.index.Store(nil) }

// apply takes in a change. Most of those that this program made are known already, and need no decoding.
func (f *follower) apply(ev store.TextEvent) {
	at := ev.Revision
	f.at, f.told = at, at
	if f.pause != 0 {
		f.pause = 0
		f.m.health.set(&f.m.health.following, nil)
	}
	id, _ := idOf(ev.Key) // a key that is not that of a task gives none, and fails to decode
	r := f.own(id, ev)
	if r == nil {
		r = f.m.recall(id) // where its writer may have entered it meanwhile
	}
	if r != nil && r.revision > at {
		return // the watch has yet to come to what is known
	}
	if r != nil && r.revision == at {
		f.m.pass(r)
	} else {
		r = f.m.settle(id, ev)
	}
	if r != nil {
		f.m.tell(r)
	}
}

// own returns the record that a change has left if it is one that this program has under way, after that which
// it knows, or as the first of its task.
func (f *follower) own(id string, ev store.TextEvent) *record {
	known := f.m.recall(id)
	if known != nil && known.revision >= ev.Revision || ev.Op != store.OpPut {
		return nil
	}
	if known == nil {
		fresh, _ := f.m.fresh.Load(id)
		if known, _ = fresh.(*record); known == nil {
			return nil
		}
	}
	own := known.sent(ev)
	if own != nil {
		f.m.learn(own)
	}
	return own
}

// pass lets go of a task when its end, which was known, comes by.
func (m *Manager) pass(r *record) {
	if r.status.Terminal() {
		m.shelve(r)
		x := m.index.Load()
		x.book.see(r.revision)
		x.remove(r)
	}
}

// settle brings the index up to a change that it did not know, and returns the record that it left. If that
// cannot be read or believed, those who wait for the task learn that it is lost.
func (m *Manager) settle(id string, ev store.TextEvent) *record {
	var r *record
	if ev.Op == store.OpPut {
		r = m.decode(ev.Entry())
	}
	x := m.index.Load()
	if r != nil && !r.status.Terminal() {
		x.put(r)
		x.book.see(ev.Revision)
		m.checkAlarm(r)
		return r
	}
	if r != nil {
		m.shelve(r)
	}
	x.book.see(ev.Revision)
	old := x.removeUpTo(id, ev.Revision)
	if old != nil && r == nil && ev.Op == store.OpPut && !m.strangers.has(ev.Key) {
		r = old.lost(ev.Revision)
	}
	return r
}
