package loadtest

import (
	"log/slog"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

// Parties are the agents of a measurement.
type Parties struct {
	Receiver identity.ID
	Senders  []identity.ID
	Capacity int // frames that may wait for one agent to receive them
	Queue    int // bytes that may wait for one agent to be sent
	Logger   *slog.Logger
}

// Link carries frames from the senders' side to the receiver's, and back.
type Link interface {
	// Receiver returns the transport of the agent that receives. It is called once, and first.
	Receiver(*identity.Identity) (transport.Transport, error)
	// Sender returns the transport of an agent that sends. It is called when the receiver's transport
	// has been started.
	Sender(*identity.Identity) (transport.Transport, error)
	// Close ends what the transports were made of. They are closed by then.
	Close() error
}

// Loser is a [Link] that counts what it may have lost or turned away, by a word for it. That explains a
// loss, but is none: a connection that closes may count what it has just delivered. It is asked before
// Close.
type Loser interface{ Lost() map[string]uint64 }

// Connect makes a link between the two sides. It starts nothing.
type Connect func(Parties) (Link, error)

// links are the transports that can be measured.
var links = []struct {
	name    string
	connect Connect
}{
	{"local", connectLocal},
	{"tcp", connectTCP},
	{"websocket", connectWebSocket},
	{"nats", connectNATS},
}

// Transports returns the names of the transports that can be measured.
func Transports() (names []string) {
	for _, l := range links {
		names = append(names, l.name)
	}
	return names
}

// Over returns what connects the sides by the transport of that name, or nil if there is none.
func Over(transport string) Connect {
	for _, l := range links {
		if l.name == transport {
			return l.connect
		}
	}
	return nil
}

// localLink has both sides on one network: the local transport knows no other.
type localLink struct{ network *local.Network }

func connectLocal(p Parties) (Link, error) {
	network, err := local.New(local.Config{Capacity: p.Capacity})
	return localLink{network}, err
}

func (l localLink) Receiver(id *identity.Identity) (transport.Transport, error) {
	return l.network.Endpoint(id.ID()), nil
}

func (l localLink) Sender(id *identity.Identity) (transport.Transport, error) {
	return l.network.Endpoint(id.ID()), nil
}

func (l localLink) Close() error { return nil }
