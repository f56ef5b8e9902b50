package websocket

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/loopback"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/transport"
)

// DefaultPath is the path that agents are called under unless told otherwise.
const DefaultPath = "/converge"

// Proof is how the two ends of a connection prove which agents they are.
type Proof int

const (
	// Certificate proves by TLS 1.3, mutual, with self-signed certificates whose keys are the agents' keys.
	// TLS has to reach from agent to agent.
	Certificate Proof = iota
	// Challenge proves by signatures over fresh nonces of both sides, after the upgrade. It is for
	// servers behind a reverse proxy that ends TLS with a certificate that the public trusts.
	Challenge
)

// Peer is an agent elsewhere that may connect, and that is dialled if it has an Address.
type Peer struct {
	Name string      // for logs; may be empty
	ID   identity.ID // required
	// Address is the URL at which it is dialled, wss://host[:port][/path]; "" means that it dials us.
	// Without a path it is Config.Path. A ws:// URL has to lead to a loopback address, unless
	// Config.InsecurePlaintext is set.
	Address string
	// Proof is how both prove themselves when it is dialled. Certificate is the default of wss://; a ws://
	// URL always means Challenge.
	Proof Proof
}

// Config configures a [Network]. The zero value is usable, and lets nobody in: there are no peers.
type Config struct {
	// Listen is the host:port to accept connections on; "" means to dial only, and to serve what comes in
	// by [Network.Handler]. All agents of the network share it.
	Listen string
	// Proof says what Listen speaks. With Certificate, the default, it is HTTPS for agents that dial it
	// directly. With Challenge it is plain HTTP for a reverse proxy on the same machine: anything but
	// a loopback address is refused, unless InsecurePlaintext is set.
	Proof Proof
	// Path is the path of the URL under which Listen serves, and that peers are dialled at if their
	// Address has none; "" means [DefaultPath].
	Path string
	// Hosts are the names by which clients may have dialled this server, as in their URLs, with the
	// port if it is not the default one. A challenge signs the name, so that a client that was sent
	// elsewhere is refused. Empty means that it has to be the name in the request, which only shows
	// that nobody in between dials by another one.
	Hosts []string
	// OriginPatterns are the origins of web pages that may connect, as path.Match patterns of host or
	// scheme://host; the server's own host always may. Browsers send the header Origin, agents do not.
	OriginPatterns []string
	// TrustedProxies are the addresses of reverse proxies whose X-Forwarded-For and X-Forwarded-Host are
	// believed. Name every proxy here, also one on a loopback address: otherwise all clients count as
	// one address, and TLS that ends at the proxy is taken for an attack.
	TrustedProxies []netip.Prefix
	// RootCAs are the authorities that certificates of dialled servers are held against where the proof
	// is Challenge; nil means those of the system.
	RootCAs *x509.CertPool
	// InsecurePlaintext allows ws:// and plain HTTP beyond loopback addresses: whoever is on the way reads
	// everything that is not sealed, and can break connections. Messages stay signed. It is logged.
	InsecurePlaintext bool

	// Peers are the agents elsewhere. Nobody else may connect, and only they are dialled.
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
	// closed, so that those who are quick get through. Behind a proxy, the client's address is known and
	// counts from the request on; until then it is the proxy's.
	MaxHandshakes           int
	MaxHandshakesPerAddress int

	// HandshakeTimeout is how long a connection may take to be made, upgraded and proved; 0 means 5 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a connection may be silent; 0 means 45 s. A ping is sent at each third: as a
	// binary message, which also keeps proxies from closing what they think is idle.
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

// mesh returns the part of the configuration that does not depend on how bytes move.
func (c Config) mesh() mesh.Config {
	return mesh.Config{
		Listen:                  c.Listen,
		MaxPeers:                c.MaxPeers,
		OnKey:                   c.OnKey,
		Keys:                    c.Keys,
		Queue:                   c.Queue,
		WhenFull:                c.WhenFull,
		Receive:                 c.Receive,
		ReceiveBytes:            c.ReceiveBytes,
		MaxFrame:                c.MaxFrame,
		MaxConnections:          c.MaxConnections,
		MaxPerAddress:           c.MaxPerAddress,
		MaxHandshakes:           c.MaxHandshakes,
		MaxHandshakesPerAddress: c.MaxHandshakesPerAddress,
		HandshakeTimeout:        c.HandshakeTimeout,
		IdleTimeout:             c.IdleTimeout,
		ProgressTimeout:         c.ProgressTimeout,
		MinRate:                 c.MinRate,
		FrameRate:               c.FrameRate,
		ByteRate:                c.ByteRate,
		Grace:                   c.Grace,
		MinBackoff:              c.MinBackoff,
		MaxBackoff:              c.MaxBackoff,
		Linger:                  c.Linger,
		Logger:                  c.Logger,
		Now:                     c.Now,
	}
}

// check reports what is wrong with the fields that mesh does not know, by their name.
func (c Config) check() error {
	return errors.Join(checkProof(c.Proof), c.checkPath(), c.checkListen(), c.checkHosts(), c.checkOrigins())
}

func checkProof(p Proof) error {
	if p != Certificate && p != Challenge {
		return fmt.Errorf("Proof: %d is no way to prove anything", p)
	}
	return nil
}

func (c Config) checkPath() error {
	if !strings.HasPrefix(c.Path, "/") || path.Clean(c.Path) != c.Path || strings.ContainsAny(c.Path, "{}?#% ") {
		return fault("Path: %.100q is not a plain absolute path, such as %q", c.Path, DefaultPath)
	}
	return nil
}

func (c Config) checkListen() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if c.Listen == "" || c.Proof == Certificate || c.InsecurePlaintext {
		return nil
	}
	if err != nil || !loopback.Is(host) {
		return fault("Listen: plain HTTP on %q would be open to the network: listen on a loopback address behind a proxy, or set InsecurePlaintext", c.Listen)
	}
	return nil
}

func (c Config) checkHosts() error {
	for i, host := range c.Hosts {
		if host == "" || len(host) > maxHost || strings.ContainsAny(host, "/@?#") {
			return fault("Hosts[%d]: %.100q is not of the form host or host:port", i, host)
		}
	}
	return nil
}

func (c Config) checkOrigins() error {
	for i, pattern := range c.OriginPatterns {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("OriginPatterns[%d]: %.100q is not a pattern of path.Match", i, pattern)
		}
	}
	return nil
}

// fault is an error that begins with the name of a field, to which a caller adds the name of the struct.
func fault(format string, args ...any) error { return fmt.Errorf(format, args...) }
