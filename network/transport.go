package network

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
	"github.com/converge-agents/converge/transport/tcp"
	"github.com/converge-agents/converge/transport/websocket"
)

// carrier is the transport of a network.
type carrier interface {
	// start comes before the first endpoint's Start.
	start(ctx context.Context) error
	// endpoint returns an agent's transport.
	endpoint(id *identity.Identity) transport.Transport
	// addr returns where others reach this process; nil if nowhere, or not yet.
	addr() net.Addr
	// Close is called when all endpoints are closed. Twice is fine.
	Close() error
}

// slack is what a frame may be larger than a message.
const slack = 64 << 10

// addTransport chooses the transport. Its peers are known from now on.
func (n *Network) addTransport() (err error) {
	c := n.config
	if n.peers, err = n.readPeers(); err != nil {
		return err
	}
	switch c.TransportKind() {
	case config.TransportTCP:
		n.transport, err = n.newTCP(c)
	case config.TransportWebSocket:
		n.transport, err = n.newWebSocket(c)
	case config.TransportNATS:
		n.transport, err = n.newNATS(c)
	default:
		n.transport, err = newLocal()
	}
	if err != nil {
		return err
	}
	if r, ok := n.transport.(transport.Reporter); ok {
		n.metrics.AddTransport(r)
	}
	if c.TransportKind() != config.TransportLocal && len(c.Peers) == 0 && !c.StoreShared() {
		n.log.Warn("no peers: agents of other processes are not heard", "transport", c.Transport)
	}
	return nil
}

// Addr returns the address at which other processes reach this one, nil if there is none, or not yet: Run
// listens.
func (n *Network) Addr() net.Addr { return n.transport.addr() }

// localCarrier connects the agents of this process.
type localCarrier struct{ *local.Network }

func newLocal() (carrier, error) {
	wires, err := local.New(local.Config{})
	return localCarrier{wires}, err
}

func (c localCarrier) endpoint(id *identity.Identity) transport.Transport { return c.Endpoint(id.ID()) }
func (localCarrier) start(context.Context) error                          { return nil }
func (localCarrier) addr() net.Addr                                       { return nil }
func (localCarrier) Close() error                                         { return nil }

type tcpCarrier struct{ *tcp.Network }

func (n *Network) newTCP(c *config.Config) (carrier, error) {
	l := c.TCP.Links
	wires, err := tcp.New(tcp.Config{
		Listen: c.Listen, Peers: n.tcpPeers(), Keys: n.registry,
		Queue: n.queueOf(l), WhenFull: whenFull(l.WhenFull), MaxFrame: n.maxFrame(),
		MaxConnections: l.MaxConnections, MaxPerAddress: l.MaxPerAddress, FrameRate: l.FrameRate, ByteRate: int(l.ByteRate),
		HandshakeTimeout: time.Duration(l.HandshakeTimeout), IdleTimeout: time.Duration(l.IdleTimeout), Grace: time.Duration(l.Grace),
		Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	return tcpCarrier{wires}, nil
}

func (c tcpCarrier) endpoint(id *identity.Identity) transport.Transport { return c.Endpoint(id) }
func (tcpCarrier) start(context.Context) error                          { return nil }
func (c tcpCarrier) addr() net.Addr                                     { return c.Addr() }

func (n *Network) tcpPeers() (peers []tcp.Peer) {
	for _, p := range n.peers {
		peers = append(peers, tcp.Peer{Name: p.name, ID: p.id, Address: p.address})
	}
	return peers
}

type webSocketCarrier struct{ *websocket.Network }

func (n *Network) newWebSocket(c *config.Config) (carrier, error) {
	l, w := c.WebSocket.Links, c.WebSocket
	roots, err := readRoots("websocket.ca", w.CA)
	if err != nil {
		return nil, err
	}
	proxies, err := prefixes(w.TrustedProxies)
	if err != nil {
		return nil, err
	}
	wires, err := websocket.New(websocket.Config{
		Listen: c.Listen, Peers: n.webSocketPeers(), Keys: n.registry,
		Proof: proofOf(w.Proof), Path: w.Path, Hosts: w.Hosts, OriginPatterns: w.Origins,
		TrustedProxies: proxies, RootCAs: roots, InsecurePlaintext: c.Unsafe.Plaintext,
		Queue: n.queueOf(l), WhenFull: whenFull(l.WhenFull), MaxFrame: n.maxFrame(),
		MaxConnections: l.MaxConnections, MaxPerAddress: l.MaxPerAddress, FrameRate: l.FrameRate, ByteRate: int(l.ByteRate),
		HandshakeTimeout: time.Duration(l.HandshakeTimeout), IdleTimeout: time.Duration(l.IdleTimeout), Grace: time.Duration(l.Grace),
		Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	return webSocketCarrier{wires}, nil
}

func (c webSocketCarrier) endpoint(id *identity.Identity) transport.Transport { return c.Endpoint(id) }
func (webSocketCarrier) start(context.Context) error                          { return nil }
func (c webSocketCarrier) addr() net.Addr                                     { return c.Addr() }

func (n *Network) webSocketPeers() (peers []websocket.Peer) {
	for _, p := range n.peers {
		peers = append(peers, websocket.Peer{Name: p.name, ID: p.id, Address: p.address, Proof: proofOf(p.proof)})
	}
	return peers
}

func proofOf(name string) websocket.Proof {
	if name == config.ProofChallenge {
		return websocket.Challenge
	}
	return websocket.Certificate
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		p, err := config.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// readRoots reads a file of certificates; "" is what this machine trusts.
func readRoots(key, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, advice.On(fmt.Errorf("%s: no certificate in %q", key, path), "it has to be a file of PEM blocks that begin with -----BEGIN CERTIFICATE-----")
	}
	return roots, nil
}

func (n *Network) maxFrame() int { return int(n.config.Limits.MessageSize) + slack }

// queueOf makes room for one message at least.
func (n *Network) queueOf(l config.Links) int {
	if l.Queue == 0 && n.config.Limits.MessageSize > defaultQueue-slack {
		return n.maxFrame()
	}
	return int(l.Queue)
}

// defaultQueue is that of the transports.
const defaultQueue = 4 << 20

func whenFull(policy string) transport.WhenFull {
	if policy == config.WhenFullDrop {
		return transport.DropNewest
	}
	return transport.Block
}
