package loadtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/loadtest"
	"github.com/converge-agents/converge/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// few is a measurement that is over at once.
func few(transport string, s loadtest.Signature) loadtest.Config {
	return loadtest.Config{
		Transport: transport,
		Connect:   loadtest.Over(transport),
		Signature: s,
		Messages:  500,
		Size:      32,
		Senders:   3,
		Logger:    quiet,
	}
}

func TestEveryMessageArrivesOnce(t *testing.T) {
	for _, transport := range loadtest.Transports() {
		for _, signature := range loadtest.Signatures() {
			t.Run(transport+"/"+string(signature), func(t *testing.T) {
				r, err := loadtest.Run(t.Context(), few(transport, signature))
				if err != nil {
					t.Fatal(err)
				}
				if r.Transport != transport || r.Signature != signature || r.Messages != 500 {
					t.Errorf("result of another measurement: %+v", r)
				}
				if r.MessagesPerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.AllocsPerMessage <= 0 {
					t.Errorf("figures that cannot be: %+v", r)
				}
			})
		}
	}
}

func TestResultHasTheKeysThatAreDocumented(t *testing.T) {
	text, err := json.Marshal(loadtest.Result{})
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	want := []string{"allocs_per_message", "cpu_seconds", "messages", "messages_per_second", "p50_us", "p99_us", "signature", "transport"}
	if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}

// TestRateIsKept runs on fake time: 60 messages at 20 a second take three seconds, and a local queue no
// time at all.
func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := few("local", loadtest.Single)
		c.Messages, c.Rate = 60, 20
		r, err := loadtest.Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if r.MessagesPerSecond < 20 || r.MessagesPerSecond > 21 || r.P99 != 0 {
			t.Errorf("result %+v, want 20 messages a second without delay", r)
		}
	})
}

func TestProgressCountsToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := few("local", loadtest.Single)
		c.Rate = 100
		var seen []int
		c.Progress = func(arrived, total int) {
			if total < c.Messages || arrived > total {
				t.Errorf("progress: %d of %d", arrived, total)
			}
			seen = append(seen, arrived)
		}
		if _, err := loadtest.Run(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if len(seen) < 10 || !slices.IsSorted(seen) {
			t.Errorf("progress of five seconds: %v", seen)
		}
	})
}

// fault does something to what one side sends.
type fault struct {
	every int // to each frame whose number is a multiple of it
	after int // and beyond that number
	do    func(send func([]byte) error, frame []byte) error
}

// faulty is a transport with a fault.
type faulty struct {
	transport.Transport
	fault fault
	mu    sync.Mutex
	sent  int
}

func (f *faulty) Send(ctx context.Context, to transport.Route, frame []byte) error {
	send := func(frame []byte) error { return f.Transport.Send(ctx, to, frame) }
	f.mu.Lock()
	f.sent++
	hit := f.sent > f.fault.after && f.sent%f.fault.every == 0
	f.mu.Unlock()
	if hit {
		return f.fault.do(send, frame)
	}
	return send(frame)
}

// faultyLink has a fault on the senders' side.
type faultyLink struct {
	loadtest.Link
	fault fault
}

func (l faultyLink) Sender(id *identity.Identity) (transport.Transport, error) {
	t, err := l.Link.Sender(id)
	return &faulty{Transport: t, fault: l.fault}, err
}

// measureWith runs a measurement over a local transport with a fault.
func measureWith(t *testing.T, s loadtest.Signature, f fault) (loadtest.Result, error) {
	t.Helper()
	c := few("local", s)
	c.Connect = func(p loadtest.Parties) (loadtest.Link, error) {
		l, err := loadtest.Over("local")(p)
		return faultyLink{l, f}, err
	}
	return loadtest.Run(t.Context(), c)
}

func lossOf(t *testing.T, err error) *loadtest.LossError {
	t.Helper()
	loss, ok := errors.AsType[*loadtest.LossError](err)
	if !ok {
		t.Fatalf("error %v, want a LossError", err)
	}
	return loss
}

func TestLostMessagesAreDetected(t *testing.T) {
	for _, signature := range loadtest.Signatures() {
		synctest.Test(t, func(t *testing.T) {
			_, err := measureWith(t, signature, fault{every: 100, after: 60, do: func(func([]byte) error, []byte) error { return nil }})
			loss := lossOf(t, err)
			if loss.Missing != 3 || loss.Twice != 0 || !strings.Contains(err.Error(), "3 of 548 messages did not arrive (one of them: number 99 of sender 1)") {
				t.Errorf("%s: %+v: %v", signature, loss, err)
			}
		})
	}
}

func TestMessagesLostInTheWarmUpAreDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := measureWith(t, loadtest.Single, fault{every: 7, do: func(func([]byte) error, []byte) error { return nil }})
		if loss := lossOf(t, err); loss.Missing < 500 || !strings.Contains(err.Error(), "number 6 of sender 1") {
			t.Errorf("%+v: %v", loss, err)
		}
	})
}

func TestReplayedMessagesAreDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := measureWith(t, loadtest.Single, fault{every: 100, do: func(send func([]byte) error, frame []byte) error {
			return errors.Join(send(frame), send(frame))
		}})
		if loss := lossOf(t, err); loss.Refused["refused, replayed"] != 3 || loss.Missing != 0 {
			t.Errorf("%+v: %v", loss, err)
		}
	})
}

// Without signatures nothing refuses a message that comes twice: the agent itself has to notice.
func TestDoubledUnsignedMessagesAreDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := measureWith(t, loadtest.Unsigned, fault{every: 100, do: func(send func([]byte) error, frame []byte) error {
			return errors.Join(send(frame), send(frame))
		}})
		if loss := lossOf(t, err); loss.Twice != 3 || loss.Missing != 0 {
			t.Errorf("%+v: %v", loss, err)
		}
	})
}

func TestAlteredMessagesAreDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := measureWith(t, loadtest.Batch, fault{every: 100, do: func(send func([]byte) error, frame []byte) error {
			altered := slices.Clone(frame)
			altered[len(altered)-1] ^= 1
			return send(altered)
		}})
		if loss := lossOf(t, err); loss.Refused["refused, bad_signature"] != 3 || loss.Missing != 3 {
			t.Errorf("%+v: %v", loss, err)
		}
	})
}

// Nor does anything refuse one that was made up.
func TestForgedUnsignedMessagesAreDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := measureWith(t, loadtest.Unsigned, fault{every: 100, do: func(send func([]byte) error, frame []byte) error {
			const signature, body, number = 2 + 64, 32, 8
			forged := slices.Clone(frame)
			forged[len(forged)-signature-body+number] = 1 // a number that no sender comes to
			return send(forged)
		}})
		if loss := lossOf(t, err); loss.Strange != 3 || loss.Missing != 3 {
			t.Errorf("%+v: %v", loss, err)
		}
	})
}

func TestErrorsOfSendingEndTheMeasurement(t *testing.T) {
	_, err := measureWith(t, loadtest.Single, fault{every: 100, do: func(func([]byte) error, []byte) error { return transport.ErrUnreachable }})
	if !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("error %v, want ErrUnreachable", err)
	}
}

func TestEndOfContextEndsTheMeasurement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, enough)
		defer cancel()
		c := few("local", loadtest.Single)
		c.Rate = 10
		_, err := loadtest.Run(ctx, c)
		if !errors.Is(err, enough) || !strings.Contains(err.Error(), "of 548 messages had arrived") {
			t.Errorf("error %v", err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for field, change := range map[string]func(*loadtest.Config){
		"Connect":   func(c *loadtest.Config) { c.Connect = nil },
		"Messages":  func(c *loadtest.Config) { c.Messages = loadtest.MaxMessages + 1 },
		"Size":      func(c *loadtest.Config) { c.Size = loadtest.MinSize - 1 },
		"Senders":   func(c *loadtest.Config) { c.Senders = -1 },
		"Rate":      func(c *loadtest.Config) { c.Rate = loadtest.MaxRate + 1 },
		"Patience":  func(c *loadtest.Config) { c.Patience = -1 },
		"Signature": func(c *loadtest.Config) { c.Signature = "none" },
	} {
		c := few("local", loadtest.Single)
		change(&c)
		if _, err := loadtest.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: error %v", field, err)
		}
	}
}

// BenchmarkPath is for profiles of the whole path: go test -bench Path/tcp/batch -cpuprofile ….
func BenchmarkPath(b *testing.B) {
	for _, transport := range loadtest.Transports() {
		for _, signature := range loadtest.Signatures() {
			b.Run(transport+"/"+string(signature), func(b *testing.B) {
				c := few(transport, signature)
				c.Messages, c.Size, c.Senders = b.N, 0, 0
				b.ReportAllocs()
				r, err := loadtest.Run(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.MessagesPerSecond, "messages/s")
				b.ReportMetric(r.CPUSeconds/float64(b.N)*1e6, "cpu-µs/message")
				b.ReportMetric(r.P50, "p50-µs")
				b.ReportMetric(r.P99, "p99-µs")
			})
		}
	}
}

// brokenLink fails at one of its steps.
type brokenLink struct {
	loadtest.Link
	receiver, sender error
}

func (l brokenLink) Receiver(id *identity.Identity) (transport.Transport, error) {
	t, err := l.Link.Receiver(id)
	return t, errors.Join(err, l.receiver)
}

func (l brokenLink) Sender(id *identity.Identity) (transport.Transport, error) {
	t, err := l.Link.Sender(id)
	return t, errors.Join(err, l.sender)
}

func TestErrorsOfTheLinkEndTheMeasurement(t *testing.T) {
	broken := errors.New("broken")
	for step, l := range map[string]brokenLink{"receiver": {receiver: broken}, "sender": {sender: broken}} {
		c := few("local", loadtest.Single)
		c.Connect = func(p loadtest.Parties) (loadtest.Link, error) {
			local, err := loadtest.Over("local")(p)
			l.Link = local
			return l, err
		}
		if _, err := loadtest.Run(t.Context(), c); !errors.Is(err, broken) {
			t.Errorf("%s: error %v", step, err)
		}
	}
	c := few("local", loadtest.Single)
	c.Connect = func(loadtest.Parties) (loadtest.Link, error) { return nil, broken }
	if _, err := loadtest.Run(t.Context(), c); !errors.Is(err, broken) {
		t.Errorf("connect: error %v", err)
	}
}
