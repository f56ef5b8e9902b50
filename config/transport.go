package config

import (
	"strings"
)

// The transports. With [TransportNATS] alone, the process runs a NATS server of its own; "nats://" and
// a list of addresses, as in "nats://a:4222,b:4222", names servers that are there already, and "tls://"
// those that have to speak TLS.
const (
	TransportLocal     = "local"
	TransportTCP       = "tcp"
	TransportWebSocket = "websocket"
	TransportNATS      = "nats"
)

// How messages are signed.
const (
	SignatureBatch  = "batch"  // one signature for all that wait to be signed
	SignatureSingle = "single" // one signature for each message
)

// MaxPeers is the largest number of peers that one Config may name.
const MaxPeers = 10_000

// Peer is an agent of another process. Only agents and peers are heard, and only peers may connect.
type Peer struct {
	// Name is what this process calls the peer, in its log and its report; formed like an agent's
	// name, and that of no agent and no other peer. Required.
	Name string `key:"name"`
	// ID is the peer's ID: 64 hexadecimal digits, which `converge keys show` prints. Required.
	ID string `key:"id"`
	// Address is where to dial the peer: host:port with tcp, a URL with websocket (wss://host[:port][/path],
	// or ws:// on this machine). Default "", which waits for the peer to dial, and
	// needs Config.Listen. Not with nats.
	Address string `key:"address"`
	// Key is the peer's public key: 64 hexadecimal digits, which have to hash to ID. Required with
	// nats, where a broker stands between the two; with tcp and websocket, the peer proves its key
	// when it connects.
	Key string `key:"key"`
	// Proof is how the peer and this process prove who they are when the peer is dialled at a wss://
	// address: certificate, or challenge if TLS ends at a proxy in front of the peer. Only with
	// websocket; ws:// is always by challenge. Default certificate.
	Proof string `key:"proof"`
}

// TaskPlace says where the tasks are that this process's workers and coordinators deal with.
type TaskPlace struct {
	// Host is the name of the peer that keeps them, an agent of the kind [KindHost] in its own
	// process. Default "", which is this process.
	Host string `key:"host"`
}

// Links bounds the connections to other processes. Zero values are the transport's defaults.
type Links struct {
	// Queue is how much may wait to be sent to one peer, 64KiB to 1GiB. Default 4MiB.
	Queue Size `key:"queue"`
	// WhenFull says what becomes of more than that: block, which holds the sender up, or drop, which
	// refuses it. Default block.
	WhenFull string `key:"when_full"`
	// Grace is how long messages wait for a peer that is away before they are given up. Default 5s.
	Grace Duration `key:"grace"`
	// HandshakeTimeout is how long a peer may take to prove who it is. Default 5s.
	HandshakeTimeout Duration `key:"handshake_timeout"`
	// IdleTimeout ends a connection from which nothing has come for that long, pings included, which
	// are sent each third of it. Default 45s.
	IdleTimeout Duration `key:"idle_timeout"`
	// MaxConnections bounds the connections that others have made. Default 0, the transport's.
	MaxConnections int `key:"max_connections"`
	// MaxPerAddress bounds those of them that come from one address. Default 0, the transport's.
	MaxPerAddress int `key:"max_per_address"`
	// FrameRate and ByteRate bound what one connection brings in a second, frames and bytes; beyond
	// that, it is read more slowly. Default 0, the transport's.
	FrameRate int  `key:"frame_rate"`
	ByteRate  Size `key:"byte_rate"`
}

// TransportKind returns the transport without addresses: one of the Transport constants, or "" if c
// names none of them.
func (c *Config) TransportKind() string {
	switch kind, _, _ := strings.Cut(c.Transport, "://"); kind {
	case TransportLocal, TransportTCP, TransportWebSocket, TransportNATS:
		return kind
	case "tls":
		return TransportNATS
	}
	return ""
}

// What happens when more waits for a peer than Links.Queue.
const (
	WhenFullBlock = "block"
	WhenFullDrop  = "drop"
)

// TCP sets up the transport tcp.
type TCP struct {
	Links
}

// The ways in which two agents on a websocket prove who they are.
const (
	ProofCertificate = "certificate" // TLS reaches from agent to agent, and certificates hold their keys
	ProofChallenge   = "challenge"   // TLS ends at a proxy with a public certificate; agents sign challenges
)

// WebSocket sets up the transport websocket.
type WebSocket struct {
	Links
	// Proof is what is spoken at Config.Listen: certificate, or challenge, which is plain HTTP for a
	// reverse proxy on this machine. Default certificate.
	Proof string `key:"proof"`
	// Path is where agents are called, and where peers are whose address has no path. Default "/converge".
	Path string `key:"path"`
	// Hosts are the names by which others may have dialled this server, as in their URLs, with the port
	// if it is not the default one. A proof by challenge for another name is refused. Default none,
	// which takes the name in the request.
	Hosts []string `key:"hosts"`
	// Origins are those of the web pages that may connect besides the server's own, as patterns of host
	// or scheme://host. Agents are no web pages and need none. Default none.
	Origins []string `key:"origins"`
	// TrustedProxies are the addresses of the reverse proxies in front of this server (127.0.0.1,
	// 10.0.0.0/8). What they forward about the client's address and the name that it dialled is
	// believed. Default none.
	TrustedProxies []string `key:"trusted_proxies"`
	// CA is a file of certificates, in PEM, of those who sign for the proxies in front of peers. Default
	// "", which is what this machine trusts.
	CA string `key:"ca"`
}
