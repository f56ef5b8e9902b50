package task

import (
	"cmp"
	"context"
	"encoding/base64"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// Filter says which tasks are meant: those that agree with everything that is set. The zero Filter means
// all of them.
type Filter struct {
	Statuses     []Status // in one of them
	DeadLetters  bool     // dead letters alone
	Kinds        []string // of one of them
	Submitter    identity.ID
	Claimant     identity.ID       // who holds it, or held it when it ended
	Pool         string            // routed to that pool
	Topics       []message.Pattern // with a topic that one of them matches
	Capabilities []string          // that ask for all of these

	// Instants by [Manager.Now], each from a moment on and up to before another.
	CreatedFrom, CreatedBefore time.Time
	UpdatedFrom, UpdatedBefore time.Time
}

// Matches reports whether a task is meant.
func (f *Filter) Matches(t Task) bool { return f.matches(&t) }

func (f *Filter) matches(t *Task) bool {
	return oneOf(f.Statuses, t.Status) && oneOf(f.Kinds, t.Kind) && (!f.DeadLetters || t.DeadLetter) &&
		f.matchesAgents(t) && f.matchesRouting(&t.Spec) &&
		within(t.CreatedAt, f.CreatedFrom, f.CreatedBefore) && within(t.UpdatedAt, f.UpdatedFrom, f.UpdatedBefore)
}

func (f *Filter) matchesAgents(t *Task) bool {
	return (f.Submitter.IsZero() || f.Submitter == t.Submitter) && (f.Claimant.IsZero() || f.Claimant == t.Claimant)
}

func (f *Filter) matchesRouting(s *Spec) bool {
	onTopic := len(f.Topics) == 0 || !s.Topic.IsZero() &&
		slices.ContainsFunc(f.Topics, func(p message.Pattern) bool { return p.Matches(s.Topic) })
	lacking := func(c string) bool { return !slices.Contains(s.Capabilities, c) }
	return onTopic && (f.Pool == "" || f.Pool == s.Pool) && !slices.ContainsFunc(f.Capabilities, lacking)
}

func oneOf[T comparable](set []T, v T) bool { return len(set) == 0 || slices.Contains(set, v) }

func within(t, from, before time.Time) bool {
	return !t.Before(from) && (before.IsZero() || t.Before(before))
}

// Bounds of a [Page].
const (
	DefaultPage  = 100     // tasks
	MaxPage      = 1000    // tasks
	maxPageBytes = 8 << 20 // of tasks, beyond which a page gets no more of them
	maxPageReads = 10000   // records that are looked at for a page
)

// Page is a part of a list of tasks.
type Page struct {
	Tasks []Task
	Next  string // what List is given for the page that follows; "" if there is none
}

// List returns a page of the tasks that a filter means, in the order of their IDs as the store keeps
// them: up to limit of them, 0 meaning [DefaultPage] and more than [MaxPage] meaning that. after is the
// Next of the page before, "" for the first one. A page looks at ten thousand records at most, so it may
// have fewer tasks, and even none, though others follow: Next tells. Pages are not of one moment; a task
// that is there all the time is on exactly one of them. Records that cannot be read are left out, logged
// and counted.
func (m *Manager) List(ctx context.Context, f Filter, limit int, after string) (Page, error) {
	key, err := parseCursor(after)
	if err != nil {
		return Page{}, taskError("list from", "", err)
	}
	limit = min(cmp.Or(limit, DefaultPage), MaxPage)
	if limit < 0 {
		return Page{}, taskError("list from", "", invalid("the limit is %d", limit))
	}
	var p Page
	reads, size := 0, 0
	for e, err := range store.ListAfter(ctx, m.store, keyPrefix, key) {
		if err != nil {
			return Page{}, taskError("list from", "", err)
		}
		if len(p.Tasks) == limit || reads == maxPageReads || size > maxPageBytes {
			p.Next = cursorText(key)
			break
		}
		reads, key = reads+1, e.Key
		if r := m.decode(e); r != nil && r.isMeant(&f) {
			p.Tasks = append(p.Tasks, r.copy())
			size += len(e.Value)
		}
	}
	return p, nil
}

func (r *record) isMeant(f *Filter) bool {
	t := r.task()
	return f.matches(&t)
}

// A cursor is the last key that has been looked at.
func cursorText(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

func parseCursor(text string) (key string, err error) {
	if text == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if key = string(b); err != nil || !strings.HasPrefix(key, keyPrefix) || store.CheckKey(key) != nil {
		return "", invalid("%.80q is not the Next of a page", text)
	}
	return key, nil
}

// Change is one step of a [Manager.Watch].
type Change struct {
	Task     Task           // as it is now; of one that is gone, only the ID
	Gone     bool           // it has been deleted: its Retention is over
	Synced   bool           // nothing of the above: all that there was at the beginning has been told
	Revision store.Revision // how far the watch has come, to begin there another time
}

// Watch yields the tasks that a filter means whenever one of them has changed, by whomever.
//
// With after 0 it yields those that there are, one Change with Synced set, and then each change that
// follows, in order. With the Revision of an earlier Change it goes on after that one; if the store no
// longer knows what came after it, the error is [store.ErrCompacted], and the caller begins anew.
//
// What a filter means can change with a task: who wants to learn when a task leaves a status must not
// filter by it. Whose deletion is told, nobody can tell, so that is told of all of them. Tasks that
// become ready with time do not change by that.
//
// The sequence ends when the loop breaks, or with one error: the context's cause, or one of the store's.
// It may be used by many at once; each follows the store for itself.
func (m *Manager) Watch(ctx context.Context, f Filter, after store.Revision) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for ev, err := range m.store.Watch(ctx, keyPrefix, after) {
			if err != nil {
				yield(Change{}, taskError("watch", "", err))
				return
			}
			if c, ok := m.changeOf(ev, &f); ok && !yield(c, nil) {
				return
			}
		}
	}
}

func (m *Manager) changeOf(ev store.Event, f *Filter) (c Change, ok bool) {
	c.Revision = ev.Entry.Revision
	switch ev.Op {
	case store.OpSynced:
		c.Synced = true
		return c, true
	case store.OpDelete:
		id, err := idOf(ev.Entry.Key)
		c.Task.ID, c.Gone = id, true
		return c, err == nil
	}
	r := m.decode(ev.Entry)
	if r == nil || !r.isMeant(f) {
		return c, false
	}
	c.Task = r.copy()
	return c, true
}
