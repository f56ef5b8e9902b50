package nats_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// benchFrame is about as long as a small signed message.
const benchFrame = 300

// BenchmarkFrames moves frames from one agent to another, within the process.
func BenchmarkFrames(b *testing.B) {
	for _, test := range []struct {
		name  string
		route func(to transport.Route) transport.Route
	}{
		{"direct", func(to transport.Route) transport.Route { return to }},
		{"topic", func(transport.Route) transport.Route { return topics("t") }},
	} {
		b.Run(test.name, func(b *testing.B) {
			n, err := nats.New(nats.Config{Network: "test", Logger: quiet, Pending: 1 << 20, PendingBytes: 1 << 29})
			if err != nil {
				b.Fatal(err)
			}
			defer n.Close()
			id := newIdentity(b)
			alice, bob := n.Endpoint(newIdentity(b)), n.Endpoint(id)
			if err := bob.Subscribe(b.Context(), message.MustPattern("t")); err != nil {
				b.Fatal(err)
			}
			for _, e := range []*nats.Endpoint{alice, bob} {
				if err := e.Start(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			route, frame := test.route(transport.Route{To: id.ID()}), make([]byte, benchFrame)
			b.ReportAllocs()
			b.SetBytes(benchFrame)
			b.ResetTimer()
			go func() {
				for range b.N {
					if err := alice.Send(context.Background(), route, frame); err != nil {
						b.Error(err)
					}
				}
			}()
			for range b.N {
				if _, err := bob.Receive(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBroker is the same by the client's library alone.
func BenchmarkBroker(b *testing.B) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	connect := func() *client.Conn {
		conn, err := client.Connect("", client.InProcessServer(s))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(conn.Close)
		return conn
	}
	alice, bob := connect(), connect()
	received := make(chan *client.Msg, 1<<20)
	const subject = "converge.test.agent.0123456789012345678901234567890123456789012345678901234567890123"
	if _, err := bob.ChanSubscribe(subject, received); err != nil {
		b.Fatal(err)
	}
	if err := bob.Flush(); err != nil {
		b.Fatal(err)
	}
	frame := make([]byte, benchFrame)
	b.ReportAllocs()
	b.SetBytes(benchFrame)
	b.ResetTimer()
	go func() {
		for range b.N {
			alice.Publish(subject, frame)
		}
		alice.Flush()
	}()
	for range b.N {
		<-received
	}
}
