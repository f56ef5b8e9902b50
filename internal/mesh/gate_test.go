package mesh

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
)

// testGate returns a gate with small limits.
func testGate(t *testing.T, c Config) *gate {
	t.Helper()
	c.Logger = slog.New(slog.DiscardHandler)
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(c, newLedger(c.Logger, nil))
	t.Cleanup(g.close)
	return g
}

// arrive admits a connection from an address; the other end is closed when the test ends.
func (g *gate) arrive(t *testing.T, from string) *entry {
	t.Helper()
	c, s := net.Pipe()
	t.Cleanup(func() { c.Close() })
	admitted, err := g.admit(s, prefixAround(netip.MustParseAddr(from)))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // of the bubble: so that one is older than the next
	return admitted.(*entry)
}

func (e *entry) open() bool {
	e.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := e.Read(make([]byte, 1))
	return !errors.Is(err, errCounted) && !errors.Is(err, io.ErrClosedPipe)
}

// books returns how many connections are unproven and proven, and of how many addresses.
func (g *gate) books() (unproven, proven, addresses int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unproven, g.proven, len(g.addresses)
}

func (g *gate) refusals(reason peertls.Reason) uint64 { return g.ledger.refused[reason].Load() }

func TestSlowHandshakesAreReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{HandshakeTimeout: 5 * time.Second})
		proven := g.arrive(t, "192.0.2.1")
		if err := proven.prove(proven.from); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			g.arrive(t, fmt.Sprintf("192.0.2.%d", i+2))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if unproven, _, addresses := g.books(); unproven != 0 || g.refusals(peertls.Timeout) != 100 || addresses != 1 {
			t.Errorf("%d unproven, %d reaped, %d addresses", unproven, g.refusals(peertls.Timeout), addresses)
		}
		if !proven.open() {
			t.Error("the proven connection was reaped too")
		}
	})
}

func TestOldestHandshakeOfAnAddressMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{MaxHandshakesPerAddress: 3})
		other := g.arrive(t, "198.51.100.1")
		var slow []*entry
		for range 5 {
			slow = append(slow, g.arrive(t, "192.0.2.1"))
		}
		for i, e := range slow {
			if e.open() != (i >= 2) {
				t.Errorf("connection %d of 5 is open: %t", i, e.open())
			}
		}
		if unproven, _, _ := g.books(); !other.open() || g.refusals(Evicted) != 2 || unproven != 4 {
			t.Errorf("the other address: %t; %d evicted, %d unproven", other.open(), g.refusals(Evicted), unproven)
		}
		if err := slow[0].prove(slow[0].from); err == nil {
			t.Error("an evicted connection can still be proved")
		}
	})
}

func TestBusiestAddressMakesRoomWhenAllIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{MaxHandshakes: 6, MaxHandshakesPerAddress: 5})
		honest := g.arrive(t, "198.51.100.1")
		var flood []*entry
		for range 4 {
			flood = append(flood, g.arrive(t, "192.0.2.1"))
		}
		for i := range 3 {
			g.arrive(t, fmt.Sprintf("203.0.113.%d", i+1))
		}
		if unproven, _, _ := g.books(); !honest.open() || unproven != 6 {
			t.Errorf("honest: %t; %d unproven", honest.open(), unproven)
		}
		for i, e := range flood {
			if e.open() != (i >= 2) {
				t.Errorf("connection %d of the busiest address is open: %t", i, e.open())
			}
		}
	})
}

func TestProvenConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{MaxConnections: 3, MaxPerAddress: 2})
		prove := func(from string) (*entry, error) {
			e := g.arrive(t, from)
			return e, e.prove(e.from)
		}
		reason := func(err error) peertls.Reason {
			if err == nil {
				return ""
			}
			return peertls.Refuse(err).Reason
		}
		first, _ := prove("192.0.2.1")
		prove("192.0.2.1")
		if _, err := prove("192.0.2.1"); reason(err) != TooManyFromAddress {
			t.Errorf("the third of an address: %v", err)
		}
		prove("192.0.2.2")
		if _, err := prove("192.0.2.3"); reason(err) != TooMany {
			t.Errorf("the fourth in all: %v", err)
		}
		first.Close()
		first.Close()
		_, err := prove("192.0.2.3")
		if _, proven, _ := g.books(); err != nil || proven != 3 {
			t.Errorf("once there is room: %v, %d proven", err, proven)
		}
	})
}

func TestForwardedAddressCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{MaxPerAddress: 1})
		for i := range 3 { // all by one proxy
			client := prefixAround(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
			if err := g.arrive(t, "192.0.2.1").prove(client); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		}
		again := prefixAround(netip.MustParseAddr("198.51.100.1"))
		if err := g.arrive(t, "192.0.2.1").prove(again); err == nil {
			t.Error("a second connection of one client")
		}
	})
}

// TestAdmittedTwiceMovesToTheOtherAddress: a proxy's connection counts for the client once that is known.
func TestAdmittedTwiceMovesToTheOtherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{MaxHandshakesPerAddress: 2})
		for i := range byte(10) {
			e := g.arrive(t, "192.0.2.1")
			moved, err := g.admit(e, prefixAround(netip.AddrFrom4([4]byte{198, 51, 100, i})))
			if err != nil || moved != net.Conn(e) {
				t.Fatalf("client %d: %v, %v", i, moved, err)
			}
		}
		if unproven, _, addresses := g.books(); unproven != 10 || addresses != 10 || g.refusals(Evicted) != 0 {
			t.Errorf("%d unproven of %d addresses, %d evicted", unproven, addresses, g.refusals(Evicted))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if unproven, _, addresses := g.books(); unproven != 0 || addresses != 0 || g.refusals(peertls.Timeout) != 10 {
			t.Errorf("%d unproven, %d addresses, %d reaped", unproven, addresses, g.refusals(peertls.Timeout))
		}
	})
}

func TestWhatCountsAsOneAddress(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		if same := prefixAround(netip.MustParseAddr(c.a)) == prefixAround(netip.MustParseAddr(c.b)); same != c.same {
			t.Errorf("%s and %s: %t", c.a, c.b, same)
		}
	}
	if prefixOf(&net.UnixAddr{Name: "x"}) != prefixOf(&net.UnixAddr{Name: "y"}) {
		t.Error("addresses of other networks are one")
	}
}

// TestListenerOutlivesErrorsOfAccept: out of descriptors is no reason to stop.
func TestListenerOutlivesErrorsOfAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{})
		c, s := net.Pipe()
		defer c.Close()
		failing := &failingListener{errs: []error{errors.New("accept: too many open files"), errors.New("accept: aborted")}, conn: s}
		got, err := listener{failing, g}.Accept()
		if err != nil || g.refusals(Accepting) != 2 {
			t.Fatalf("%v, %d errors counted", err, g.refusals(Accepting))
		}
		got.Close()
		if _, err := (listener{failing, g}).Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("once it is closed: %v", err)
		}
	})
}

type failingListener struct {
	net.Listener
	errs []error
	conn net.Conn
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

func TestClosedGateLetsNobodyIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{})
		unproven, proven := g.arrive(t, "192.0.2.1"), g.arrive(t, "192.0.2.1")
		proven.prove(proven.from)
		g.close()
		g.close()
		if unproven.open() || !proven.open() {
			t.Errorf("unproven open %t, proven open %t", unproven.open(), proven.open())
		}
		c, s := net.Pipe()
		if _, err := g.admit(s, netip.Prefix{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("admitted: %v", err)
		}
		if _, err := c.Write(nil); err == nil {
			t.Error("what was not admitted is open")
		}
	})
}

// TestConnectionMovesWhileTheGateCloses has a connection that came in before ask for another address afterwards, as
// a request behind a proxy does: it is closed, and nobody waits for anybody.
func TestConnectionMovesWhileTheGateCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := testGate(t, Config{})
		e := g.arrive(t, "192.0.2.1")
		g.close()
		if _, err := g.admit(e, prefixAround(netip.MustParseAddr("198.51.100.1"))); !errors.Is(err, net.ErrClosed) {
			t.Errorf("admit: %v", err)
		}
		if e.open() {
			t.Error("the connection is open")
		}
	})
}

func TestBucketBoundsFramesAndBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			frames, bytes int
			seconds       float64 // for 1,000 takes
		}{
			"frames": {1, 10, 99}, // ten at once, then ten a second
			"bytes":  {0, 1000, 999},
		} {
			b := newBucket(10, 1000)
			begin := time.Now()
			for range 1000 {
				time.Sleep(b.take(c.frames, c.bytes))
			}
			if took := time.Since(begin).Seconds(); took < c.seconds-1 || took > c.seconds+1 {
				t.Errorf("1,000 takes of %s took %.1f s, want %.1f", name, took, c.seconds)
			}
		}
	})
}
