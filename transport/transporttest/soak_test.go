package transporttest

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMalformedOnASoundTransport(t *testing.T) {
	expectNoLeak(t)
	r := Malformed(t, newLab(t, Blocks, 0, nil), MalformedConfig{Frames: garbled})
	if r.Frames != garbled || r.Failed != 0 || r.Honest == 0 || r.Refused["bad_signature"] == 0 || r.Refused["malformed"] == 0 || r.Refused["unknown_sender"] == 0 {
		t.Error(r)
	}
}

func TestMalformedCountsAttacksThatFail(t *testing.T) {
	r := Malformed(t, newLab(t, Blocks, 0, nil), MalformedConfig{Frames: 1000, Attackers: 1, Attack: func(context.Context, int, []byte) error {
		return errors.New("refused")
	}})
	if r.Frames != 1000 || r.Failed != 1000 {
		t.Error(r)
	}
}

// slowListener greets who sends a whole line, and closes what has not after a while, if so configured.
func slowListener(t *testing.T, reap time.Duration) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); listener.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				defer conn.Close()
				if reap > 0 {
					conn.SetDeadline(time.Now().Add(reap))
				}
				var text strings.Builder
				for one := make([]byte, 1); !strings.HasSuffix(text.String(), "\n"); text.Write(one) {
					if _, err := conn.Read(one); err != nil {
						return
					}
				}
				conn.Write([]byte("\n"))
			})
		}
	})
	return listener.Addr().String()
}

func greet(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 1))
		return err
	}
}

func TestSlowSocketsThatAreReaped(t *testing.T) {
	addr := slowListener(t, 300*time.Millisecond)
	r := SlowSockets(t, addr, 200, SlowConfig{Handshake: greet(addr), First: []byte("he"), Interval: 50 * time.Millisecond, P99: patience})
	if r.Opened != 200 || r.Handshakes == 0 {
		t.Error(r)
	}
}

func TestSlowSocketsThatStayAreNoticed(t *testing.T) {
	addr := slowListener(t, 0)
	c := SlowConfig{Handshake: greet(addr), Interval: 20 * time.Millisecond, P99: patience, Reaped: 1}
	order := slowOrder{Addr: addr, Sockets: 20, Interval: c.Interval, Patience: 100 * time.Millisecond}
	report := order.attack()
	r := SlowResult{Opened: report.Opened, Left: report.Left, Life: report.Life, Handshakes: 1, Failed: 1, P99: 2 * patience}
	if problems := strings.Join(r.problems(21, c), "; "); strings.Count(problems, ";") != 3 || r.Left != 20 {
		t.Errorf("%s: %s; want complaints about all but the life of a socket", r, problems)
	}
}
