package task

import (
	"container/heap"
	"math/bits"
	"strings"
	"sync/atomic"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// index knows the tasks that have not ended: which are pending, for whom, and when which one is due. All its methods
// are safe for concurrent use, unless they say that they want it locked.
//
// A change is entered in the book, which notes it as a move. Those who want to know of an order lock the rankings and have them
// take in the moves first; so with the moves, the rankings are what the book is.
type index struct {
	book *book // one that has ended rests here until the watch has passed it

	mu     brief.Mutex // for what follows. It comes before that of a page.
	_      [56]byte    // see brief.Mutex
	groups map[route]*group
	shelf  map[anchor]map[*group]bool
	size   int          // pending tasks
	due    ranking      // what expires
	asleep ranking      // pending tasks that are in no group, since they wait to be ready
	spare  moves        // empty
	count  atomic.Int64 // the size, which may be read without
}

// group holds the pending tasks of one kind and routing, by priority and then age.
type group struct {
	routing Spec // and nothing else
	anchors []anchor
	pending ranking
}

// anchor is one thing that a group asks of a profile. Each group is shelved under what sifts best, and
// a lookup opens only the shelves of what the profile has; so it never meets groups that ask for other
// capabilities.
type anchor struct {
	kind byte
	name string
}

const (
	anyone       = 'a' // groups that ask for nothing
	byCapability = 'c' // by the first capability
	byPool       = 'p' // without capabilities: by the pool
	byNamespace  = 'n' // with a topic alone: by its namespace, and
	byTopic      = 't' // once more all of them together, for patterns with wildcards
)

func newIndex() *index {
	return &index{book: newBook(), groups: map[route]*group{}, shelf: map[anchor]map[*group]bool{}}
}

// put takes in a record if it is news.
func (x *index) put(r *record) { x.limit(x.book.put(r)) }

// restore takes in a record that is older than what has been seen, unless there is one of its task.
func (x *index) restore(r *record) bool {
	noted, ok := x.book.restore(r)
	x.limit(noted)
	return ok
}

// remove forgets a record unless it has been replaced.
func (x *index) remove(r *record) { x.limit(x.book.remove(r)) }

// removeUpTo forgets the record of a task unless it is newer, and returns it; nil if there is none.
func (x *index) removeUpTo(id string, at store.Revision) *record {
	r, noted := x.book.removeUpTo(id, at)
	x.limit(noted)
	return r
}

// limit takes in all moves if there are enough on a page: those of all pages, since they are about neighbours in the
// rankings, and soon, while the cache still has the records.
func (x *index) limit(noted backlog) {
	if noted < enoughMoves {
		return
	}
	if noted >= mostMoves {
		x.mu.Lock()
	} else if !x.mu.TryLock() {
		return
	}
	defer x.mu.Unlock()
	x.takeAll()
}

// lock locks the rankings as they are after all that has been entered in the book.
func (x *index) lock() {
	x.mu.Lock()
	x.takeAll()
}

// takeAll takes in the moves of all pages. It wants the index locked.
func (x *index) takeAll() {
	for moved := x.book.moved.Load(); moved != 0; moved &= moved - 1 {
		x.take(bits.TrailingZeros64(moved))
	}
}

// take takes in the moves of a page. It wants the index locked.
func (x *index) take(number int) {
	taken := x.book.takeMoves(number, x.spare)
	for _, m := range taken {
		if m.from != nil {
			x.unlist(m.from)
		}
		if m.to != nil {
			x.list(m.to)
		}
	}
	clear(taken)
	x.spare = taken[:0]
	x.count.Store(int64(x.size))
}

// holds tells whether there are at least so many pending tasks.
func (x *index) holds(n int) bool {
	if x.count.Load()+pages*mostMoves < int64(n) {
		return false // whatever has been entered since
	}
	x.lock()
	defer x.mu.Unlock()
	return x.size >= n
}

// list enters a record in the rankings. It wants the index locked, as those do that follow.
func (x *index) list(r *record) {
	if at := r.due(); at != 0 {
		x.due.add(ranked{major: at, rec: r})
	}
	if r.status != Pending {
		return
	}
	x.size++
	if r.ready != 0 {
		x.asleep.add(ranked{major: r.ready, rec: r})
	} else {
		x.show(r)
	}
}

func (x *index) show(r *record) {
	g := x.groups[r.route]
	if g == nil {
		g = x.open(r)
	}
	g.pending.add(pendingRank(r))
}

// waken shows the tasks that are ready, and returns them.
func (x *index) waken(now int64) (ready []*record) {
	x.lock()
	defer x.mu.Unlock()
	for x.asleep.size > 0 && x.asleep.first() <= now {
		first := *x.asleep.head()
		x.asleep.remove(first)
		x.show(first.rec)
		ready = append(ready, first.rec)
	}
	return ready
}

// firstDue returns when the first thing has to be done; 0 means never.
func (x *index) firstDue() int64 {
	x.lock()
	defer x.mu.Unlock()
	due, ready := x.due.first(), x.asleep.first()
	if due == 0 || ready != 0 && ready < due {
		return ready
	}
	return due
}

func (x *index) unlist(r *record) {
	if at := r.due(); at != 0 {
		x.due.remove(ranked{major: at, rec: r})
	}
	if r.status != Pending {
		return
	}
	x.size--
	if r.ready != 0 && x.asleep.remove(ranked{major: r.ready, rec: r}) {
		return
	}
	g := x.groups[r.route]
	g.pending.remove(pendingRank(r))
	if g.pending.size == 0 {
		x.close(g, r.route)
	}
}

// pendingRank puts high priorities first. The complement turns the order round without overflow.
func pendingRank(r *record) ranked {
	return ranked{major: ^int64(r.spec.Priority), minor: r.created, rec: r}
}

func (x *index) open(r *record) *group {
	s := &r.spec
	g := &group{routing: Spec{Kind: s.Kind, Capabilities: s.Capabilities, Topic: s.Topic, Pool: s.Pool}, anchors: anchorsOf(s)}
	x.groups[r.route] = g
	for _, a := range g.anchors {
		if x.shelf[a] == nil {
			x.shelf[a] = map[*group]bool{}
		}
		x.shelf[a][g] = true
	}
	return g
}

func (x *index) close(g *group, of route) {
	delete(x.groups, of)
	for _, a := range g.anchors {
		if delete(x.shelf[a], g); len(x.shelf[a]) == 0 {
			delete(x.shelf, a)
		}
	}
}

func anchorsOf(s *Spec) []anchor {
	switch {
	case len(s.Capabilities) > 0:
		return []anchor{{byCapability, s.Capabilities[0]}}
	case s.Pool != "":
		return []anchor{{byPool, s.Pool}}
	case !s.Topic.IsZero():
		return []anchor{{byNamespace, s.Topic.Namespace()}, {kind: byTopic}}
	}
	return []anchor{{kind: anyone}}
}

// anchors returns the shelves that hold everything the profile sees, none twice.
func (p *Profile) anchors() map[anchor]bool {
	set := map[anchor]bool{{kind: anyone}: true}
	for _, c := range p.Capabilities {
		set[anchor{byCapability, c}] = true
	}
	for _, pool := range p.Pools {
		set[anchor{byPool, pool}] = true
	}
	for _, pattern := range p.Topics {
		set[anchorOf(pattern)] = true
	}
	if set[anchor{kind: byTopic}] { // which holds what is by namespace too
		for _, pattern := range p.Topics {
			if a := anchorOf(pattern); a.kind == byNamespace {
				delete(set, a)
			}
		}
	}
	return set
}

func anchorOf(pattern message.Pattern) anchor {
	namespace := pattern.String()
	if end := strings.IndexAny(namespace, "@?"); end >= 0 {
		namespace = namespace[:end]
	}
	if strings.ContainsAny(namespace, "*>") {
		return anchor{kind: byTopic}
	}
	return anchor{byNamespace, namespace}
}

// visible returns the first pending tasks that the profile sees and whose deadline is to come.
func (x *index) visible(p *Profile, limit int, now int64) []*record {
	var found []*record
	x.lock()
	defer x.mu.Unlock()
	heads := x.heads(p)
	for len(heads) > 0 && len(found) < limit {
		if r := heads[0].rec; !r.overdue(now) {
			found = append(found, r)
		}
		if heads[0].next() {
			heap.Fix(&heads, 0)
		} else {
			heap.Pop(&heads)
		}
	}
	return found
}

// dueBy returns the records of which something is due at that time, the earliest first.
func (x *index) dueBy(now int64) []*record {
	var due []*record
	x.lock()
	defer x.mu.Unlock()
	if x.due.size == 0 {
		return nil
	}
	for c, more := newCursor(&x.due), true; more && c.major <= now; more = c.next() {
		due = append(due, c.rec)
	}
	return due
}

// heads returns a cursor into each group that the profile sees, as a heap. It wants the index locked.
func (x *index) heads(p *Profile) cursors {
	var heads cursors
	for a := range p.anchors() {
		for g := range x.shelf[a] {
			if p.sees(&g.routing) {
				heads = append(heads, newCursor(&g.pending))
			}
		}
	}
	heap.Init(&heads)
	return heads
}

// cursors is a heap for the merge of groups.
type cursors []*cursor

func (c cursors) Len() int           { return len(c) }
func (c cursors) Less(i, j int) bool { return c[i].before(&c[j].ranked) }
func (c cursors) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *cursors) Push(x any)        { *c = append(*c, x.(*cursor)) }
func (c *cursors) Pop() any {
	last := len(*c) - 1
	popped := (*c)[last]
	*c = (*c)[:last]
	return popped
}
