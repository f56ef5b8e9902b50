package websocket_test

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/websocket"
)

func TestNewNamesTheFieldAtFault(t *testing.T) {
	id := newAgent(t).ID()
	peer := func(address string) []websocket.Peer { return []websocket.Peer{{ID: id, Address: address}} }
	for _, c := range []struct {
		config websocket.Config
		want   string
	}{
		{websocket.Config{Proof: 7}, "Config.Proof"},
		{websocket.Config{Path: "converge"}, "Config.Path"},
		{websocket.Config{Path: "/a/../b"}, "Config.Path"},
		{websocket.Config{Path: "/{agent}"}, "Config.Path"},
		{websocket.Config{Listen: "0.0.0.0:1", Proof: websocket.Challenge}, "Config.Listen"},
		{websocket.Config{Listen: ":1", Proof: websocket.Challenge}, "InsecurePlaintext"},
		{websocket.Config{Hosts: []string{"good", "https://bad"}}, "Config.Hosts[1]"},
		{websocket.Config{OriginPatterns: []string{"["}}, "Config.OriginPatterns[0]"},
		{websocket.Config{Queue: -1}, "Config.Queue"},
		{websocket.Config{IdleTimeout: -time.Second}, "Config.IdleTimeout"},
		{websocket.Config{WhenFull: 9}, "Config.WhenFull"},
		{websocket.Config{Peers: []websocket.Peer{{}}}, "Config.Peers[0]"},
		{websocket.Config{Peers: append(peer(""), peer("")...)}, "Config.Peers[1]"},
		{websocket.Config{Peers: []websocket.Peer{{ID: id, Proof: 9}}}, "Config.Peers[0].Proof"},
		{websocket.Config{Peers: peer("10.0.0.1:80")}, "Config.Peers[0].Address"},
		{websocket.Config{Peers: peer("https://example.org")}, "scheme"},
		{websocket.Config{Peers: peer("wss://")}, "no host"},
		{websocket.Config{Peers: peer("wss://user:secret@example.org")}, "more than a host and a path"},
		{websocket.Config{Peers: peer("wss://example.org/?agent=x")}, "more than a host and a path"},
		{websocket.Config{Peers: peer("wss://example.org/#challenge")}, "more than a host and a path"},
		{websocket.Config{Peers: peer("ws://example.org")}, "InsecurePlaintext"},
		{websocket.Config{Peers: peer("ws://127.0.0.1.example.org")}, "InsecurePlaintext"},
		{websocket.Config{Peers: peer("wss://\x7f:secret@")}, "not a URL"},
	} {
		_, err := websocket.New(c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "websocket.Config.") {
			t.Errorf("New: %v, want an error about %q", err, c.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

func TestNewAccepts(t *testing.T) {
	id := newAgent(t).ID()
	for _, address := range []string{"", "wss://example.org", "wss://[2001:db8::1]:8443/agents", "ws://localhost", "ws://127.0.0.1:80", "ws://[::1]/x"} {
		if _, err := websocket.New(websocket.Config{Peers: []websocket.Peer{{ID: id, Address: address}}}); err != nil {
			t.Errorf("New with a peer at %q: %v", address, err)
		}
	}
	var log logbook
	_, err := websocket.New(websocket.Config{
		Listen: ":1", Proof: websocket.Challenge, InsecurePlaintext: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Peers: []websocket.Peer{{ID: id, Address: "ws://example.org"}},
	})
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("plaintext is allowed without a warning")
	}
}

func TestAddPeerChecksTheAddress(t *testing.T) {
	n, err := websocket.New(websocket.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	id := newAgent(t).ID()
	for _, p := range []websocket.Peer{{}, {ID: id, Address: "ws://example.org"}, {ID: id, Proof: -1}} {
		if err := n.AddPeer(p); err == nil {
			t.Errorf("AddPeer(%+v) succeeded", p)
		}
	}
	if err := n.AddPeer(websocket.Peer{ID: id, Address: "wss://example.org"}); err != nil {
		t.Error(err)
	}
	n.RemovePeer(id)
	n.RemovePeer(identity.ID{9}) // never was one
}

// TestConfigHasAllThatTheMeshHas: no bound of the mesh may be beyond the reach of a configuration.
func TestConfigHasAllThatTheMeshHas(t *testing.T) {
	var config websocket.Config
	ours, names := reflect.ValueOf(&config).Elem(), reflect.TypeFor[mesh.Config]()
	for i := range names.NumField() {
		if field := ours.FieldByName(names.Field(i).Name); field.CanInt() {
			field.SetInt(int64(i + 1))
		}
	}
	theirs := reflect.ValueOf(config.Mesh())
	for i := range names.NumField() {
		field := names.Field(i)
		if own := ours.FieldByName(field.Name); !own.IsValid() || own.Type() != field.Type && field.Name != "Peers" {
			t.Errorf("websocket.Config lacks %s %s", field.Name, field.Type)
		} else if value := theirs.Field(i); value.CanInt() && value.Int() != own.Int() {
			t.Errorf("the mesh gets %s = %v, want %v", field.Name, value, own)
		}
	}
}

func TestSecondEndpointOfAnAgentIsRefused(t *testing.T) {
	n, err := websocket.New(websocket.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	id := newAgent(t)
	if err := n.Endpoint(id).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Endpoint(id).Start(t.Context()); err == nil || !strings.Contains(err.Error(), websocket.ErrAttached.Error()) {
		t.Errorf("Start of a second endpoint: %v", err)
	}
	if n.Addr() != nil {
		t.Errorf("Addr() = %s without a listener", n.Addr())
	}
}

func TestRefusedListsAllWords(t *testing.T) {
	n, err := websocket.New(websocket.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var reporter transport.Reporter = n
	refused := reporter.Stats().Refused
	for _, word := range []string{
		"not_websocket", "origin", "host", "channel_binding", "challenge", "protocol", "text_message", "refused_by_peer",
		"not_tls", "tls_version", "no_certificate", "certificate", "wrong_key", "unknown_peer", "unknown_agent", "handshake_timeout",
		"too_many", "too_many_from_address", "evicted", "frame_too_large", "malformed", "stalled", "idle",
	} {
		if _, ok := refused[word]; !ok {
			t.Errorf("Refused has no %q before its first event", word)
		}
	}
}
