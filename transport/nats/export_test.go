package nats

import (
	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/message"
)

// For fuzzing: the decoders of what strangers publish.

// ParseLabel returns what the headers of a frame say that was published under the namespace.
func ParseLabel(h client.Header, namespace string) (topics []message.Topic, frame, from string, err error) {
	l, err := parseLabel(h, namespace)
	return l.topics, l.frame, l.from, err
}

// MakeLabel returns the headers that say so.
func MakeLabel(topics []message.Topic, frame, from string) client.Header {
	return label{topics, frame, from}.header()
}

// ParseNotice reads the last tokens of a notice's subject, and writes them again.
func ParseNotice(text string) (again string, ok bool) {
	n, ok := parseNotice(text)
	return n.String(), ok
}

// MarkOf returns where the network's agents would answer a mark.
func MarkOf(network, reply string) (subject string, ok bool) {
	r := newSubjects(network).parseReply(reply)
	return r.mark, r.mark != ""
}

// Cover and Includes are about namespaces of patterns.
var (
	Cover    = cover
	Includes = includes
)

// SyncAlways reports whether the embedded server's streams sync every write.
func (n *Network) SyncAlways() bool {
	c := n.embedded().server.JetStreamConfig()
	return c != nil && c.SyncAlways
}

// Kill ends the embedded server without a word to the agents of this process.
func (n *Network) Kill() { n.embedded().stop() }

// StreamLeader reports whether the embedded server leads the network's stream.
func (n *Network) StreamLeader() bool {
	return n.embedded().server.JetStreamIsStreamLeader("$G", streamName(n.config.Network))
}

// Stream names the network's stream.
func (n *Network) Stream() string { return streamName(n.config.Network) }

// Recent is the memory of frames for topics.
type Recent struct{ recent }

// First reports whether the frame was not seen lately.
func (r *Recent) First(name string, data []byte) bool { return r.first(name, data) }
