// Package taint says where data came from: from which peers and from which tools. What an agent does under
// the influence of such data carries the labels along, through turn, prompt, tool call and receipt, so that
// a policy can ask for more before something dangerous is done with it.
//
// Labels only ever add up. Code that is not sure says more, never less.
package taint

import (
	"slices"
	"strings"
)

// The bounds of a [Set].
const (
	MaxLabels   = 64  // distinct labels; in the place of more, a set has [Many]
	MaxLabelLen = 160 // bytes; what is longer is cut
)

// Many stands in a set for labels that found no room, together with the labels of a peer and a tool of that
// name, so that who looks for any peer finds one. A set that holds it has every label.
const Many = "many"

var tooMany = []string{Many, Peer(Many), Tool(Many)}

// The kinds of sources, as labels begin with them.
const (
	peerPrefix = "peer:"
	toolPrefix = "tool:"
)

// Peer is the label of what the agent with that ID, in hex, has said.
func Peer(id string) string { return peerPrefix + id }

// Tool is the label of what the tool of that name has returned.
func Tool(name string) string { return toolPrefix + name }

// Set is a set of labels. It is immutable, so it may be copied and shared freely; the zero Set is empty.
type Set struct{ labels []string } // sorted, without doubles

// Of returns the set of the labels. Empty ones do not count.
func Of(labels ...string) Set { return Set{}.With(labels...) }

// With returns the set with more labels.
func (s Set) With(labels ...string) Set {
	all := s.labels
	for _, label := range labels {
		label = label[:min(len(label), MaxLabelLen)]
		i, found := slices.BinarySearch(all, label)
		if !found && label != "" {
			all = slices.Concat(all[:i], []string{label}, all[i:])
		}
	}
	return bounded(all)
}

// Union returns the labels of both sets.
func (s Set) Union(o Set) Set {
	switch {
	case o.within(s):
		return s
	case s.within(o):
		return o
	}
	return s.With(o.labels...)
}

func bounded(labels []string) Set {
	if _, many := slices.BinarySearch(labels, Many); many || len(labels) > MaxLabels {
		return Set{tooMany}
	}
	return Set{labels}
}

func (s Set) within(o Set) bool {
	for _, label := range s.labels {
		if _, found := slices.BinarySearch(o.labels, label); !found {
			return false
		}
	}
	return true
}

// Has reports whether the set has the label, or may have it, since it holds [Many].
func (s Set) Has(label string) bool {
	for _, wanted := range [...]string{label, Many} {
		if _, found := slices.BinarySearch(s.labels, wanted); found {
			return true
		}
	}
	return false
}

// IsEmpty reports whether the data came from nobody else.
func (s Set) IsEmpty() bool { return len(s.labels) == 0 }

// Labels returns the labels, sorted. The slice is the caller's.
func (s Set) Labels() []string { return slices.Clone(s.labels) }

// String returns the labels with commas between them.
func (s Set) String() string { return strings.Join(s.labels, ", ") }

// MarshalText implements [encoding.TextMarshaler] with the form of [Set.String], for records.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
