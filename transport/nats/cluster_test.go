package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

// newCluster starts three embedded servers that are joined into one, as three processes would.
func newCluster(t *testing.T, c nats.Config) []*nats.Network {
	t.Helper()
	return newClusterOf(t, c, nats.Cluster{}, nats.Cluster{}, nats.Cluster{})
}

// newClusterOf starts an embedded server for each part.
func newClusterOf(t *testing.T, c nats.Config, parts ...nats.Cluster) []*nats.Network {
	t.Helper()
	routes := freeAddresses(t, len(parts))
	cluster := make([]*nats.Network, len(parts))
	var starting sync.WaitGroup
	for i, part := range parts {
		c.Server.Name = fmt.Sprint("node-", i)
		c.Server.Listen = "127.0.0.1:0"
		part.Listen, part.Routes = routes[i], routes
		c.Server.Cluster = part
		if c.Durable.Enabled {
			c.Server.StoreDir = t.TempDir()
		}
		cluster[i] = newNetwork(t, c)
		starting.Go(func() {
			if err := cluster[i].Start(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return cluster
}

// freeAddresses returns addresses that nobody listened at just now. They are below the range from which this machine takes the
// ports of connections that others make meanwhile.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000)))
		if err != nil {
			continue
		}
		defer l.Close()
		if addresses = append(addresses, l.Addr().String()); len(addresses) == n {
			return addresses
		}
	}
	t.Fatal("no ports are free")
	return nil
}

// everywhere is the URL of a cluster for agents of other processes.
func everywhere(cluster []*nats.Network) string {
	var hosts []string
	for _, n := range cluster {
		hosts = append(hosts, n.Addr().String())
	}
	return "nats://" + strings.Join(hosts, ",")
}

// correspondent sends numbered messages to one other, and hears those of several.
type correspondent struct {
	*speaker
	to       *speaker
	accepted atomic.Int64 // messages for which Send returned nil
	failed   atomic.Int64
	heard    sync.Map // sender and number → true
	once     atomic.Int64
	twice    atomic.Int64
	replays  atomic.Int64
	strange  atomic.Int64
}

// pace is between two messages of a correspondent.
const pace = 2 * time.Millisecond

// pump sends until stop is set. A message for which Send fails is sent again if retry is set.
func (c *correspondent) pump(ctx context.Context, stop *atomic.Bool, retry bool) {
	for i := 0; !stop.Load(); i++ {
		m := c.sign(message.Draft{To: c.to.id.ID(), Body: fmt.Append(nil, i)})
		for {
			err := c.Send(ctx, transport.RouteOf(m), m.Raw())
			if err == nil {
				c.accepted.Add(1)
				time.Sleep(pace) // or signing were all that the machine does
				break
			}
			c.failed.Add(1)
			if !retry || ctx.Err() != nil || stop.Load() {
				break
			}
		}
	}
}

func (c *correspondent) listen(ctx context.Context) {
	for {
		m, err := transport.ReceiveVerified(ctx, c.Endpoint, c.verifier, func(_ context.Context, r *message.Refusal) {
			if r.Reason == message.ErrReplayed {
				c.replays.Add(1)
			} else {
				c.strange.Add(1)
			}
		})
		if err != nil {
			return
		}
		if _, again := c.heard.LoadOrStore(m.Sender().String()+string(m.Body()), true); again {
			c.twice.Add(1)
		}
		c.once.Add(1)
	}
}

// load is correspondents under way.
type load struct {
	all     []*correspondent
	stopped atomic.Bool
	pumping sync.WaitGroup
	hearing sync.WaitGroup
	cancel  context.CancelFunc
}

// correspond has each speaker write to the next one.
func correspond(t *testing.T, speakers []*speaker, retry bool) *load {
	l := &load{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 4*patience)
	l.cancel = cancel
	for i, s := range speakers {
		l.all = append(l.all, &correspondent{speaker: s, to: speakers[(i+1)%len(speakers)]})
	}
	for _, c := range l.all {
		l.hearing.Go(func() { c.listen(ctx) })
		l.pumping.Go(func() { c.pump(ctx, &l.stopped, retry) })
	}
	t.Cleanup(func() { l.stop(); cancel(); l.hearing.Wait() })
	return l
}

func (l *load) stop() { l.stopped.Store(true); l.pumping.Wait() }

func (l *load) sum(of func(*correspondent) *atomic.Int64) (n int64) {
	for _, c := range l.all {
		n += of(c).Load()
	}
	return n
}

func (l *load) accepted() int64 {
	return l.sum(func(c *correspondent) *atomic.Int64 { return &c.accepted })
}
func (l *load) failed() int64 {
	return l.sum(func(c *correspondent) *atomic.Int64 { return &c.failed })
}
func (l *load) heard() int64 { return l.sum(func(c *correspondent) *atomic.Int64 { return &c.once }) }
func (l *load) twice() int64 { return l.sum(func(c *correspondent) *atomic.Int64 { return &c.twice }) }
func (l *load) replays() int64 {
	return l.sum(func(c *correspondent) *atomic.Int64 { return &c.replays })
}
func (l *load) strange() int64 {
	return l.sum(func(c *correspondent) *atomic.Int64 { return &c.strange })
}

// flows waits until n more messages of each were accepted, and each has heard n more.
func (l *load) flows(t *testing.T, n int64) {
	t.Helper()
	accepted, heard := map[*correspondent]int64{}, map[*correspondent]int64{}
	for _, c := range l.all {
		accepted[c], heard[c] = c.accepted.Load(), c.once.Load()
	}
	for _, c := range l.all {
		until(t, "messages flow", func() bool { return c.accepted.Load() >= accepted[c]+n && c.once.Load() >= heard[c]+n })
	}
}

// crowd is agents of other processes that use the whole cluster, one process each.
func crowd(t *testing.T, cluster []*nats.Network, c nats.Config, n int) []*speaker {
	t.Helper()
	keys := identity.NewRegistry(0)
	c.URL = everywhere(cluster)
	var all []*speaker
	for range n {
		all = append(all, join(t, newNetwork(t, c)).speaks(keys))
	}
	return all
}

func TestClusterLosesANodeAndRecoversByItself(t *testing.T) {
	cluster := newCluster(t, nats.Config{})
	l := correspond(t, crowd(t, cluster, brisk(nats.Config{}), 6), false)
	l.flows(t, 50)
	cluster[1].Kill()
	at, killed := time.Now(), l.heard()
	l.flows(t, 50)
	t.Logf("core mode: every agent was heard again %v after a node of three was stopped", time.Since(at).Round(time.Millisecond))
	l.stop()
	until(t, "what was accepted last arrives", func() bool { return l.settled() })
	t.Logf("core mode: %d messages accepted, %d Sends failed, %d heard (%d of them after the stop), %d lost with the node, %d refused as replays, %d delivered twice",
		l.accepted(), l.failed(), l.heard(), l.heard()-killed, l.accepted()-l.heard(), l.replays(), l.twice())
	if l.twice() > 0 || l.strange() > 0 {
		t.Errorf("%d messages were delivered twice, and %d refused that were no replays", l.twice(), l.strange())
	}
}

// settled reports whether nothing more comes in.
func (l *load) settled() bool {
	before := l.heard()
	time.Sleep(200 * time.Millisecond)
	return l.heard() == before
}

func TestDurableClusterLosesANodeAndNothingElse(t *testing.T) {
	cluster := newCluster(t, nats.Config{Durable: nats.Durable{Enabled: true}})
	c := brisk(nats.Config{Durable: nats.Durable{Enabled: true, AckWait: 2 * time.Second}})
	c.Grace = patience
	speakers := crowd(t, cluster, c, 4)
	for i, n := range cluster {
		if !n.SyncAlways() {
			t.Errorf("node %d does not sync every write", i)
		}
	}
	l := correspond(t, speakers, true)
	l.flows(t, 50)
	leader := 0
	for i, n := range cluster {
		if n.StreamLeader() {
			leader = i
		}
	}
	cluster[leader].Kill()
	at, killed := time.Now(), l.heard()
	l.flows(t, 50)
	t.Logf("durable mode: every agent was heard again %v after the stream's leader was stopped", time.Since(at).Round(time.Millisecond))
	l.stop()
	until(t, "everything that was accepted is heard", func() bool { return l.missing() == 0 })
	t.Logf("durable mode: %d messages accepted, %d Sends failed and were repeated, %d heard (%d of them after the stop), %d lost, %d refused as replays, %d delivered twice",
		l.accepted(), l.failed(), l.heard(), l.heard()-killed, l.missing(), l.replays(), l.twice())
	if l.twice() > 0 || l.strange() > 0 {
		t.Errorf("%d messages were delivered twice, and %d refused that were no replays", l.twice(), l.strange())
	}
}

// missing returns how many messages were accepted and are not heard yet. What a Send that failed has stored is heard too.
func (l *load) missing() (n int) {
	for _, s := range l.all {
		for i := range s.accepted.Load() {
			if _, ok := l.listener(s).heard.Load(s.id.ID().String() + fmt.Sprint(i)); !ok {
				n++
			}
		}
	}
	return n
}

// listener returns who hears a correspondent.
func (l *load) listener(of *correspondent) *correspondent {
	for _, c := range l.all {
		if c.speaker == of.to {
			return c
		}
	}
	return nil
}

func TestServersOfAClusterProveThemselves(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	part := func(tls nats.ServerTLS, password string) nats.Cluster {
		return nats.Cluster{Username: "server", Password: secretFile(t, password), TLS: tls}
	}
	var log logbook
	cluster := newClusterOf(t, nats.Config{Logger: log.logger(slog.LevelWarn)},
		part(ours.server(), "open sesame"), part(ours.server(), "open sesame"), part(ours.server(), "hunter2"), part(theirs.server(), "open sesame"))
	alice, bob, wrongLogin, foreign := join(t, cluster[0]), join(t, cluster[1]), join(t, cluster[2]), join(t, cluster[3])
	until(t, "servers that know each other are one", func() bool { return alice.try(bob.route(), "hello") == nil })
	bob.expect("hello")
	bob.send(alice.route(), "hello")
	alice.expect("hello")
	for name, other := range map[string]*agent{"the wrong password": wrongLogin, "a foreign certificate": foreign} {
		if err := alice.try(other.route(), "hello"); !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("a server with %s has joined: %v", name, err)
		}
	}
	until(t, "a server with the wrong password is counted", func() bool { // it tries now and then
		return cluster[0].Stats().Refused["unauthorized"]+cluster[1].Stats().Refused["unauthorized"] > 0
	})
	if log.lines("hunter2")+log.lines("sesame") > 0 {
		t.Error("the log holds a password")
	}
}
