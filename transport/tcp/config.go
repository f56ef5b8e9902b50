package tcp

import (
	"crypto/ed25519"
	"log/slog"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/transport"
)

// Peer is an agent elsewhere that may connect: Name, for logs; ID; and Address, the host:port where it is
// dialled. Without an address it has to dial us.
type Peer = mesh.Peer

// Config configures a [Network]. The zero value is usable, and lets nobody in: there are no peers.
type Config struct {
	// Listen is the host:port to accept connections on; "" means to dial only. All agents of the network
	// share it: who dials says which one is called.
	Listen string
	// Peers are the agents elsewhere. Nobody else may connect, and only they are dialled. Those that
	// are agents of this network are not dialled: they are reached in memory.
	Peers []Peer
	// MaxPeers bounds how many peers there may be, also by AddPeer; 0 means 16,384.
	MaxPeers int
	// OnKey, if not nil, is called when a peer has proved its key, before any of its frames arrive. It
	// must not block.
	OnKey func(identity.ID, ed25519.PublicKey)
	// Keys, if not nil, is where the keys of peers are entered when they have proved them, before any of their
	// frames arrive, and held against: a peer that is revoked or quarantined, or whose key does not count any more, is
	// refused, and disconnected at once. A peer with an operational key needs it.
	Keys *identity.Registry

	// Queue is how many bytes may wait for one peer; 0 means 4 MiB. WhenFull says what Send meets at
	// the bound: with transport.Block, the default, it waits for as long as its context allows;
	// with transport.DropNewest it gets transport.ErrQueueFull.
	Queue    int
	WhenFull transport.WhenFull
	// Receive and ReceiveBytes are how many frames, and bytes, may wait for one agent to receive them;
	// 0 means 1,024 and 16 MiB. At the bound, reading from connections pauses, which the senders feel
	// as a full queue; agents of the same network feel WhenFull.
	Receive      int
	ReceiveBytes int
	// MaxFrame is the size of the largest frame in bytes, both ways; 0 means 1 MiB and 64 KiB. A peer
	// that announces more is disconnected before anything is allocated.
	MaxFrame int

	// MaxConnections and MaxPerAddress are how many accepted connections of proven peers there may be,
	// in all and from one address (IPv6: from one /64); 0 means 16,384 and 2,048. More are refused.
	MaxConnections int
	MaxPerAddress  int
	// MaxHandshakes and MaxHandshakesPerAddress are how many connections may be unproven; 0 means 1,024
	// and 256. At the bound the oldest one of the address, or of the address that has the most, is
	// closed, so that those who are quick get through.
	MaxHandshakes           int
	MaxHandshakesPerAddress int

	// HandshakeTimeout is how long a connection may take to be made and proved; 0 means 5 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection may be silent; 0 means 45 s. A ping is sent at each third.
	IdleTimeout time.Duration
	// ProgressTimeout is how long a started frame may wait for its next byte, and a write for the
	// other end to take it; 0 means 15 s. An agent that receives nothing for so long, with all
	// buffers full, counts as gone.
	ProgressTimeout time.Duration
	// MinRate is how fast a started frame has to arrive, and writes to be taken, in bytes per second; 0
	// means 8 KiB. A frame of n bytes may take ProgressTimeout + n/MinRate.
	MinRate int
	// FrameRate and ByteRate are how much one connection may bring in a second, with a burst of one
	// second's worth, counted before anything is parsed; 0 means 500,000 frames and 512 MiB. At
	// the bound reading from that connection pauses.
	FrameRate int
	ByteRate  int
	// Grace is how long frames for a peer are queued while there is no connection, counted from the
	// start or from the loss of the last one; 0 means 5 s. Then they are dropped, and Send returns
	// transport.ErrUnreachable at once until the peer is back.
	Grace time.Duration
	// MinBackoff and MaxBackoff bound the time between attempts to reach a peer: it is drawn at random
	// from zero up to a limit that doubles; 0 means 100 ms and 10 s.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	// Linger is how long Close waits at most until what is queued has been sent; 0 means 3 s.
	Linger time.Duration

	// Logger gets one line a second at most for each reason; nil means slog.Default.
	Logger *slog.Logger
	// Now is the clock that certificates are held against; nil means time.Now.
	Now func() time.Time
}
