package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/replay"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	quiet = slog.New(slog.DiscardHandler)
	key   = must(identity.FromSeed(bytes.Repeat([]byte{1}, 32)))
)

// thinker is an agent that goes by what it is shown alone, and by a number that it starts from.
type thinker struct {
	start  int // restored, or drawn
	seen   int
	change func(d []converge.Decision) []converge.Decision // what another version of it does
}

func (a *thinker) OnStart(context.Context) error { a.seen = a.start; return nil }

func (a *thinker) Checkpoint() ([]byte, error) { return fmt.Append(nil, a.start), nil }

func (a *thinker) Restore(state []byte) error {
	_, err := fmt.Sscan(string(state), &a.start)
	return err
}

func (a *thinker) Decide(_ context.Context, t converge.Turn) (d []converge.Decision, err error) {
	for _, m := range t.Messages {
		a.seen++
		if string(m.Body()) == "fail" {
			return nil, errors.New("I cannot")
		}
		d = append(d, converge.InvokeTool{Tool: "echo", CallID: fmt.Sprint(a.seen), Params: json.RawMessage(m.Body())})
		d = append(d, converge.InvokeTool{Tool: "forbidden", CallID: "x"}, converge.ReportTask{TaskID: "not mine"}, converge.Wake{After: time.Minute})
	}
	for _, r := range t.Results {
		body := "ok " + r.CallID + " " + string(r.Output.Data)
		if failed, is := errors.AsType[*tool.Error](r.Err); is && errors.Is(r.Err, tool.ErrDenied) {
			body = "denied " + failed.Tool
		}
		d = append(d, converge.SubmitTask{Spec: task.Spec{Kind: "work", Params: json.RawMessage(fmt.Sprintf("{\"body\":%q}", body))}})
	}
	for _, f := range t.Failures {
		if r, is := f.Decision.(converge.ReportTask); is && errors.Is(f.Err, converge.ErrNotHeld) {
			d = append(d, converge.CancelTask{TaskID: r.TaskID + "!"})
		}
	}
	if a.change != nil {
		d = a.change(d)
	}
	return d, nil
}

// record runs an agent on messages, and returns the folder of its receipts.
func record(t *testing.T, content bool, bodies ...string) string {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		registry, network := identity.NewRegistry(0), must(local.New(local.Config{}))
		alice, bob := must(identity.Generate()), must(identity.Generate())
		for _, id := range []*identity.Identity{alice, bob} {
			registry.Register(id.ID(), id.PublicKey())
		}
		tools := tool.NewRegistry()
		tools.Register(tool.Func("echo", func(_ context.Context, p json.RawMessage) (tool.Output, error) {
			return tool.Output{Data: p}, nil
		}), tool.Options{})
		l := must(audit.Open(audit.Config{Dir: dir, Key: key, Network: "test", Logger: quiet}))
		defer l.Close()
		for run := range 2 {
			r := must(converge.New(converge.Config{
				Identity: bob, Network: "test", Name: "bob", Agent: &thinker{start: 17 + run}, Registry: registry,
				Transport: network.Endpoint(bob.ID()), Logger: quiet,
				Audit:    converge.AuditConfig{Log: l, Content: content},
				Executor: &converge.ExecutorConfig{Tools: tools, ToolAllowlist: []string{"echo"}},
			}))
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- r.Run(ctx) }()
			synctest.Wait()
			signer := must(message.NewSigner(message.SignerConfig{Identity: alice, Network: "test"}))
			from := network.Endpoint(alice.ID())
			from.Start(t.Context())
			for _, body := range bodies {
				m := must(signer.Sign(t.Context(), message.Draft{To: bob.ID(), Body: []byte(body)}))
				if err := from.Send(t.Context(), transport.Route{To: bob.ID()}, m.Raw()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				time.Sleep(2 * time.Second)
			}
			from.Close()
			stop()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
		}
	})
	return dir
}

func bob(change func([]converge.Decision) []converge.Decision) replay.Config {
	return replay.Config{Name: "bob", Check: audit.Check{Key: key.ID()}, Agent: func(replay.At) (converge.Agent, error) {
		return &thinker{start: -1, change: change}, nil
	}}
}

func TestSameAgentDecidesTheSame(t *testing.T) {
	dir := record(t, true, `{"n":1}`, `fail`, `{"n":2}`)
	sum, err := replay.Run(t.Context(), bob(nil), dir)
	if err != nil || sum.Difference != nil {
		t.Fatalf("%v, %v", sum.Difference, err)
	}
	if sum.Starts != 2 || sum.Turns < 8 || sum.Decisions < 16 {
		t.Errorf("%+v", sum)
	}
}

func TestFirstDifferenceIsTold(t *testing.T) {
	dir := record(t, true, `{"n":1}`)
	for name, c := range map[string]struct {
		change         func(d []converge.Decision) []converge.Decision
		number         int
		recorded, then string
	}{
		"another tool": {func(d []converge.Decision) []converge.Decision {
			if call, is := first(d).(converge.InvokeTool); is {
				call.Tool = "rm"
				d[0] = call
			}
			return d
		}, 1, `"echo"`, `"rm"`},
		"one decision less": {func(d []converge.Decision) []converge.Decision { return d[:min(len(d), 3)] }, 4, "wake", ""},
		"one decision more": {func(d []converge.Decision) []converge.Decision {
			return append(d, converge.LeavePool{Pool: "painters"})
		}, 1, "", "painters"},
		"another priority": {func(d []converge.Decision) []converge.Decision {
			if sub, is := first(d).(converge.SubmitTask); is {
				sub.Spec.Priority = 7
				d[0] = sub
			}
			return d
		}, 1, `"Priority": 0`, `"Priority": 7`},
	} {
		sum, err := replay.Run(t.Context(), bob(c.change), dir)
		if d := sum.Difference; err != nil || d == nil || d.Turn == 0 || d.Number != c.number || !strings.Contains(d.Recorded, c.recorded) || !strings.Contains(d.Got, c.then) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

func first(d []converge.Decision) converge.Decision {
	if len(d) == 0 {
		return nil
	}
	return d[0]
}

func TestWhatIsNotRecordedIsSaid(t *testing.T) {
	dir := record(t, false, `{"n":1}`)
	if _, err := replay.Run(t.Context(), bob(nil), dir); !errors.Is(err, replay.ErrNotRecorded) {
		t.Errorf("without content: %v", err)
	}
	c := bob(nil)
	c.Name = "carol"
	if _, err := replay.Run(t.Context(), c, dir); !errors.Is(err, replay.ErrNoAgent) {
		t.Errorf("another agent: %v", err)
	}
	for field, c := range map[string]replay.Config{"Agent": {Name: "x"}, "Name": {Agent: c.Agent}} {
		if _, err := replay.Run(t.Context(), c, dir); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("no %s: %v", field, err)
		}
	}
}

// TestAgentThatPanicsDiffers has another version of the agent panic.
func TestAgentThatPanicsDiffers(t *testing.T) {
	dir := record(t, true, `{"n":1}`)
	sum, err := replay.Run(t.Context(), bob(func(d []converge.Decision) []converge.Decision {
		if len(d) > 0 {
			panic("no")
		}
		return d
	}), dir)
	if d := sum.Difference; err != nil || d == nil || d.Number != 0 || !strings.Contains(d.String(), "panic") {
		t.Errorf("%v, %v", d, err)
	}
}
