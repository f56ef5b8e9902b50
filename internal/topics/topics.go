// Package topics finds the subscribers of topics, for the transports that keep subscriptions themselves.
package topics

import (
	"slices"
	"strings"

	"github.com/converge-agents/converge/message"
)

// Index finds the subscribers of topics. It is a tree of namespace segments, so that publishing
// costs what matches, not what is subscribed. The zero value is empty. It is not safe for concurrent use.
type Index[S comparable] struct {
	root  node[S]
	owned map[S][]message.Pattern // to find a subscriber's patterns when it leaves
}

// node holds the subscriptions whose patterns end here.
type node[S comparable] struct {
	children      map[string]*node[S]
	subscriptions []subscription[S]
}

type subscription[S comparable] struct {
	pattern    message.Pattern
	subscriber S
}

func samePattern(p message.Pattern) func(message.Pattern) bool {
	return func(q message.Pattern) bool { return q.String() == p.String() }
}

// Has reports whether s subscribes to p.
func (x *Index[S]) Has(p message.Pattern, s S) bool {
	return slices.ContainsFunc(x.owned[s], samePattern(p))
}

// Len returns how many subscriptions s has.
func (x *Index[S]) Len(s S) int { return len(x.owned[s]) }

// Add subscribes s to p. Adding twice is fine.
func (x *Index[S]) Add(p message.Pattern, s S) {
	if x.Has(p, s) {
		return
	}
	at := &x.root
	for segment := range strings.SplitSeq(p.Namespace(), ".") {
		child := at.children[segment]
		if child == nil {
			if at.children == nil {
				at.children = map[string]*node[S]{}
			}
			child = &node[S]{}
			at.children[segment] = child
		}
		at = child
	}
	at.subscriptions = append(at.subscriptions, subscription[S]{p, s})
	if x.owned == nil {
		x.owned = map[S][]message.Pattern{}
	}
	x.owned[s] = append(x.owned[s], p)
}

// Remove ends a subscription. Ending none is fine.
func (x *Index[S]) Remove(p message.Pattern, s S) {
	i := slices.IndexFunc(x.owned[s], samePattern(p))
	if i < 0 {
		return
	}
	x.root.remove(strings.Split(p.Namespace(), "."), p, s)
	x.owned[s] = slices.Delete(x.owned[s], i, i+1)
	if len(x.owned[s]) == 0 {
		delete(x.owned, s)
	}
}

// RemoveAll ends all subscriptions of s.
func (x *Index[S]) RemoveAll(s S) {
	for _, p := range slices.Clone(x.owned[s]) {
		x.Remove(p, s)
	}
}

// remove takes out a subscription and the nodes that it leaves empty.
func (n *node[S]) remove(path []string, p message.Pattern, s S) {
	if len(path) == 0 {
		n.subscriptions = slices.DeleteFunc(n.subscriptions, func(x subscription[S]) bool {
			return x.subscriber == s && x.pattern.String() == p.String()
		})
		return
	}
	child := n.children[path[0]]
	child.remove(path[1:], p, s)
	if len(child.subscriptions) == 0 && len(child.children) == 0 {
		delete(n.children, path[0])
	}
}

// Match returns the subscribers of any of the topics, each once.
func (x *Index[S]) Match(topics []message.Topic) []S {
	var found []S
	seen := map[S]bool{}
	for _, t := range topics {
		x.root.collect(strings.Split(t.Namespace(), "."), func(s subscription[S]) {
			if !seen[s.subscriber] && s.pattern.Matches(t) {
				seen[s.subscriber] = true
				found = append(found, s.subscriber)
			}
		})
	}
	return found
}

func (n *node[S]) collect(path []string, yield func(subscription[S])) {
	if len(path) == 0 {
		for _, s := range n.subscriptions {
			yield(s)
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
