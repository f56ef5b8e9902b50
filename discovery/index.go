package discovery

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// agent is what is known of an agent: its latest descriptor and how that stands in the store.
type agent struct {
	Descriptor
	key  signerKey
	text string // lower case, see searchText

	revision   store.Revision // that has been verified
	listed     bool           // the store has shown it, and not that it is gone
	generation int            // the last pass over the store that saw it
	remembered time.Time      // when all descriptors that were seen have run out, so that none can be replayed
	due        time.Time      // when something of it runs out next
	place      int            // in the queue of what runs out
}

// newer reports whether a descriptor counts rather than the one that is known. An agent does not get back to
// an earlier key, whatever sequence that has signed.
func (a *agent) newer(d Descriptor, key signerKey) bool {
	return cmp.Or(cmp.Compare(key.epoch, a.key.epoch), cmp.Compare(d.Sequence, a.Sequence)) >= 0
}

type set map[*agent]struct{}

// index finds agents. It holds a bounded number and costs what matches, not what there is. It is not safe for
// concurrent use.
type index struct {
	most         int
	keys         *book
	agents       map[identity.ID]*agent
	capabilities map[string]set
	topics       node
	queue        queue
	refused      uint64 // that there was no room for
}

func newIndex(most int, keys *book) *index {
	return &index{most: most, keys: keys, agents: map[identity.ID]*agent{}, capabilities: map[string]set{}}
}

// put has d be the descriptor of the agent. It returns nil if there is no room for another agent.
func (x *index) put(d Descriptor, key signerKey, now time.Time) *agent {
	a := x.agents[d.ID]
	if a == nil {
		if len(x.agents) >= x.most {
			x.expire(now)
		}
		if len(x.agents) >= x.most {
			x.refused++
			return nil
		}
		a = &agent{due: d.Expires}
		x.agents[d.ID] = a
		heap.Push(&x.queue, a)
	}
	relink := !sameLinks(&a.Descriptor, &d)
	if relink {
		x.unlink(a)
	}
	a.Descriptor, a.key, a.listed, a.text = d, key, true, searchText(&d)
	if a.remembered.Before(d.Expires) {
		a.remembered = d.Expires
	}
	if relink {
		x.link(a)
	}
	x.wait(a, d.Expires)
	return a
}

// link has an agent be found by what its descriptor says.
func (x *index) link(a *agent) {
	if a.Withdrawn {
		return
	}
	for _, c := range a.Capabilities {
		if x.capabilities[c.Name] == nil {
			x.capabilities[c.Name] = set{}
		}
		x.capabilities[c.Name][a] = struct{}{}
	}
	for _, p := range a.Topics {
		x.topics.add(strings.Split(p.Namespace(), "."), a)
	}
}

func (x *index) unlink(a *agent) {
	for _, c := range a.Capabilities {
		if delete(x.capabilities[c.Name], a); len(x.capabilities[c.Name]) == 0 {
			delete(x.capabilities, c.Name)
		}
	}
	for _, p := range a.Topics {
		x.topics.remove(strings.Split(p.Namespace(), "."), a)
	}
}

// wait has the agent looked at again at a time.
func (x *index) wait(a *agent, due time.Time) {
	a.due = due
	heap.Fix(&x.queue, a.place)
}

// expire forgets agents of whom nothing can be replayed any more, and returns those whose descriptors have run
// out since the last time.
func (x *index) expire(now time.Time) (ran []*agent) {
	for len(x.queue) > 0 && !now.Before(x.queue[0].due) {
		a := x.queue[0]
		if a.due.Equal(a.Expires) {
			ran = append(ran, a)
		}
		if now.Before(a.remembered) {
			x.wait(a, a.remembered)
			continue
		}
		heap.Pop(&x.queue)
		x.unlink(a)
		delete(x.agents, a.ID)
	}
	return ran
}

// inForce reports whether an agent's descriptor counts now.
func (x *index) inForce(a *agent, now time.Time) bool {
	return a.listed && !a.Withdrawn && a.CheckTime(now) == nil && x.keys.counts(a.ID, a.key) == nil
}

// find yields the agents that f matches and that are in force, in no order.
func (x *index) find(f *filter, now time.Time, yield func(*agent)) {
	look := func(a *agent) {
		if f.matches(a) && x.inForce(a, now) {
			yield(a)
		}
	}
	conditions := x.conditions(f)
	if len(conditions) == 0 {
		for _, a := range x.agents {
			look(a)
		}
		return
	}
	slices.SortFunc(conditions, func(a, b group) int { return cmp.Compare(a.size(), b.size()) })
	conditions[0].each(func(a *agent) {
		for _, other := range conditions[1:] {
			if !other.has(a) {
				return
			}
		}
		look(a)
	})
}

// conditions returns the groups that an agent has to be in, each of them, to be matched.
func (x *index) conditions(f *filter) (all []group) {
	for _, n := range f.needs {
		all = append(all, group{x.capabilities[n.name]})
	}
	if len(f.topics) == 0 {
		return all
	}
	var listening group
	for _, t := range f.topics {
		x.topics.collect(strings.Split(t.Namespace(), "."), func(s set) { listening = append(listening, s) })
	}
	return append(all, listening)
}

// group is the union of sets.
type group []set

// size counts those twice that are in two sets.
func (g group) size() (n int) {
	for _, s := range g {
		n += len(s)
	}
	return n
}

func (g group) has(a *agent) bool {
	for _, s := range g {
		if _, ok := s[a]; ok {
			return true
		}
	}
	return false
}

// each yields each agent of the group once.
func (g group) each(yield func(*agent)) {
	for i, s := range g {
		for a := range s {
			if !g[:i].has(a) {
				yield(a)
			}
		}
	}
}

func byID(a, b Descriptor) int { return bytes.Compare(a.ID[:], b.ID[:]) }

// node is a tree of the segments of patterns.
type node struct {
	children map[string]*node
	agents   set // whose patterns end here
}

func (n *node) add(path []string, a *agent) {
	if len(path) == 0 {
		if n.agents == nil {
			n.agents = set{}
		}
		n.agents[a] = struct{}{}
		return
	}
	child := n.children[path[0]]
	if child == nil {
		if n.children == nil {
			n.children = map[string]*node{}
		}
		child = &node{}
		n.children[path[0]] = child
	}
	child.add(path[1:], a)
}

func (n *node) remove(path []string, a *agent) {
	if len(path) == 0 {
		delete(n.agents, a)
		return
	}
	child := n.children[path[0]]
	if child == nil {
		return
	}
	child.remove(path[1:], a)
	if len(child.agents) == 0 && len(child.children) == 0 {
		delete(n.children, path[0])
	}
}

// collect yields the sets of agents that may listen to a topic; versions and attributes are not looked at.
func (n *node) collect(path []string, yield func(set)) {
	if len(path) == 0 {
		if len(n.agents) > 0 {
			yield(n.agents)
		}
		return
	}
	if rest := n.children[">"]; rest != nil {
		rest.collect(nil, yield)
	}
	for _, segment := range []string{"*", path[0]} {
		if child := n.children[segment]; child != nil {
			child.collect(path[1:], yield)
		}
	}
}

// sameLinks reports whether two descriptors are found by the same topics and capabilities.
func sameLinks(a, b *Descriptor) bool {
	return a.Withdrawn == b.Withdrawn && slices.EqualFunc(a.Topics, b.Topics, samePattern) &&
		slices.EqualFunc(a.Capabilities, b.Capabilities, func(x, y Capability) bool { return x.Name == y.Name })
}

func samePattern(a, b message.Pattern) bool { return a.String() == b.String() }

// queue is a heap of agents by when something of them runs out.
type queue []*agent

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].place, q[j].place = i, j }

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	a := x.(*agent)
	a.place = len(*q)
	*q = append(*q, a)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return a
}
