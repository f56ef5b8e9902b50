package transporttest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// SlowConfig configures [SlowSockets].
type SlowConfig struct {
	// Handshake makes one honest connection, from dialling to a peer that has proved its key; required.
	Handshake func(ctx context.Context) error
	First     []byte        // what each socket sends at once, such as the beginning of a handshake
	Interval  time.Duration // between the single bytes that follow; 0 means a second
	P99       time.Duration // bound of honest handshakes; 0 means 200 ms
	Reaped    time.Duration // bound of the life of a slow socket; 0 means 15 s
}

// SlowResult is what [SlowSockets] saw.
type SlowResult struct {
	Opened     int           // slow sockets that were connected
	Err        error         // why one was not
	Left       int           // those that the listener never closed
	Life       time.Duration // of the one that it let live longest
	Handshakes int           // honest ones meanwhile
	Failed     int           // those of them that failed
	P50, P99   time.Duration // of honest handshakes
}

// String sums up the result in one line.
func (r SlowResult) String() string {
	return fmt.Sprintf("%d slow sockets: %d left, the others were closed within %v; %d honest handshakes meanwhile, %d failed, p50 %v, p99 %v",
		r.Opened, r.Left, r.Life.Round(time.Millisecond), r.Handshakes, r.Failed, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond))
}

// slowVariable tells a child process of SlowSockets what to do.
const slowVariable = "CONVERGE_TRANSPORTTEST_SLOW"

// slowOrder is what it says.
type slowOrder struct {
	Addr     string
	Sockets  int
	First    []byte
	Interval time.Duration
	Patience time.Duration // how long to wait for the last socket to be closed
}

// slowReport is what the child process answers.
type slowReport struct {
	Opened, Left int
	Life         time.Duration
	Err          string // of the first socket that was not connected
}

// SlowSockets opens n sockets to addr that never come to an end with their handshake: they send a byte at
// a time. Each has a loopback address of its own (on Linux; all have the same one elsewhere). Meanwhile
// honest handshakes are made, one after the other. It fails t if they take too long or fail, or if slow
// sockets are left.
//
// The sockets belong to a child process, so that descriptors suffice: the test binary runs the calling test
// once more, up to this call. That should come early in the test.
func SlowSockets(t *testing.T, addr string, n int, c SlowConfig) SlowResult {
	t.Helper()
	if order := os.Getenv(slowVariable); order != "" {
		attackSlowly(t, order)
	}
	c.Interval = cmp.Or(c.Interval, time.Second)
	c.P99, c.Reaped = cmp.Or(c.P99, 200*time.Millisecond), cmp.Or(c.Reaped, 15*time.Second)
	order := slowOrder{Addr: addr, Sockets: n, First: c.First, Interval: c.Interval, Patience: 2*c.Reaped + 5*time.Second}
	child, report, err := startAttack(t.Context(), t.Name(), order)
	if err != nil {
		t.Fatalf("slow sockets: %v", err)
	}
	result := shakeHands(t.Context(), report, c)
	child.Wait() // it has reported; how its test ended is of no interest
	t.Log(result)
	for _, problem := range result.problems(n, c) {
		t.Error(problem)
	}
	return result
}

// problems says what is not as it should be.
func (r SlowResult) problems(n int, c SlowConfig) (found []string) {
	complain := func(wrong bool, format string, args ...any) {
		if wrong {
			found = append(found, fmt.Sprintf(format, args...))
		}
	}
	complain(r.Opened < n, "%d slow sockets of %d were connected, so the attack was not as planned: %v", r.Opened, n, r.Err)
	complain(r.Left > 0, "%d slow sockets were not closed", r.Left)
	complain(r.Life > c.Reaped, "a slow socket lived for %v, want %v at most", r.Life, c.Reaped)
	complain(r.Handshakes == 0, "no honest handshake came to an end")
	complain(r.Failed > 0, "%d honest handshakes of %d failed", r.Failed, r.Handshakes)
	complain(r.P99 > c.P99, "p99 of honest handshakes is %v, want %v at most", r.P99, c.P99)
	return found
}

// shakeHands makes honest handshakes until the attack is over.
func shakeHands(ctx context.Context, attack <-chan slowReport, c SlowConfig) (result SlowResult) {
	var took []time.Duration
	for {
		select {
		case r := <-attack:
			if r.Err != "" {
				result.Err = errors.New(r.Err)
			}
			result.Opened, result.Left, result.Life = r.Opened, r.Left, r.Life
			result.P50, result.P99 = percentile(took, 50), percentile(took, 99)
			return result
		default:
		}
		began := time.Now()
		err := handshake(ctx, c)
		took = append(took, time.Since(began))
		if result.Handshakes++; err != nil {
			result.Failed++
		}
	}
}

func handshake(ctx context.Context, c SlowConfig) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.Handshake(ctx)
}

// startAttack starts the child process, which is this test once more.
func startAttack(ctx context.Context, test string, order slowOrder) (*exec.Cmd, <-chan slowReport, error) {
	text, err := json.Marshal(order)
	if err != nil {
		return nil, nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for name := range strings.SplitSeq(test, "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	child := exec.CommandContext(ctx, os.Args[0], "-test.run="+strings.Join(names, "/"), "-test.count=1")
	child.Env = append(os.Environ(), slowVariable+"="+string(text))
	child.ExtraFiles = []*os.File{write}
	err = child.Start()
	write.Close()
	if err != nil {
		read.Close()
		return nil, nil, err
	}
	report := make(chan slowReport, 1)
	go func() {
		defer read.Close()
		r := slowReport{Err: "the process that was to open the sockets ended without a report"}
		if whole := new(slowReport); json.NewDecoder(read).Decode(whole) == nil {
			r = *whole
		}
		report <- r
	}()
	return child, report, nil
}

// attackSlowly is what the child process does.
func attackSlowly(t *testing.T, text string) {
	var order slowOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(os.NewFile(3, "report")).Encode(order.attack()); err != nil {
		t.Fatal(err)
	}
	t.SkipNow()
}

func (o slowOrder) attack() slowReport {
	var report slowReport
	var mu sync.Mutex
	var sockets sync.WaitGroup
	dialling := make(chan struct{}, 256)
	for i := range o.Sockets {
		dialling <- struct{}{}
		sockets.Go(func() {
			conn, err := o.dial(i)
			<-dialling
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				report.Err = err.Error()
				return
			}
			life, closed := o.dawdle(conn)
			mu.Lock()
			defer mu.Unlock()
			report.Opened++
			if closed {
				report.Life = max(report.Life, life)
			} else {
				report.Left++
			}
		})
	}
	sockets.Wait()
	return report
}

func (o slowOrder) dial(i int) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	if runtime.GOOS == "linux" { // where all of 127/8 is loopback
		i += 1 << 16
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, byte(i>>16), byte(i>>8), byte(i))}
	}
	return dialer.Dial("tcp", o.Addr)
}

// dawdle sends a byte at a time until the other side closes the connection, and reports how long that took
// and whether it happened.
func (o slowOrder) dawdle(conn net.Conn) (life time.Duration, closed bool) {
	defer conn.Close()
	began := time.Now()
	_, err := conn.Write(o.First)
	for err == nil {
		if life = time.Since(began); life > o.Patience {
			return life, false
		}
		conn.SetReadDeadline(time.Now().Add(o.Interval))
		for err == nil { // whatever it says
			_, err = conn.Read(make([]byte, 256))
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			_, err = conn.Write([]byte{'x'})
		}
	}
	return time.Since(began), true
}
