package tcp_test

import (
	"context"
	"fmt"
	"log"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

// Two agents, each in a process of its own, know each other's IDs; one dials the other. Frames are opaque
// here: what agents send is signed and verified by transport.Hooked.
func Example() {
	ctx := context.Background()
	alice, bob := newIdentity(), newIdentity()

	there, err := tcp.New(tcp.Config{
		Listen: "127.0.0.1:0",
		Peers:  []tcp.Peer{{Name: "alice", ID: alice.ID()}}, // who may connect; nobody else may
	})
	if err != nil {
		log.Fatal(err)
	}
	defer there.Close()
	atBob := there.Endpoint(bob)
	if err := atBob.Start(ctx); err != nil {
		log.Fatal(err)
	}

	here, err := tcp.New(tcp.Config{
		Peers: []tcp.Peer{{Name: "bob", ID: bob.ID(), Address: there.Addr().String()}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer here.Close()
	atAlice := here.Endpoint(alice)
	if err := atAlice.Start(ctx); err != nil {
		log.Fatal(err)
	}

	if err := atAlice.Send(ctx, transport.Route{To: bob.ID()}, []byte("hello, bob")); err != nil {
		log.Fatal(err)
	}
	frame, err := atBob.Receive(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", frame.Data)
	// Output: hello, bob
}

func newIdentity() *identity.Identity {
	id, err := identity.Generate()
	if err != nil {
		log.Fatal(err)
	}
	return id
}
