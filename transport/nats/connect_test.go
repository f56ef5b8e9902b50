package nats_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/transport/nats"
)

// TestConnectLogsInAndReachesStreams connects inside the server's process and from outside of it.
func TestConnectLogsInAndReachesStreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inside := newNetwork(t, listening(nats.Config{Server: nats.Server{
		StoreDir: fastDir(t), Users: []nats.User{{Name: "agents", Password: nats.Secret{File: file}}},
	}}))
	if err := inside.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	outside := nats.Config{URL: "nats://" + inside.Addr().String(), Username: "agents", Password: nats.Secret{File: file}}
	for name, n := range map[string]*nats.Network{"inside": inside, "outside": newNetwork(t, outside)} {
		conn, err := n.Connect(t.Context(), "a store")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer conn.Close()
		streams, err := jetstream.New(conn)
		if err == nil {
			_, err = streams.AccountInfo(t.Context())
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := inside.Connect(ended, "a store"); err == nil {
		t.Error("connected although the context had ended")
	}
	if err := os.WriteFile(file, []byte("wrong word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newNetwork(t, outside).Connect(t.Context(), "a store"); err == nil || strings.Contains(err.Error(), "wrong word") {
		t.Errorf("with a wrong password: %v", err)
	}
}
