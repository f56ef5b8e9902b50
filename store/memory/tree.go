package memory

import (
	"iter"
	"slices"
)

// tree is a B+-tree of slots by key. share returns it as it is now, in constant time: from then on the
// original copies each node before it changes it for the first time. Nodes that run empty are dropped
// and others are not merged, as in PostgreSQL's B-trees: keys that come and go fill the gaps again.
type tree struct {
	root  *node
	owner *owner
}

// owner marks the nodes that a tree may change in place.
type owner struct{ _ byte } // not empty, so that each has its own address

// fanout is the most keys in a node.
const fanout = 64

// node is a leaf with a slot for each key, or has a child for each key: all keys under children[i]
// are at least keys[i], except that the first child also takes what is less.
type node struct {
	owner    *owner
	keys     []string
	slots    []*slot
	children []*node
}

func newTree() tree {
	o := new(owner)
	return tree{root: &node{owner: o}, owner: o}
}

// share returns a tree that must only be read and that later changes to t do not alter.
func (t *tree) share() tree {
	t.owner = new(owner)
	return tree{root: t.root}
}

// insert adds the slot of a key that the tree does not have.
func (t *tree) insert(key string, add *slot) {
	t.root = t.root.owned(t.owner)
	if right := t.root.insert(key, add, t.owner); right != nil {
		t.root = &node{owner: t.owner, keys: []string{"", right.keys[0]}, children: []*node{t.root, right}}
	}
}

// remove takes away the slot of a key that the tree has.
func (t *tree) remove(key string) {
	t.root = t.root.owned(t.owner)
	t.root.remove(key, t.owner)
	for len(t.root.children) == 1 {
		t.root = t.root.children[0]
	}
}

// from yields the keys that are not less than key, in order, with their slots.
func (t tree) from(key string) iter.Seq2[string, *slot] {
	return func(yield func(string, *slot) bool) {
		t.root.from(key, yield)
	}
}

func (n *node) isLeaf() bool { return n.children == nil }

// search returns the index of the first key that is not less than key, and whether it is equal.
func (n *node) search(key string) (int, bool) {
	low, high := 0, len(n.keys)
	for low < high {
		if middle := (low + high) / 2; n.keys[middle] < key {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < len(n.keys) && n.keys[low] == key
}

// child returns the index of the child that key belongs under.
func (n *node) child(key string) int {
	i, found := n.search(key)
	if found {
		return i
	}
	return max(i-1, 0)
}

// owned returns n if it may be changed, and otherwise a copy that may.
func (n *node) owned(o *owner) *node {
	if n.owner == o {
		return n
	}
	c := &node{owner: o, keys: grown(n.keys)}
	if n.isLeaf() {
		c.slots = grown(n.slots)
	} else {
		c.children = grown(n.children)
	}
	return c
}

// grown copies a slice with room for one more.
func grown[T any](s []T) []T { return append(make([]T, 0, len(s)+1), s...) }

func (n *node) ownedChild(i int, o *owner) *node {
	n.children[i] = n.children[i].owned(o)
	return n.children[i]
}

// insert adds the slot of a key under n and returns the right half if n had to be split.
func (n *node) insert(key string, add *slot, o *owner) *node {
	if n.isLeaf() {
		i, _ := n.search(key)
		n.keys = slices.Insert(n.keys, i, key)
		n.slots = slices.Insert(n.slots, i, add)
	} else {
		i := n.child(key)
		if right := n.ownedChild(i, o).insert(key, add, o); right != nil {
			n.keys = slices.Insert(n.keys, i+1, right.keys[0])
			n.children = slices.Insert(n.children, i+1, right)
		}
	}
	if len(n.keys) <= fanout {
		return nil
	}
	return n.split(o)
}

// split leaves the lower half in n and returns the upper one.
func (n *node) split(o *owner) *node {
	right := &node{owner: o}
	n.keys, right.keys = cut(n.keys)
	if n.isLeaf() {
		n.slots, right.slots = cut(n.slots)
	} else {
		n.children, right.children = cut(n.children)
	}
	return right
}

// cut moves the upper half of a slice to one of its own.
func cut[T any](s []T) (lower, upper []T) {
	half := len(s) / 2
	upper = append(make([]T, 0, fanout+1), s[half:]...)
	clear(s[half:])
	return s[:half], upper
}

// remove takes a slot away from under n; n may be empty afterwards.
func (n *node) remove(key string, o *owner) {
	if n.isLeaf() {
		i, _ := n.search(key)
		n.keys = slices.Delete(n.keys, i, i+1)
		n.slots = slices.Delete(n.slots, i, i+1)
		return
	}
	i := n.child(key)
	child := n.ownedChild(i, o)
	child.remove(key, o)
	if len(child.keys) == 0 {
		n.keys = slices.Delete(n.keys, i, i+1)
		n.children = slices.Delete(n.children, i, i+1)
	}
}

// from yields the keys under n that are not less than key, with their slots; it returns false when told to stop.
func (n *node) from(key string, yield func(string, *slot) bool) bool {
	if n.isLeaf() {
		for i, _ := n.search(key); i < len(n.keys); i++ {
			if !yield(n.keys[i], n.slots[i]) {
				return false
			}
		}
		return true
	}
	for _, child := range n.children[n.child(key):] {
		if !child.from(key, yield) {
			return false
		}
	}
	return true
}
