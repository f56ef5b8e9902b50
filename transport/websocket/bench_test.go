package websocket_test

import (
	"log/slog"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

// BenchmarkFrames carries frames of 600 bytes from one network to another, both ways and with both proofs:
// what clients send is masked (RFC 6455, section 5.3), what servers send is not.
func BenchmarkFrames(b *testing.B) {
	for _, c := range []struct {
		name   string
		proof  websocket.Proof
		scheme string
	}{{"TLS", websocket.Certificate, "wss://"}, {"Plain", websocket.Challenge, "ws://"}} {
		server, client, serverID, clientID := benchPair(b, c.proof, c.scheme)
		b.Run(c.name+"/ClientToServer", func(b *testing.B) { carry(b, client, server, transport.Route{To: serverID.ID()}) })
		b.Run(c.name+"/ServerToClient", func(b *testing.B) { carry(b, server, client, transport.Route{To: clientID.ID()}) })
	}
}

func benchPair(b *testing.B, proof websocket.Proof, scheme string) (server, client *websocket.Endpoint, serverID, clientID *identity.Identity) {
	b.Helper()
	serverID, clientID = newAgent(b), newAgent(b)
	start := func(id *identity.Identity, c websocket.Config) (*websocket.Network, *websocket.Endpoint) {
		c.Logger = slog.New(slog.DiscardHandler)
		n, err := websocket.New(c)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { n.Close() })
		e := n.Endpoint(id)
		if err := e.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		return n, e
	}
	n, server := start(serverID, websocket.Config{Listen: "127.0.0.1:0", Proof: proof, Peers: []websocket.Peer{{ID: clientID.ID()}}})
	_, client = start(clientID, websocket.Config{Peers: []websocket.Peer{{ID: serverID.ID(), Address: scheme + n.Addr().String()}}})
	return server, client, serverID, clientID
}

func carry(b *testing.B, from, to *websocket.Endpoint, route transport.Route) {
	frame := make([]byte, 600)
	received := make(chan struct{})
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		defer close(received)
		for range b.N {
			if _, err := to.Receive(b.Context()); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	for range b.N {
		if err := from.Send(b.Context(), route, frame); err != nil {
			b.Fatal(err)
		}
	}
	<-received
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}
