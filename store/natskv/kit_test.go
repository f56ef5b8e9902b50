package natskv_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

// patience bounds what should happen soon; only a failing test ever waits that long.
const patience = time.Minute

// broker is an embedded server, which keeps its place when it is started again.
type broker struct {
	*server.Server
	options server.Options
}

// maxPayload takes the largest value.
const maxPayload = store.MaxValue + 64<<10

func startBroker(t testing.TB, o server.Options) *broker {
	t.Helper()
	return startBrokerIn(t, t.TempDir(), o)
}

// startBrokerIn starts one that stores what it has in a directory.
func startBrokerIn(t testing.TB, dir string, o server.Options) *broker {
	t.Helper()
	o.Host, o.NoSigs, o.NoLog = "127.0.0.1", true, true
	o.JetStream, o.DisableJetStreamBanner, o.StoreDir = true, true, dir
	o.JetStreamMaxStore, o.JetStreamMaxMemory = 8<<30, 256<<20
	ports, _ := freePorts(t, 1)
	o.Port = ports[0]
	if o.MaxPayload == 0 {
		o.MaxPayload = maxPayload
	}
	b := &broker{options: o}
	b.start(t)
	t.Cleanup(b.stop)
	return b
}

func (b *broker) start(t testing.TB) {
	t.Helper()
	o := b.options
	var err error
	if b.Server, err = server.NewServer(&o); err != nil {
		t.Fatal(err)
	}
	b.Server.Start()
	if !b.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
}

func (b *broker) stop() {
	b.Shutdown()
	b.WaitForShutdown()
}

// connect returns a connection that does not give up.
func (b *broker) connect(t testing.TB, options ...client.Option) jetstream.JetStream {
	t.Helper()
	return connect(t, b.address(), options...)
}

func connect(t testing.TB, url string, options ...client.Option) jetstream.JetStream {
	t.Helper()
	options = append([]client.Option{
		client.MaxReconnects(-1), client.ReconnectWait(20 * time.Millisecond), client.ReconnectJitter(0, 0),
		client.ErrorHandler(func(*client.Conn, *client.Subscription, error) {}),
	}, options...)
	conn, err := client.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

var buckets atomic.Int64

// newBucket names a bucket that nobody has.
func newBucket() string { return fmt.Sprint("bucket-", buckets.Add(1)) }

// open opens a bucket of its own.
func (b *broker) open(t testing.TB, c natskv.Config) *natskv.Store {
	t.Helper()
	c.JetStream = b.connect(t)
	return open(t, c)
}

func open(t testing.TB, c natskv.Config) *natskv.Store {
	t.Helper()
	if c.Bucket == "" {
		c.Bucket = newBucket()
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20 // the server sets it aside
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := natskv.Open(ctx, c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPut(t testing.TB, s store.Store, key, value string, rev store.Revision) store.Revision {
	t.Helper()
	written, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logbook) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// cluster is embedded servers that are joined into one.
type cluster []*broker

func startCluster(t testing.TB, n int) cluster {
	t.Helper()
	ports, routes := freePorts(t, n)
	c := make(cluster, n)
	var starting sync.WaitGroup
	for i := range c {
		starting.Go(func() {
			c[i] = startBroker(t, server.Options{
				ServerName: fmt.Sprint("node-", i), Routes: routes, SyncAlways: true,
				Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i], NoAdvertise: true},
			})
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

// freePorts returns ports at which nobody listened just now, and the routes to them.
func freePorts(t testing.TB, n int) (ports []int, routes []*url.URL) {
	t.Helper()
	for range n {
		l := listen(t)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: l.Addr().String()})
	}
	return ports, routes
}

// listen listens at a port that no system gives to connections. A server that comes back would else find its port taken
// now and then: by a client, which has got it while trying to reach it.
func listen(t testing.TB) net.Listener {
	t.Helper()
	for tries := 0; ; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(22000)))
		if err == nil {
			return l
		}
		if tries == 100 {
			t.Fatal(err)
		}
	}
}

// url reaches all servers.
func (c cluster) url() string {
	var all []string
	for _, b := range c {
		all = append(all, b.address())
	}
	return strings.Join(all, ",")
}

func (b *broker) address() string { return fmt.Sprintf("nats://127.0.0.1:%d", b.options.Port) }

// leader returns the server that leads a bucket's stream.
func (c cluster) leader(t testing.TB, js jetstream.JetStream, bucket string) *broker {
	t.Helper()
	s, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range c {
		if b.options.ServerName == s.CachedInfo().Cluster.Leader {
			return b
		}
	}
	t.Fatalf("the leader of %s is %q", bucket, s.CachedInfo().Cluster.Leader)
	return nil
}

func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
