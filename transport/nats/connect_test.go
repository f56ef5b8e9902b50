package nats_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// TestBrokerThatPingsEarlyIsDialledAgain: a broker pings who takes two seconds to connect, before it has let it in.
func TestBrokerThatPingsEarlyIsDialledAgain(t *testing.T) {
	broker := newNetwork(t, listening(nats.Config{}))
	bob := join(t, broker)
	addr, dialled := pingsEarly(t, broker.Addr().String())
	outside := newNetwork(t, nats.Config{URL: "nats://" + addr})
	alice := join(t, outside)
	if n := dialled.Load(); n != 2 {
		t.Errorf("dialled %d times, want 2", n)
	}
	alice.send(bob.route(), "hello")
	bob.expect("hello")
}

// pingsEarly is a way to the broker on which the first connection sees a ping before the answer that it waits for.
func pingsEarly(t *testing.T, to string) (addr string, dialled *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dialled = new(atomic.Int64)
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { listener.Close() })
	serving.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			early := dialled.Add(1) == 1
			server, err := net.Dial("tcp", to)
			if err != nil {
				t.Error(err)
				client.Close()
				continue
			}
			serving.Go(func() { io.Copy(server, client); server.Close() })
			serving.Go(func() {
				defer client.Close()
				for b := make([]byte, 64<<10); ; {
					n, err := server.Read(b)
					if early && bytes.HasPrefix(b[:n], []byte("PONG")) {
						client.Write([]byte("PING\r\n"))
					}
					if client.Write(b[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return listener.Addr().String(), dialled
}
