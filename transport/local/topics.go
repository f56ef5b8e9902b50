package local

import (
	"slices"
	"strings"

	"github.com/converge-agents/converge/message"
)

// topicIndex finds the subscribers of topics. It is a tree of namespace segments, so that publishing
// costs what matches, not what is subscribed.
type topicIndex struct {
	root  node
	owned map[*Endpoint][]message.Pattern // to find an endpoint's subscriptions when it leaves
}

// node holds the subscriptions whose patterns end here.
type node struct {
	children      map[string]*node
	subscriptions []subscription
}

type subscription struct {
	pattern  message.Pattern
	endpoint *Endpoint
}

func samePattern(p message.Pattern) func(message.Pattern) bool {
	return func(q message.Pattern) bool { return q.String() == p.String() }
}

func (x *topicIndex) add(p message.Pattern, e *Endpoint) {
	if slices.ContainsFunc(x.owned[e], samePattern(p)) {
		return
	}
	at := &x.root
	for segment := range strings.SplitSeq(p.Namespace(), ".") {
		child := at.children[segment]
		if child == nil {
			if at.children == nil {
				at.children = map[string]*node{}
			}
			child = &node{}
			at.children[segment] = child
		}
		at = child
	}
	at.subscriptions = append(at.subscriptions, subscription{p, e})
	if x.owned == nil {
		x.owned = map[*Endpoint][]message.Pattern{}
	}
	x.owned[e] = append(x.owned[e], p)
}

func (x *topicIndex) remove(p message.Pattern, e *Endpoint) {
	i := slices.IndexFunc(x.owned[e], samePattern(p))
	if i < 0 {
		return
	}
	x.root.remove(strings.Split(p.Namespace(), "."), p, e)
	x.owned[e] = slices.Delete(x.owned[e], i, i+1)
	if len(x.owned[e]) == 0 {
		delete(x.owned, e)
	}
}

func (x *topicIndex) removeAll(e *Endpoint) {
	for _, p := range slices.Clone(x.owned[e]) {
		x.remove(p, e)
	}
}

// remove takes out a subscription and the nodes that it leaves empty.
func (n *node) remove(path []string, p message.Pattern, e *Endpoint) {
	if len(path) == 0 {
		n.subscriptions = slices.DeleteFunc(n.subscriptions, func(s subscription) bool {
			return s.endpoint == e && s.pattern.String() == p.String()
		})
		return
	}
	child := n.children[path[0]]
	child.remove(path[1:], p, e)
	if len(child.subscriptions) == 0 && len(child.children) == 0 {
		delete(n.children, path[0])
	}
}

// match returns the endpoints that subscribe to any of the topics, each once.
func (x *topicIndex) match(topics []message.Topic) []*Endpoint {
	var found []*Endpoint
	seen := map[*Endpoint]bool{}
	for _, t := range topics {
		x.root.collect(strings.Split(t.Namespace(), "."), func(s subscription) {
			if !seen[s.endpoint] && s.pattern.Matches(t) {
				seen[s.endpoint] = true
				found = append(found, s.endpoint)
			}
		})
	}
	return found
}

func (n *node) collect(path []string, yield func(subscription)) {
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
