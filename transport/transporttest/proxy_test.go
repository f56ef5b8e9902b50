package transporttest

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

// rig is a proxy before an echo server.
type rig struct {
	*Proxy
	t      *testing.T
	server net.Listener
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { server.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { defer conn.Close(); io.Copy(conn, conn) })
		}
	})
	p := NewProxy(t)
	p.Target(server.Addr().String())
	return &rig{p, t, server}
}

func (r *rig) dial() net.Conn { return r.dialTo(r.Addr()) }

func (r *rig) dialTo(addr string) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// refuses checks that a new connection is reset, at once or as soon as it is there.
func (r *rig) refuses(addr string) {
	r.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		r.t.Fatalf("%v, want a connection that is reset", err)
	}
}

func (r *rig) echoes(conn net.Conn, text string) {
	r.t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		r.t.Fatalf("write: %v", err)
	}
	r.reads(conn, text)
}

func (r *rig) reads(conn net.Conn, text string) {
	r.t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		r.t.Fatalf("read %q, %v, want %q", brief(got), err, brief([]byte(text)))
	}
}

func (r *rig) isReset(conn net.Conn) {
	r.t.Helper()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		r.t.Fatalf("read %d bytes, %v, want a connection that was reset", n, err)
	}
}

// isSilent checks that nothing arrives, by way of a second connection that is not silent, or of what the
// proxy itself knows.
func (r *rig) isSilent(conn net.Conn) {
	r.t.Helper()
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := conn.Read(make([]byte, 1))
	if netErr, ok := errors.AsType[net.Error](err); !ok || !netErr.Timeout() {
		r.t.Fatalf("read %d bytes, %v, want silence", n, err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
}

func TestProxyPassesBytesAndEnds(t *testing.T) {
	r := newRig(t)
	conn := r.dial()
	r.echoes(conn, strings.Repeat("0123456789", 100_000))
	conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil {
		t.Errorf("read %q, %v after the end of the stream", rest, err)
	}
	until(t, "the connection is gone", func() bool { return r.Connections() == 0 })
	if r.Accepted() != 1 {
		t.Errorf("Accepted() = %d", r.Accepted())
	}
}

func TestCutResetsOpenAndNewConnections(t *testing.T) {
	r := newRig(t)
	conn := r.dial()
	r.echoes(conn, "before")
	r.Cut()
	r.isReset(conn)
	r.refuses(r.Addr())
	r.Heal()
	r.echoes(r.dial(), "after")
	r.Target("")
	r.refuses(r.Addr())
}

func TestStallSwallowsOneDirection(t *testing.T) {
	for _, d := range []Direction{Forward, Backward, Forward | Backward} {
		r := newRig(t)
		open := r.dial()
		r.echoes(open, "before")
		r.Stall(d)
		fresh := r.dial()
		for _, conn := range []net.Conn{open, fresh} {
			io.WriteString(conn, "swallowed, there or back")
			r.isSilent(conn)
		}
		r.Heal()
		r.isReset(open)
		r.isReset(fresh)
		r.echoes(r.dial(), "after")
	}
}

func TestStalledDirectionHidesTheEnd(t *testing.T) {
	r := newRig(t)
	a, b := r.dial(), r.dial()
	r.echoes(a, "before")
	r.echoes(b, "before")
	r.Stall(Forward)
	a.(*net.TCPConn).CloseWrite()
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	r.isSilent(a)
	if r.Connections() != 2 {
		t.Errorf("%d connections, want both: the server cannot know that its peers left", r.Connections())
	}
}

func TestStrandSparesNewConnections(t *testing.T) {
	r := newRig(t)
	old := r.dial()
	r.echoes(old, "before")
	r.Strand()
	r.echoes(r.dial(), "new")
	io.WriteString(old, "swallowed")
	r.isSilent(old)
	old.Close()
	r.echoes(r.dial(), "newer")
}

func TestResetAfterCountsBytesOfBothDirections(t *testing.T) {
	r := newRig(t)
	r.ResetAfter(100)
	for range 2 {
		conn := r.dial()
		r.echoes(conn, strings.Repeat("x", 40))
		io.WriteString(conn, strings.Repeat("x", 40))
		n, err := io.Copy(io.Discard, conn)
		if n > 20 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d more bytes, %v, want 20 at most and a reset", n, err)
		}
	}
	r.Heal()
	r.echoes(r.dial(), strings.Repeat("x", 1000))
}

func TestReplayRepeatsWhatPassed(t *testing.T) {
	r := newRig(t)
	conn := r.dial()
	r.echoes(conn, "abc")
	r.Replay(Backward)
	r.reads(conn, "abc")
	r.Replay(Forward)
	r.reads(conn, "abc")
}

func TestSlowKeepsBytesApart(t *testing.T) {
	r := newRig(t)
	r.Slow(1 << 20)
	conn := r.dial()
	r.echoes(conn, strings.Repeat("x", 200<<10)) // how long it takes is nobody's promise; that it does not end is
	r.Slow(1)
	r.echoes(conn, "x")
	io.WriteString(conn, "y") // has to wait for a second to pass
	r.isSilent(conn)
}

func TestCloseOfABusyProxyWaitsForIt(t *testing.T) {
	r := newRig(t)
	for range 8 {
		conn := r.dial()
		go io.Copy(io.Discard, conn)
		go func() {
			for {
				if _, err := conn.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}()
	}
	until(t, "connections are open", func() bool { return r.Connections() == 8 })
	var closing sync.WaitGroup
	for range 2 {
		closing.Go(r.Proxy.Close)
	}
	closing.Wait()
	if r.Connections() != 0 {
		t.Errorf("%d connections after Close", r.Connections())
	}
}

func TestWiresBreakThePathsOfOnePair(t *testing.T) {
	r := newRig(t)
	w := NewWires(t)
	a, b, c := identity.ID{1}, identity.ID{2}, identity.ID{3}
	via := func(from, to identity.ID) net.Conn { return r.dialTo(w.Address(from, to)) }
	r.refuses(w.Address(a, b)) // b does not listen yet
	for _, id := range []identity.ID{a, b, c} {
		w.Listens(id, r.server.Addr().String())
	}
	there, back, aside := via(a, b), via(b, a), via(a, c)
	for _, conn := range []net.Conn{there, back, aside} {
		r.echoes(conn, "before")
	}
	w.Stall(a, b)
	for _, conn := range []net.Conn{there, back} {
		io.WriteString(conn, "swallowed")
		r.isSilent(conn)
	}
	r.echoes(aside, "not concerned")
	w.Cut(b, a)
	r.isReset(there)
	r.isReset(back)
	r.echoes(aside, "not concerned")
	w.Heal(a, b)
	r.echoes(via(a, b), "after")
	r.echoes(via(b, a), "after")
}
