package tcp_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

func TestConfigIsChecked(t *testing.T) {
	id := person(t, bob).ID()
	for want, c := range map[string]tcp.Config{
		"tcp.Config: Queue: -1": {Queue: -1},
		"host:port":             {Peers: []tcp.Peer{{Name: "bob", ID: id, Address: "192.0.2.1"}}},
		"no host":               {Peers: []tcp.Peer{{Name: "bob", ID: id, Address: ":4242"}}},
		"from 1 to 65535":       {Peers: []tcp.Peer{{Name: "bob", ID: id, Address: "192.0.2.1:https"}}},
		"port 0":                {Peers: []tcp.Peer{{Name: "bob", ID: id, Address: "192.0.2.1:0"}}},
		"has no ID":             {Peers: []tcp.Peer{{Name: "bob"}}},
	} {
		_, err := tcp.New(c)
		if err == nil || !strings.HasPrefix(err.Error(), "tcp.Config: ") {
			t.Errorf("%s: %v", want, err)
		}
		if err != nil && strings.Contains(want, ":") && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	n, err := tcp.New(tcp.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.AddPeer(tcp.Peer{Name: "bob"}); err == nil || err.Error() != `add peer "bob" has no ID` {
		t.Errorf("AddPeer: %v", err)
	}
	if n.Addr() != nil {
		t.Error("a network that was not started has an address")
	}
}

func TestPortThatIsTakenIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, err := tcp.New(tcp.Config{Listen: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	id := person(t, alice)
	if err := n.Endpoint(id).Start(t.Context()); err == nil || !strings.Contains(err.Error(), id.ID().String()) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Start: %v, want an error with the agent and the address", err)
	}
}

// TestManyAgentsShareAListener has three agents on either side, all of which speak with all.
func TestManyAgentsShareAListener(t *testing.T) {
	const each = 3
	here := tcp.Config{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}
	there := here
	for i := range byte(each) {
		there.Peers = append(there.Peers, tcp.Peer{ID: person(t, 10+i).ID()})
	}
	right, err := tcp.New(there)
	if err != nil {
		t.Fatal(err)
	}
	defer right.Close()
	var agents []*tcp.Endpoint
	var ids []identity.ID
	join := func(n *tcp.Network, seed byte) {
		id := person(t, seed)
		e := n.Endpoint(id)
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		agents, ids = append(agents, e), append(ids, id.ID())
	}
	for i := range byte(each) {
		join(right, 20+i)
		here.Peers = append(here.Peers, tcp.Peer{ID: person(t, 20+i).ID(), Address: right.Addr().String()})
	}
	left, err := tcp.New(here)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	for i := range byte(each) {
		join(left, 10+i)
	}
	for i, from := range agents {
		for j, to := range agents {
			if i == j {
				continue
			}
			if err := from.Send(t.Context(), transport.Route{To: ids[j]}, fmt.Append(nil, i, j)); err != nil {
				t.Fatal(err)
			}
			if got, err := to.Receive(t.Context()); err != nil || string(got.Data) != fmt.Sprint(i, j) {
				t.Fatalf("%d received %q, %v", j, got.Data, err)
			}
		}
	}
	until(t, func() bool { // a frame is counted once its write has returned, which may be after its arrival
		stats := left.Stats()
		return stats.Connections == each*each && stats.FramesOut == each*each && stats.FramesIn == each*each
	}, func() string { return fmt.Sprintf("%+v", left.Stats()) })
	if err := agents[0].Subscribe(t.Context(), message.MustPattern("news")); err != nil {
		t.Fatal(err)
	}
	for i, from := range agents[1:] {
		if err := from.Send(t.Context(), transport.Route{Topics: []message.Topic{message.MustTopic("news")}}, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		if got, err := agents[0].Receive(t.Context()); err != nil || string(got.Data) != fmt.Sprint(i) {
			t.Fatalf("received %q, %v", got.Data, err)
		}
	}
}

func TestKeysAreToldWhenTheyAreProved(t *testing.T) {
	told := make(chan identity.ID, 10)
	alice, bob := pair(t, tcp.Config{OnKey: func(id identity.ID, key ed25519.PublicKey) {
		if identity.CheckKey(id, key) == nil {
			told <- id
		}
	}})
	honest(t, alice, bob)
	if got := map[identity.ID]bool{<-told: true, <-told: true}; len(got) != 2 || !got[alice.ID()] || !got[bob.ID()] {
		t.Errorf("told were %v", got)
	}
}

func TestSecondEndpointOfAnAgentIsRefused(t *testing.T) {
	alice, _ := pair(t, tcp.Config{})
	if err := alice.network.Endpoint(alice.id).Start(t.Context()); !errors.Is(err, tcp.ErrAttached) {
		t.Errorf("Start: %v", err)
	}
}
