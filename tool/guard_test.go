package tool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/tool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run is the function of a tool.
type run = func(context.Context, json.RawMessage) (tool.Output, error)

func echo(_ context.Context, params json.RawMessage) (tool.Output, error) {
	return tool.Output{Data: params, ContentType: "application/json"}, nil
}

// hang honours its context and nothing else.
func hang(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
	<-ctx.Done()
	return tool.Output{}, ctx.Err()
}

func register(t testing.TB, r *tool.Registry, name string, fn run, o tool.Options) {
	t.Helper()
	if err := r.Register(tool.Func(name, fn), o); err != nil {
		t.Fatal(err)
	}
}

// guardOf makes a guard of one tool, "it".
func guardOf(t testing.TB, fn run, o tool.Options, c tool.GuardConfig) *tool.Guard {
	t.Helper()
	c.Tools = tool.NewRegistry()
	register(t, c.Tools, "it", fn, o)
	c.Allowlist = []string{"it"}
	return newGuard(t, c)
}

func newGuard(t testing.TB, c tool.GuardConfig) *tool.Guard {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	g, err := tool.NewGuard(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// logTo returns a logger of all levels and what it has written.
func logTo() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

func wantReason(t *testing.T, err, reason error) {
	t.Helper()
	typed, ok := errors.AsType[*tool.Error](err)
	if !ok || typed.Reason != reason || !errors.Is(err, reason) {
		t.Fatalf("error %v; want one whose reason is %q", err, reason)
	}
}

func TestToolNotOnAllowlistDoesNotRun(t *testing.T) {
	var ran atomic.Int64
	count := func(context.Context, json.RawMessage) (tool.Output, error) {
		ran.Add(1)
		return tool.Output{}, nil
	}
	r := tool.NewRegistry()
	register(t, r, "search", count, tool.Options{})
	register(t, r, "delete", count, tool.Options{})
	logger, log := logTo()
	g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: []string{"search"}, Agent: "scout", Logger: logger})

	names := []string{"delete", "Search", "search ", "searc", "search\x00", "", "*", "unheard of"}
	for _, name := range names {
		log.Reset()
		_, err := g.Run(t.Context(), name, nil)
		wantReason(t, err, tool.ErrDenied)
		var line struct{ Level, Agent, Tool string }
		if err := json.Unmarshal(log.Bytes(), &line); err != nil { // one line exactly
			t.Fatalf("log %q: %v", log, err)
		}
		if line.Level != "WARN" || line.Agent != "scout" || line.Tool != name {
			t.Errorf("log line %+v; want a warning that names scout and %q", line, name)
		}
	}
	if n := ran.Load(); n != 0 {
		t.Errorf("%d denied calls ran", n)
	}
	if s := g.Stats(); s.Denied != uint64(len(names)) || s.Run != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestEmptyAllowlistAllowsNothing(t *testing.T) {
	for _, allowlist := range [][]string{nil, {}} {
		r := tool.NewRegistry()
		register(t, r, "it", echo, tool.Options{})
		g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: allowlist})
		_, err := g.Run(t.Context(), "it", nil)
		wantReason(t, err, tool.ErrDenied)
	}
	g := newGuard(t, tool.GuardConfig{})
	_, err := g.Run(t.Context(), "it", nil)
	wantReason(t, err, tool.ErrDenied)
}

func TestToolRunsExactlyIfAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[ab.]{1,3}`)
		tools := rapid.SliceOfDistinct(name, rapid.ID[string]).Draw(t, "tools")
		r, ran := tool.NewRegistry(), ""
		for _, name := range tools {
			note := func(context.Context, json.RawMessage) (tool.Output, error) { ran = name; return tool.Output{}, nil }
			if err := r.Register(tool.Func(name, note), tool.Options{}); err != nil {
				t.Fatal(err)
			}
		}
		allowed := map[string]bool{}
		var allowlist []string
		for _, name := range tools {
			if allowed[name] = rapid.Bool().Draw(t, name); allowed[name] {
				allowlist = append(allowlist, name)
			}
		}
		g, err := tool.NewGuard(tool.GuardConfig{Tools: r, Allowlist: allowlist, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		called := name.Draw(t, "called")
		_, err = g.Run(context.Background(), called, nil)
		if (err == nil) != allowed[called] || (ran == called) != allowed[called] {
			t.Fatalf("called %q, allowed %q: ran %q, error %v", called, allowlist, ran, err)
		}
	})
}

func TestAllowlistOfUnknownToolIsRefused(t *testing.T) {
	r := tool.NewRegistry()
	register(t, r, "web.search", echo, tool.Options{})
	register(t, r, "web.fetch", echo, tool.Options{})
	_, err := tool.NewGuard(tool.GuardConfig{Tools: r, Allowlist: []string{"web.fetch", "web.serch", "zzz"}})
	if !errors.Is(err, tool.ErrUnknownTool) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{`"web.serch"`, `nearest registered name is "web.search"`, `"zzz"`, "register it first"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if _, err := tool.NewGuard(tool.GuardConfig{Allowlist: []string{"it"}}); !errors.Is(err, tool.ErrUnknownTool) {
		t.Errorf("without a registry: error %v", err)
	}
}

func TestToolRegisteredLaterIsNotAllowed(t *testing.T) {
	r := tool.NewRegistry()
	g := newGuard(t, tool.GuardConfig{Tools: r})
	register(t, r, "it", echo, tool.Options{})
	_, err := g.Run(t.Context(), "it", nil)
	wantReason(t, err, tool.ErrDenied)
}

func TestNegativeLimitsAreRefused(t *testing.T) {
	for field, c := range map[string]tool.GuardConfig{
		"Timeout":       {Timeout: -1},
		"MaxConcurrent": {MaxConcurrent: -1},
		"MaxWaiting":    {MaxWaiting: -1},
		"MaxOutput":     {MaxOutput: -1},
	} {
		if _, err := tool.NewGuard(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v; want one that names %s", err, field)
		}
	}
}

func TestOutputReachesTheCaller(t *testing.T) {
	g := guardOf(t, echo, tool.Options{}, tool.GuardConfig{})
	out, err := g.Run(t.Context(), "it", json.RawMessage(`{"a":1}`))
	if err != nil || string(out.Data) != `{"a":1}` || out.ContentType != "application/json" {
		t.Errorf("output %q (%s), error %v", out.Data, out.ContentType, err)
	}
	if out, err = g.Run(t.Context(), "it", nil); err != nil || string(out.Data) != `{}` {
		t.Errorf("without params: output %q, error %v", out.Data, err)
	}
	if s := g.Stats(); s.Run != 2 || s.Succeeded != 2 || s.Running != 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestCallersSliceIsItsOwnAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, got := make(chan struct{}), make(chan string, 1)
		g := guardOf(t, func(_ context.Context, params json.RawMessage) (tool.Output, error) {
			<-read
			got <- string(params)
			return tool.Output{}, nil
		}, tool.Options{}, tool.GuardConfig{})
		params := json.RawMessage(`{"a":1}`)
		_, err := g.Run(t.Context(), "it", params)
		wantReason(t, err, tool.ErrTimeout)
		copy(params, `{"b":2}`)
		close(read)
		if params := <-got; params != `{"a":1}` {
			t.Errorf("the tool read %s", params)
		}
	})
}

func TestTimeoutReturnsAtOnce(t *testing.T) {
	var end chan struct{}
	ignoring := func(context.Context, json.RawMessage) (tool.Output, error) {
		<-end
		return tool.Output{}, nil
	}
	for name, fn := range map[string]run{"honours its context": hang, "ignores its context": ignoring} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end = make(chan struct{})
				logger, log := logTo()
				g := guardOf(t, fn, tool.Options{}, tool.GuardConfig{Agent: "scout", Logger: logger})
				start := time.Now()
				_, err := g.Run(t.Context(), "it", nil)
				wantReason(t, err, tool.ErrTimeout)
				if took := time.Since(start); took != tool.DefaultTimeout {
					t.Errorf("returned after %v", took)
				}
				var line struct {
					Level, Agent, Tool string
					Timeout            time.Duration
				}
				if err := json.Unmarshal(log.Bytes(), &line); err != nil {
					t.Fatalf("log %q: %v", log, err)
				}
				if line.Level != "ERROR" || line.Agent != "scout" || line.Tool != "it" || line.Timeout != tool.DefaultTimeout {
					t.Errorf("log line %+v", line)
				}
				close(end)
				synctest.Wait()
				if s := g.Stats(); s.TimedOut != 1 || s.Running != 0 {
					t.Errorf("stats %+v", s)
				}
			})
		})
	}
}

func TestContextOfATool(t *testing.T) {
	type key struct{}
	ended := func(t *testing.T, ctx context.Context, want error) {
		t.Helper()
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		<-child.Done()
		if ctx.Err() != want || child.Err() != want {
			t.Errorf("context ended with %v, its child with %v; want %v", ctx.Err(), child.Err(), want)
		}
	}
	// Each case runs twice: the tool looks at its context during the call, or only afterwards.
	for _, c := range []struct {
		name       string
		callers    time.Duration // the caller's timeout
		cancel     bool          // the caller cancels after a second
		err, cause error
	}{
		{name: "late", err: context.DeadlineExceeded, cause: tool.ErrTimeout},
		{name: "late by the caller's deadline", callers: time.Second, err: context.DeadlineExceeded, cause: context.DeadlineExceeded},
		{name: "cancelled", cancel: true, err: context.Canceled, cause: errStop},
	} {
		for _, when := range []string{"during", "afterwards"} {
			t.Run(c.name+", seen "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var cause error
					g := guardOf(t, func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
						if when == "afterwards" {
							time.Sleep(time.Hour)
						} else if ctx.Value(key{}) != "caller's" {
							t.Error("a value of the caller's context is lost")
						}
						ended(t, ctx, c.err)
						cause = context.Cause(ctx)
						return tool.Output{}, ctx.Err()
					}, tool.Options{}, tool.GuardConfig{})
					ctx, stop := context.WithCancelCause(context.WithValue(t.Context(), key{}, "caller's"))
					defer stop(nil)
					if c.callers > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, c.callers)
						defer cancel()
					}
					if c.cancel {
						time.AfterFunc(time.Second, func() { stop(errStop) })
					}
					_, err := g.Run(ctx, "it", nil)
					g.Wait(t.Context())
					if !errors.Is(cause, c.cause) || !errors.Is(err, c.cause) {
						t.Errorf("cause %v, error %v; want %v", cause, err, c.cause)
					}
				})
			})
		}
	}
}

var errStop = errors.New("shutdown")

func TestContextEndsWithTheCall(t *testing.T) {
	for _, when := range []string{"during", "afterwards"} {
		var kept context.Context
		g := guardOf(t, func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
			kept = ctx
			if when == "during" && ctx.Err() != nil {
				t.Error(ctx.Err())
			}
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > tool.DefaultTimeout {
				t.Errorf("deadline %v, %v", deadline, ok)
			}
			return tool.Output{}, nil
		}, tool.Options{}, tool.GuardConfig{})
		if _, err := g.Run(t.Context(), "it", nil); err != nil {
			t.Fatal(err)
		}
		if <-kept.Done(); kept.Err() != context.Canceled {
			t.Errorf("asked %s: %v", when, kept.Err())
		}
	}
}

func TestGuardedToolBehindAnotherGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := guardOf(t, hang, tool.Options{}, tool.GuardConfig{Timeout: time.Minute})
		outer := guardOf(t, func(ctx context.Context, params json.RawMessage) (tool.Output, error) {
			return inner.Run(ctx, "it", params)
		}, tool.Options{}, tool.GuardConfig{Timeout: time.Second})
		start := time.Now()
		_, err := outer.Run(t.Context(), "it", nil)
		wantReason(t, err, tool.ErrTimeout)
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
		if err := outer.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if s := inner.Stats(); s.Cancelled != 1 || s.TimedOut != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestSmallerTimeoutHolds(t *testing.T) {
	for _, c := range []struct{ tool, guard, want time.Duration }{
		{0, 0, tool.DefaultTimeout},
		{0, time.Second, time.Second},
		{time.Hour, 0, time.Hour},
		{time.Second, time.Minute, time.Second},
		{time.Minute, time.Second, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := guardOf(t, hang, tool.Options{Timeout: c.tool}, tool.GuardConfig{Timeout: c.guard})
			start := time.Now()
			_, err := g.Run(t.Context(), "it", nil)
			wantReason(t, err, tool.ErrTimeout)
			if took := time.Since(start); took != c.want {
				t.Errorf("tool %v, guard %v: timed out after %v", c.tool, c.guard, took)
			}
		})
	}
}

func TestEndOfTheCallersContextIsNotATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := logTo()
		g := guardOf(t, hang, tool.Options{}, tool.GuardConfig{Logger: logger})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errStop) })
		_, err := g.Run(ctx, "it", nil)
		wantReason(t, err, tool.ErrCancelled)
		if !errors.Is(err, errStop) || log.Len() > 0 {
			t.Errorf("error %v, log %q", err, log)
		}
		_, err = g.Run(ctx, "it", nil) // nothing starts any more
		wantReason(t, err, tool.ErrCancelled)
		synctest.Wait()
		if s := g.Stats(); s.Run != 1 || s.Cancelled != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestThousandHungToolsStarveNobody(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		r := tool.NewRegistry()
		allowlist := []string{"works"}
		register(t, r, "works", echo, tool.Options{})
		for i := range 1000 {
			name := fmt.Sprintf("hangs.%d", i)
			register(t, r, name, hang, tool.Options{})
			allowlist = append(allowlist, name)
		}
		g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: allowlist})
		var calls sync.WaitGroup
		for _, name := range allowlist[1:] {
			calls.Go(func() {
				if _, err := g.Run(t.Context(), name, nil); !errors.Is(err, tool.ErrTimeout) {
					t.Errorf("%s: error %v", name, err)
				}
			})
		}
		synctest.Wait()
		if s := g.Stats(); s.Running != 1000 {
			t.Errorf("stats %+v", s)
		}
		start := time.Now()
		for range 1000 {
			if _, err := g.Run(t.Context(), "works", nil); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the working tool waited for %v", took)
		}
		calls.Wait()
		synctest.Wait()
		if s := g.Stats(); s.Running != 0 || s.TimedOut != 1000 || s.Succeeded != 1000 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestToolThatIgnoresItsContextKeepsOnlyItsOwnSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		r := tool.NewRegistry()
		register(t, r, "works", echo, tool.Options{})
		register(t, r, "stuck", func(context.Context, json.RawMessage) (tool.Output, error) {
			<-stuck
			return tool.Output{}, nil
		}, tool.Options{MaxConcurrent: 2})
		g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: []string{"works", "stuck"}, Timeout: time.Second})
		for range 2 {
			_, err := g.Run(t.Context(), "stuck", nil)
			wantReason(t, err, tool.ErrTimeout)
		}
		_, err := g.Run(t.Context(), "stuck", nil)
		wantReason(t, err, tool.ErrBusy) // it never ran, so it did not time out
		if s := g.Stats(); s.Running != 2 || s.Run != 2 || s.TimedOut != 2 || s.Busy != 1 {
			t.Errorf("stats %+v", s)
		}
		if _, err := g.Run(t.Context(), "works", nil); err != nil {
			t.Error(err)
		}
		close(stuck)
		synctest.Wait()
		if _, err := g.Run(t.Context(), "stuck", nil); err != nil {
			t.Errorf("after the hung calls ended: %v", err)
		}
	})
}

func TestCallsOfAToolAreCapped(t *testing.T) {
	for _, c := range []struct{ tool, guard, want int }{
		{0, 0, tool.DefaultMaxConcurrent}, {0, 3, 3}, {40, 0, 40}, {2, 5, 2}, {5, 2, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var running, most atomic.Int64
			g := guardOf(t, func(context.Context, json.RawMessage) (tool.Output, error) {
				n := running.Add(1)
				defer running.Add(-1)
				for {
					if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
						break
					}
				}
				time.Sleep(time.Millisecond)
				return tool.Output{}, nil
			}, tool.Options{MaxConcurrent: c.tool}, tool.GuardConfig{MaxConcurrent: c.guard})
			var calls sync.WaitGroup
			for range 100 {
				calls.Go(func() {
					if _, err := g.Run(t.Context(), "it", nil); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
			if n := int(most.Load()); n != c.want {
				t.Errorf("tool %d, guard %d: %d calls ran at once", c.tool, c.guard, n)
			}
		})
	}
}

func TestCallBeyondTheWaitingOnesIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := guardOf(t, hang, tool.Options{}, tool.GuardConfig{MaxConcurrent: 1, MaxWaiting: 2})
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { g.Run(ctx, "it", nil) })
			synctest.Wait()
		}
		if s := g.Stats(); s.Running != 1 || s.Waiting != 2 {
			t.Errorf("stats %+v", s)
		}
		start := time.Now()
		_, err := g.Run(ctx, "it", nil)
		wantReason(t, err, tool.ErrBusy)
		if took := time.Since(start); took != 0 {
			t.Errorf("refused after %v", took)
		}
		cancel()
		calls.Wait()
		synctest.Wait()
		if s := g.Stats(); s.Busy != 1 || s.Cancelled != 3 || s.Waiting != 0 || s.Run > 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestWaitForASlotCountsAgainstTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := guardOf(t, func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
			time.Sleep(6 * time.Second)
			return tool.Output{}, nil
		}, tool.Options{MaxConcurrent: 1}, tool.GuardConfig{Timeout: 10 * time.Second})
		var first, second error
		var calls sync.WaitGroup
		calls.Go(func() { _, first = g.Run(t.Context(), "it", nil) })
		synctest.Wait()
		calls.Go(func() { _, second = g.Run(t.Context(), "it", nil) })
		calls.Wait()
		if first != nil {
			t.Error(first)
		}
		wantReason(t, second, tool.ErrTimeout)
		synctest.Wait()
		time.Sleep(6 * time.Second)
	})
}

func TestOutputBeyondTheCapIsAnError(t *testing.T) {
	for _, c := range []struct{ tool, guard, want int }{
		{0, 0, tool.DefaultMaxOutput}, {10, 0, 10}, {0, 10, 10}, {10, 20, 10}, {20, 10, 10},
	} {
		var limit, size int
		g := guardOf(t, func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
			limit, _ = tool.OutputLimit(ctx)
			return tool.Output{Data: make([]byte, size)}, nil
		}, tool.Options{MaxOutput: c.tool}, tool.GuardConfig{MaxOutput: c.guard})
		size = c.want
		if out, err := g.Run(t.Context(), "it", nil); err != nil || len(out.Data) != size || limit != c.want {
			t.Errorf("%+v: %d bytes, limit %d, error %v", c, len(out.Data), limit, err)
		}
		size++
		out, err := g.Run(t.Context(), "it", nil)
		wantReason(t, err, tool.ErrOutputTooLarge)
		if len(out.Data) > 0 {
			t.Errorf("%d bytes came along with the error", len(out.Data))
		}
	}
	if _, ok := tool.OutputLimit(t.Context()); ok {
		t.Error("there is a limit where there is no guard")
	}
}

func TestPanicIsAnError(t *testing.T) {
	for name, fn := range map[string]run{
		"panic": func(context.Context, json.RawMessage) (tool.Output, error) { panic("hunter2") },
		"nil":   func(context.Context, json.RawMessage) (tool.Output, error) { panic(nil) },
		"Goexit": func(context.Context, json.RawMessage) (tool.Output, error) {
			runtime.Goexit()
			return tool.Output{}, nil
		},
		"no fn": nil,
	} {
		logger, log := logTo()
		g := guardOf(t, fn, tool.Options{}, tool.GuardConfig{MaxConcurrent: 1, Agent: "scout", Logger: logger})
		for range 2 { // the slot comes back
			_, err := g.Run(t.Context(), "it", nil)
			wantReason(t, err, tool.ErrPanicked)
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "goroutine") {
				t.Errorf("%s: the error tells too much: %v", name, err)
			}
		}
		if name == "panic" && (!strings.Contains(log.String(), `"level":"DEBUG"`) || !strings.Contains(log.String(), "guard_test.go")) {
			t.Errorf("log %q lacks the stack", log)
		}
		if strings.Contains(log.String(), "hunter2") {
			t.Errorf("the log holds the value: %q", log)
		}
		if s := g.Stats(); s.Panicked != 2 || s.Running != 0 {
			t.Errorf("%s: stats %+v", name, s)
		}
	}
}

func TestReasonsOfATool(t *testing.T) {
	cause := errors.New("no route to host")
	for _, c := range []struct{ err, reason error }{
		{cause, tool.ErrFailed},
		{fmt.Errorf("%w: the port is odd", tool.ErrInvalidParams), tool.ErrInvalidParams},
		{fmt.Errorf("%w: killed", tool.ErrOutputTooLarge), tool.ErrOutputTooLarge},
		{tool.ErrDenied, tool.ErrFailed},
		{&tool.Error{Tool: "inner", Reason: tool.ErrInvalidParams}, tool.ErrFailed},
	} {
		g := guardOf(t, func(context.Context, json.RawMessage) (tool.Output, error) {
			return tool.Output{Data: []byte("partial")}, c.err
		}, tool.Options{}, tool.GuardConfig{})
		out, err := g.Run(t.Context(), "it", nil)
		wantReason(t, err, c.reason)
		if !errors.Is(err, c.err) || out.Data != nil {
			t.Errorf("output %q, error %v", out.Data, err)
		}
	}
}

func TestErrorText(t *testing.T) {
	for want, err := range map[string]error{
		`tool "x": not on the allowlist`:        &tool.Error{Tool: "x", Reason: tool.ErrDenied},
		`tool "x": failed: no route`:            &tool.Error{Tool: "x", Reason: tool.ErrFailed, Err: errors.New("no route")},
		`tool "x": invalid params: odd`:         &tool.Error{Tool: "x", Reason: tool.ErrInvalidParams, Err: fmt.Errorf("%w: odd", tool.ErrInvalidParams)},
		`tool "\n\"x": busy`:                    &tool.Error{Tool: "\n\"x", Reason: tool.ErrBusy},
		`tool "x": timed out: no result in 3 s`: &tool.Error{Tool: "x", Reason: tool.ErrTimeout, Err: errors.New("no result in 3 s")},
	} {
		if err.Error() != want {
			t.Errorf("got %s; want %s", err, want)
		}
	}
}

func TestLongNamesAreClippedInLogsAndErrors(t *testing.T) {
	logger, log := logTo()
	g := newGuard(t, tool.GuardConfig{Logger: logger})
	_, err := g.Run(t.Context(), strings.Repeat("x", 1<<20), nil)
	wantReason(t, err, tool.ErrDenied)
	if len(err.Error()) > 300 || log.Len() > 500 {
		t.Errorf("the error has %d bytes, the log line %d", len(err.Error()), log.Len())
	}
}

func TestEachCallIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := tool.NewRegistry()
		end := make(chan struct{})
		tools := map[string]run{
			"works":  echo,
			"hangs":  func(context.Context, json.RawMessage) (tool.Output, error) { <-end; return tool.Output{}, nil },
			"fails":  func(context.Context, json.RawMessage) (tool.Output, error) { return tool.Output{}, errors.New("no") },
			"panics": func(context.Context, json.RawMessage) (tool.Output, error) { panic("no") },
			"talks": func(context.Context, json.RawMessage) (tool.Output, error) {
				return tool.Output{Data: make([]byte, 100)}, nil
			},
		}
		var allowlist []string
		for name, fn := range tools {
			register(t, r, name, fn, tool.Options{})
			allowlist = append(allowlist, name)
		}
		g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: allowlist, MaxConcurrent: 1, MaxWaiting: 1, MaxOutput: 50})
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { g.Run(t.Context(), "hangs", nil) })
		}
		for _, name := range append(allowlist, "denied") {
			if name != "hangs" {
				g.Run(t.Context(), name, nil)
			}
		}
		g.Run(t.Context(), "works", json.RawMessage(`[]`))
		g.Run(over, "works", nil)
		calls.Wait() // of the three, one ran, one waited, and one was refused
		close(end)
		synctest.Wait()
		want := tool.Stats{Run: 5, Succeeded: 1, Denied: 1, Invalid: 1, Busy: 2, TimedOut: 1, Cancelled: 1, TooLarge: 1, Panicked: 1, Failed: 1}
		if got := g.Stats(); got != want {
			t.Errorf("stats\n%+v; want\n%+v", got, want)
		}
	})
}

func TestStatsAddUp(t *testing.T) {
	// Each field gets a value of its own, so that a forgotten or a mixed one shows.
	var one, two, sum tool.Stats
	for i := range reflect.TypeFor[tool.Stats]().NumField() {
		for stats, value := range map[*tool.Stats]int{&one: i + 1, &two: 100 * i, &sum: i + 1 + 100*i} {
			field := reflect.ValueOf(stats).Elem().Field(i)
			field.Set(reflect.ValueOf(value).Convert(field.Type()))
		}
	}
	if got := one.Plus(two); got != sum {
		t.Errorf("%+v plus %+v is %+v", one, two, got)
	}
}

func TestWaitEndsWhenToolsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		g := guardOf(t, func(context.Context, json.RawMessage) (tool.Output, error) {
			<-end
			return tool.Output{}, nil
		}, tool.Options{}, tool.GuardConfig{Timeout: time.Second})
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.Run(t.Context(), "it", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 still running") {
			t.Errorf("error %v", err)
		}
		time.AfterFunc(time.Hour, func() { close(end) })
		var waits sync.WaitGroup
		for range 3 {
			waits.Go(func() {
				if err := g.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		waits.Wait()
	})
}

func BenchmarkGuard(b *testing.B) {
	params := json.RawMessage(`{"query":"agents","limit":10}`)
	empty := func(context.Context, json.RawMessage) (tool.Output, error) { return tool.Output{}, nil }
	direct := tool.Func("it", empty)
	b.Run("direct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			direct.Run(context.Background(), params)
		}
	})
	g := guardOf(b, empty, tool.Options{}, tool.GuardConfig{})
	b.Run("guarded", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Run(context.Background(), "it", params)
		}
	})
	asking := guardOf(b, func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
		return tool.Output{}, ctx.Err()
	}, tool.Options{}, tool.GuardConfig{})
	b.Run("guarded-context", func(b *testing.B) { // the tool looks at its context
		b.ReportAllocs()
		for b.Loop() {
			asking.Run(context.Background(), "it", params)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				g.Run(context.Background(), "it", params)
			}
		})
	})
	g = guardOf(b, empty, tool.Options{Schema: searchSchema()}, tool.GuardConfig{})
	b.Run("schema", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Run(context.Background(), "it", params)
		}
	})
	b.Run("denied", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Run(context.Background(), "other", params)
		}
	})
}
