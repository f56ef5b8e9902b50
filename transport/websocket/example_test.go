package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

// Two networks of one process stand for two machines. They dial each other's pinned keys over TLS.
func ExampleNew() {
	ctx := context.Background()
	alice, _ := identity.Generate()
	bob, _ := identity.Generate()

	here, err := websocket.New(websocket.Config{
		Listen: "127.0.0.1:0",
		Peers:  []websocket.Peer{{Name: "bob", ID: bob.ID()}}, // he dials
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer here.Close()
	receiver := here.Endpoint(alice)
	receiver.Start(ctx)

	there, err := websocket.New(websocket.Config{
		Peers: []websocket.Peer{{Name: "alice", ID: alice.ID(), Address: "wss://" + here.Addr().String()}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer there.Close()
	sender := there.Endpoint(bob)
	sender.Start(ctx)

	sender.Send(ctx, transport.Route{To: alice.ID()}, []byte("a signed message, as a rule"))
	frame, _ := receiver.Receive(ctx)
	fmt.Printf("%s\n", frame.Data)
	// Output: a signed message, as a rule
}

// A server of one's own has other things to serve, and may stand behind a reverse proxy.
func ExampleNetwork_Handler() {
	ctx := context.Background()
	alice, _ := identity.Generate()
	bob, _ := identity.Generate()

	here, _ := websocket.New(websocket.Config{Peers: []websocket.Peer{{Name: "bob", ID: bob.ID()}}})
	defer here.Close()
	receiver := here.Endpoint(alice)
	receiver.Start(ctx)
	mux := http.NewServeMux()
	mux.Handle("/agents", here.Handler())
	server := httptest.NewServer(mux)
	defer server.Close()

	there, _ := websocket.New(websocket.Config{Peers: []websocket.Peer{{
		Name: "alice", ID: alice.ID(), Proof: websocket.Challenge,
		Address: strings.Replace(server.URL, "http", "ws", 1) + "/agents",
	}}})
	defer there.Close()
	sender := there.Endpoint(bob)
	sender.Start(ctx)

	sender.Send(ctx, transport.Route{To: alice.ID()}, []byte("hello"))
	frame, _ := receiver.Receive(ctx)
	fmt.Printf("%s\n", frame.Data)
	// Output: hello
}
