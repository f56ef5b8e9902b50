package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
)

// Protocol is what mesh speaks on a stream, as ALPN (RFC 7301) names it.
const Protocol = "converge/1"

// Kind makes the byte streams of a [Network]: the part of a transport that TCP and WebSocket do not share.
type Kind interface {
	// Name is the kind's name in errors and logs, such as "tcp".
	Name() string
	// CheckAddress reports what is wrong with the form of a peer's address.
	CheckAddress(address string) error
	// Dial connects the agent self with peer and proves both ends to each other. It heeds ctx, whose
	// deadline is Config.HandshakeTimeout away. The stream's Self, Peer and Key are those that were proved.
	Dial(ctx context.Context, self *peertls.Credential, peer Peer) (Stream, error)
	// Serve accepts connections from l until that is closed, lets each end prove itself, and gives the
	// streams to n.Accept; handshakes that fail go to n.Refuse. It returns when everything that it
	// started has ended.
	Serve(l net.Listener, n *Network)
}

// Reasoner is a [Kind] that refuses for reasons of its own. They are counted like the others; the words must
// be fixed.
type Reasoner interface{ Reasons() []peertls.Reason }

// CloseReasoner is a Stream.Conn that tells the other end why it is closed. CloseReason comes before Close;
// the word is that of a refusal, or "" for an end that is in order.
type CloseReasoner interface{ CloseReason(word string) }

// Stream is a connection on which both ends have proved who they are.
type Stream struct {
	// Conn carries the frames. Read and Write heed SetReadDeadline and SetWriteDeadline; Close unblocks
	// both. Writes are 64 KiB at most, or a single larger frame.
	net.Conn
	Self identity.ID       // the agent at this end
	Peer identity.ID       // the agent at the other end
	Key  ed25519.PublicKey // the other agent's key
	// Statement is the signed statement by which Key is the other agent's; nil if it is its root key.
	Statement []byte
	// Entry is the connection as the listener gave it, or one that leads there by NetConn methods (as
	// those of tls.Conn do), so that it is counted as proven. Nil means Conn; for dialled streams it
	// does not matter.
	Entry net.Conn
}

// closeFor closes the stream for that reason.
func (s Stream) closeFor(cause error) {
	if r, ok := s.Conn.(CloseReasoner); ok {
		word := ""
		if refusal, ok := errors.AsType[*peertls.Refusal](cause); ok {
			word = string(refusal.Reason)
		}
		r.CloseReason(word)
	}
	s.Close()
}
