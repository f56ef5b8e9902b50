package approval_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

func TestPolicyDecidesWithoutAsking(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := start(t, s, approval.Config{})
	harmless := wipe()
	harmless.Annotations = tool.Annotations{ReadOnly: true}
	if err := p.Approve(t.Context(), harmless); err != nil {
		t.Errorf("allowed by the policy: %v", err)
	}
	if v := p.last(); v.Outcome != approval.PolicyAllowed || v.Rule != 2 || v.Request != "" || v.Cause != 7 || v.Err != nil {
		t.Errorf("verdict %+v", v)
	}
	rules, err := policy.NewRules([]policy.Rule{{When: `tool == "wipe"`, Then: policy.Deny, Reason: "disks stay"}})
	if err != nil {
		t.Fatal(err)
	}
	p = start(t, s, approval.Config{Policy: rules})
	if err := p.Approve(t.Context(), wipe()); !errors.Is(err, approval.ErrPolicy) || !strings.Contains(err.Error(), "disks stay") {
		t.Errorf("denied by the policy: %v", err)
	}
	none(t, s)
}

func TestBrokenOrMissingPolicyDenies(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string][]policy.Rule{
		"empty": {},
		"fails": {{When: `params.path == "x"`, Then: policy.Allow}, {When: "true", Then: policy.Allow}},
	} {
		r, err := policy.NewRules(rules)
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, newStore(t), approval.Config{Policy: r})
		harmless := wipe()
		harmless.Annotations = tool.Annotations{}
		if err := p.Approve(t.Context(), harmless); !errors.Is(err, approval.ErrPolicy) {
			t.Errorf("%s: %v", name, err)
		}
	}
	missing, err := approval.New(approval.Config{Store: newStore(t), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := missing.Approve(t.Context(), tool.Request{Tool: "look"}); !errors.Is(err, approval.ErrPolicy) {
		t.Errorf("no policy: %v", err)
	}
}

func TestAskedCallWaitsUntilSomebodyAllowsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p, other := start(t, s, approval.Config{}), start(t, s, approval.Config{})
		ended := asked(t.Context(), p, wipe())
		r := only(t, other)
		want := approval.Request{
			ID: r.ID, Agent: "ada", AgentID: "00ff", Tool: "wipe", Description: "wipes a disk", Destructive: true,
			Params: `{"disk":"sda"}`, ParamsSize: 15, ParamsSHA256: r.ParamsSHA256, Taint: []string{"peer:01"}, TaskID: "t-1", CallID: "c-1",
			Rule: 1, Reason: "the tool is destructive", Asked: time.Now().UTC(), Expires: time.Now().Add(10 * minute).UTC(), State: approval.Waiting,
		}
		if got, expected := fmt.Sprintf("%+v", r), fmt.Sprintf("%+v", want); got != expected || len(r.ParamsSHA256) != 64 {
			t.Errorf("shown\n%s, want\n%s", got, expected)
		}
		time.Sleep(9 * minute)
		waits(t, ended)
		answer(t, other, r.ID, true)
		wantEnd(t, ended, nil)
		v := p.last()
		if v.Outcome != approval.AllowedBy || v.Request != r.ID || v.By != "root (uid 0)" || v.Claimed != "eve" || v.Note != "on Friday" || v.Cause != 7 || !v.Decided.Equal(time.Now()) {
			t.Errorf("verdict %+v", v)
		}
		none(t, s)
		if stats := p.Stats(); stats.Asked != 1 || stats.Waiting != 0 || stats.Outcomes[approval.AllowedBy] != 1 {
			t.Errorf("stats %+v", stats)
		}
		if ended, err := p.Get(t.Context(), r.ID); err != nil || ended.State != approval.Allowed {
			t.Errorf("afterwards: %+v, %v", ended, err)
		}
	})
}

func TestDenialReachesTheAgentAndStands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		ended := asked(t.Context(), p, wipe())
		answer(t, p, only(t, p).ID, false)
		wantEnd(t, ended, approval.ErrRefused)
		for range 3 { // to ask until somebody is tired of saying no does not help
			err := p.Approve(t.Context(), wipe())
			if !errors.Is(err, approval.ErrRefused) || !strings.Contains(err.Error(), "on Friday") || strings.Contains(err.Error(), "root") {
				t.Errorf("the agent is told %q", err)
			}
		}
		time.Sleep(10 * minute)
		ended = asked(t.Context(), p, wipe())
		waits(t, ended)
		answer(t, p, only(t, p).ID, true)
		wantEnd(t, ended, nil)
		none(t, s)
	})
}

func TestNobodyDecidesInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{Timeout: minute})
		began := time.Now()
		err := p.Approve(t.Context(), wipe())
		if !errors.Is(err, approval.ErrTimedOut) || time.Since(began) != minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		none(t, s)
		id := p.last().Request
		if _, err := p.Decide(t.Context(), id, approval.Decision{Allow: true}); !errors.Is(err, approval.ErrEnded) {
			t.Errorf("deciding then: %v", err)
		}
	})
}

func TestFirstDecisionCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		ended := asked(t.Context(), p, wipe())
		id := only(t, p).ID
		p.store.dead.Store(true) // it does not come for the decision
		deciders := []*process{start(t, s, approval.Config{}), start(t, s, approval.Config{})}
		var won, lost atomic.Int64
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				_, err := deciders[i%2].Decide(t.Context(), id, approval.Decision{Allow: i%3 == 0, By: fmt.Sprint(i)})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, approval.ErrDecided):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 || lost.Load() != 19 {
			t.Errorf("%d decisions count, and %d do not", won.Load(), lost.Load())
		}
		synctest.Wait()
		if err := <-ended; err == nil {
			t.Error("the call runs, though its process cannot use the decision up")
		}
	})
}

func TestDecisionThatComesTooLateDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		dead, other := start(t, s, approval.Config{}), start(t, s, approval.Config{})
		kill(t, dead, wipe())
		id := only(t, other).ID
		time.Sleep(10 * minute)
		if all, err := other.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("requests whose time is over are listed: %v, %v", all, err)
		}
		if _, err := other.Decide(t.Context(), id, approval.Decision{Allow: true}); !errors.Is(err, approval.ErrEnded) {
			t.Errorf("deciding too late: %v", err)
		}
		if _, err := other.Decide(t.Context(), "0123456789abcdef", approval.Decision{Allow: true}); !errors.Is(err, approval.ErrUnknown) {
			t.Errorf("deciding on nothing: %v", err)
		}
	})
}

// kill begins a call in a process that dies while it waits.
func kill(t testing.TB, p *process, r tool.Request) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := asked(ctx, p, r)
	waits(t, ended)
	p.store.dead.Store(true)
	cancel()
	synctest.Wait()
	wantEnd(t, ended, context.Canceled)
}

func TestRestartedProcessFindsItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		dead := start(t, s, approval.Config{})
		kill(t, dead, wipe())
		successor := start(t, s, approval.Config{})
		before := only(t, successor)
		time.Sleep(4 * minute)
		again := wipe()
		again.CallID = "c-2" // as every call of another run
		ended := asked(t.Context(), successor, again)
		if now := only(t, successor); now.ID != before.ID || !now.Expires.Equal(before.Expires) {
			t.Errorf("there is another request: %+v, before %+v", now, before)
		}
		answer(t, successor, before.ID, true)
		wantEnd(t, ended, nil)
		none(t, s)
	})
}

func TestRestartedProcessUsesADecisionOnce(t *testing.T) {
	t.Parallel()
	for _, allow := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			dead := start(t, s, approval.Config{})
			kill(t, dead, wipe())
			successor := start(t, s, approval.Config{})
			answer(t, successor, only(t, successor).ID, allow)
			first := asked(t.Context(), successor, wipe())
			if !allow {
				wantEnd(t, first, approval.ErrRefused)
				return
			}
			wantEnd(t, first, nil)
			ctx, cancel := context.WithCancel(t.Context())
			second := asked(ctx, successor, wipe())
			waits(t, second)
			cancel()
			synctest.Wait()
			none(t, s)
		})
	}
}

func TestReplayOfApprovalForOtherCallIsNotAccepted(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*tool.Request){
		"other agent":  func(r *tool.Request) { r.AgentID = "00fe" },
		"other name":   func(r *tool.Request) { r.Agent = "eve" },
		"other tool":   func(r *tool.Request) { r.Tool = "wipe2" },
		"other params": func(r *tool.Request) { r.Params = json.RawMessage(`{"disk": "sdb"}`) },
		"other task":   func(r *tool.Request) { r.TaskID = "t-2" },
		"more taint":   func(r *tool.Request) { r.Taint = r.Taint.With(taint.Tool("fetch")) },
		"any taint":    func(r *tool.Request) { r.Taint = taint.Of(taint.Many) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			kill(t, start(t, s, approval.Config{}), wipe())
			p := start(t, s, approval.Config{})
			answer(t, p, only(t, p).ID, true)
			other := wipe()
			change(&other)
			ctx, cancel := context.WithCancel(t.Context())
			ended := asked(ctx, p, other)
			waits(t, ended)
			cancel()
			synctest.Wait()
			if o := p.last().Outcome; o != approval.CallEnded {
				t.Errorf("%s: %s", name, o)
			}
		})
	}
}

func TestMoreTaintThanShownIsShownAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		first := asked(t.Context(), p, wipe())
		shown := only(t, p)
		worse := wipe()
		worse.Taint = taint.Of(taint.Tool("fetch"))
		second := asked(t.Context(), p, worse)
		now := only(t, p)
		if now.ID == shown.ID || !slices.Equal(now.Taint, []string{"peer:01", "tool:fetch"}) {
			t.Errorf("shown is %+v", now)
		}
		if _, err := p.Decide(t.Context(), shown.ID, approval.Decision{Allow: true}); !errors.Is(err, approval.ErrUnknown) {
			t.Errorf("deciding on what was shown before: %v", err)
		}
		waits(t, first)
		waits(t, second)
		answer(t, p, now.ID, false)
		wantEnd(t, first, approval.ErrRefused)
		wantEnd(t, second, approval.ErrRefused)
	})
}

func TestTwoCallsAlikeNeedTwoApprovals(t *testing.T) {
	t.Parallel()
	for name, same := range map[string]bool{"one process": true, "two processes": false} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			a := start(t, s, approval.Config{})
			b := a
			if !same {
				b = start(t, s, approval.Config{})
			}
			ended := make(chan error, 2)
			for _, p := range []*process{a, b} {
				go func() { ended <- p.Approve(t.Context(), wipe()) }()
			}
			synctest.Wait()
			first := only(t, a).ID
			answer(t, a, first, true)
			wantEnd(t, ended, nil)
			waits(t, ended)
			second := only(t, a).ID
			if first == second {
				t.Errorf("%s: the request that was used up is there again", name)
			}
			if _, err := a.Decide(t.Context(), first, approval.Decision{Allow: true}); err == nil {
				t.Errorf("%s: the first request can be decided twice", name)
			}
			waits(t, ended)
			answer(t, b, second, true)
			wantEnd(t, ended, nil)
			none(t, s)
		})
	}
}

func TestCallThatEndsWithdrawsItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		lost := errors.New("the claim is lost")
		ctx, cancel := context.WithCancelCause(t.Context())
		one, two := asked(ctx, p, wipe()), asked(t.Context(), p, wipe())
		id := only(t, p).ID
		cancel(lost)
		synctest.Wait()
		wantEnd(t, one, lost)
		if only(t, p).ID != id {
			t.Error("the request of a call that still waits has changed")
		}
		answer(t, p, id, true)
		wantEnd(t, two, nil)

		ctx, cancel = context.WithCancelCause(t.Context())
		one, two = asked(ctx, p, wipe()), asked(ctx, p, wipe())
		id = only(t, p).ID
		cancel(lost)
		synctest.Wait()
		wantEnd(t, one, lost)
		wantEnd(t, two, lost)
		none(t, s)
		if _, err := p.Decide(t.Context(), id, approval.Decision{Allow: true}); !errors.Is(err, approval.ErrEnded) {
			t.Errorf("deciding on a request that was withdrawn: %v", err)
		}
	})
}

func TestEndOfTheServiceEndsAllThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }()
		var all []<-chan error
		for i := range 10 {
			r := wipe()
			r.TaskID = fmt.Sprint(i)
			all = append(all, asked(t.Context(), p, r))
		}
		stop()
		synctest.Wait()
		wantEnd(t, ran, nil)
		for _, ended := range all {
			wantEnd(t, ended, tool.ErrCancelled)
		}
		none(t, s)
		if err := p.Approve(t.Context(), wipe()); !errors.Is(err, approval.ErrStopped) {
			t.Errorf("asking afterwards: %v", err)
		}
		none(t, s)
		if err := p.Run(t.Context()); err == nil {
			t.Error("Run can be called twice")
		}
	})
}

func TestTooManyRequestsAreDenied(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{MaxPending: 5, MaxPendingPerAgent: 3})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		call := func(agent string, task int) <-chan error {
			r := wipe()
			r.AgentID, r.TaskID = agent, fmt.Sprint(task)
			return asked(ctx, p, r)
		}
		var waiting []<-chan error
		for i := range 3 {
			waiting = append(waiting, call("aa", i))
		}
		wantEnd(t, call("aa", 3), approval.ErrTooMany)
		waiting = append(waiting, call("aa", 2)) // asks nothing new
		waiting = append(waiting, call("bb", 0), call("bb", 1))
		wantEnd(t, call("bb", 2), approval.ErrTooMany)
		wantEnd(t, call("cc", 0), approval.ErrTooMany)
		for _, ended := range waiting {
			waits(t, ended)
		}
		all, err := p.List(t.Context())
		if err != nil || len(all) != 5 {
			t.Fatalf("%d requests, %v", len(all), err)
		}
		answer(t, p, all[0].ID, false)
		waits(t, call("cc", 0))
		time.Sleep(10 * minute)
		synctest.Wait()
		waits(t, call("cc", 1))
	})
}

func TestRequestsOfDeadProcessesEndByThemselves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		kill(t, start(t, s, approval.Config{}), wipe())
		denied := wipe()
		denied.TaskID = "t-2"
		kill(t, start(t, s, approval.Config{}), denied)
		foreign := wipe()
		foreign.TaskID = "t-3"
		kill(t, start(t, s, approval.Config{Key: []byte("a key that died with its process")}), foreign)
		p := start(t, s, approval.Config{})
		all, err := p.List(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatal(all, err)
		}
		answer(t, p, all[1].ID, false)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }()
		time.Sleep(9 * minute)
		if all, err := p.List(t.Context()); err != nil || len(all) != 2 {
			t.Errorf("swept before their time is over: %v, %v", all, err)
		}
		time.Sleep(2 * minute)
		synctest.Wait()
		none(t, s)
		if v := p.last(); len(p.outcomes()) != 1 || v.Outcome != approval.NobodyDecided || v.Request != all[0].ID || v.Tool != "wipe" {
			t.Errorf("verdicts %v, the last %+v", p.outcomes(), v)
		}
		stop()
		<-ran
	})
}

func TestStoreThatDoesNotAnswerDenies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, newStore(t), approval.Config{})
		p.store.dead.Store(true)
		if err := p.Approve(t.Context(), wipe()); err == nil || errors.Is(err, errKilled) {
			t.Errorf("without a store: %v", err)
		}
		if p.last().Outcome != approval.NotAsked {
			t.Errorf("verdict %+v", p.last())
		}
		s := newStore(t)
		p = start(t, s, approval.Config{})
		ended := asked(t.Context(), p, wipe())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := <-ended; err == nil {
			t.Error("allowed by the end of the store")
		}
	})
}

func TestAllowanceCopiedToOtherCallIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		kill(t, start(t, s, approval.Config{}), wipe())
		p := start(t, s, approval.Config{})
		answer(t, p, only(t, p).ID, true)
		other := wipe()
		other.Params = json.RawMessage(`{"disk": "sdb"}`)
		kill(t, start(t, s, approval.Config{}), other)
		var entries []store.Entry
		for e, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e)
		}
		for i, e := range entries { // each gets what the other had
			if _, err := s.Put(t.Context(), e.Key, entries[1-i].Value, e.Revision); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range []tool.Request{wipe(), other} {
			if err := p.Approve(t.Context(), r); err == nil {
				t.Errorf("%s is allowed by the record of another call", r.Params)
			}
		}
		if s := p.Stats(); s.Outcomes[approval.NotAsked] != 2 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestAmbiguousParamsAreNotAskedAbout(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	p := start(t, s, approval.Config{})
	for _, params := range []string{`{"disk": "sdb", "disk": "sda"}`, `[]`, `{`} {
		r := wipe()
		r.Params = json.RawMessage(params)
		if err := p.Approve(t.Context(), r); !errors.Is(err, approval.ErrPolicy) {
			t.Errorf("%s: %v", params, err)
		}
	}
	none(t, s)
}

func TestNothingIsHiddenBehindLongParams(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]string{
		"spaces":      `{` + strings.Repeat(" ", 100_000) + `"path": "/etc/passwd"}`,
		"a long text": `{"a": "` + strings.Repeat("é", 50_000) + `", "path": "/etc/passwd"}`,
		"deeper":      `{"a": [{"b": "` + strings.Repeat("x", 50_000) + `"}], "path": "/etc/passwd"}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, newStore(t), approval.Config{Timeout: minute})
			r := wipe()
			r.Params = json.RawMessage(params)
			ended := asked(t.Context(), p, r)
			shown := only(t, p)
			if !strings.Contains(shown.Params, `"path":"/etc/passwd"`) || !json.Valid([]byte(shown.Params)) || shown.ParamsSize != len(params) {
				t.Errorf("%s: shown is %.200q", name, shown.Params)
			}
			if shown.ParamsCut != (name != "spaces") {
				t.Errorf("%s: cut is %v", name, shown.ParamsCut)
			}
			<-ended
		})
	}
	synctest.Test(t, func(t *testing.T) {
		many, err := json.Marshal(map[string]any{"list": make([]int, 50_000)})
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, newStore(t), approval.Config{Timeout: minute})
		r := wipe()
		r.Params = many
		ended := asked(t.Context(), p, r)
		if shown := only(t, p); len(shown.Params) != approval.MaxShown || !shown.ParamsCut {
			t.Errorf("shown are %d bytes, cut %v", len(shown.Params), shown.ParamsCut)
		}
		<-ended
	})
}

func TestHostileTextsFitIntoRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := start(t, newStore(t), approval.Config{Timeout: minute})
		long := strings.Repeat("\xffé", 5000)
		r := wipe()
		r.Agent, r.AgentID, r.Tool, r.Description, r.TaskID, r.CallID = long, long, long, long, long, long
		r.Taint = taint.Of(long, "a"+long)
		ended := asked(t.Context(), p, r)
		answer(t, p, only(t, p).ID, true)
		wantEnd(t, ended, nil)
	})
}

// TestNoMoreCallsRunThanWereAllowed has calls, some of them alike, come and go, in three processes that are
// killed now and then, while others decide at random.
func TestNoMoreCallsRunThanWereAllowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		decider := start(t, s, approval.Config{})
		var ran, allowed atomic.Int64
		var calls sync.WaitGroup
		for i := range 60 {
			p := start(t, s, approval.Config{Timeout: 20 * time.Second})
			calls.Go(func() {
				time.Sleep(time.Duration(i*7%31) * time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%40)*time.Second)
				defer cancel()
				if i%5 == 0 {
					context.AfterFunc(ctx, func() { p.store.dead.Store(true) })
				}
				r := wipe()
				r.TaskID = fmt.Sprint(i % 4)
				if p.Approve(ctx, r) == nil {
					ran.Add(1)
				}
			})
		}
		for i := range 100 {
			time.Sleep(700 * time.Millisecond)
			all, err := decider.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range all {
				d := approval.Decision{Allow: i%4 != 0}
				if _, err := decider.Decide(t.Context(), r.ID, d); err == nil && d.Allow {
					allowed.Add(1)
				}
			}
		}
		calls.Wait()
		if ran.Load() > allowed.Load() || ran.Load() == 0 {
			t.Errorf("%d calls ran, and %d were allowed", ran.Load(), allowed.Load())
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for field, c := range map[string]approval.Config{
		"Store":              {},
		"Timeout":            {Store: s, Timeout: -1},
		"Key":                {Store: s, Key: []byte("short")},
		"MaxPending ":        {Store: s, MaxPending: approval.MostPending + 1},
		"MaxPendingPerAgent": {Store: s, MaxPendingPerAgent: -1},
	} {
		if _, err := approval.New(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	p := start(t, s, approval.Config{})
	for field, d := range map[string]approval.Decision{
		"By": {By: strings.Repeat("x", approval.MaxBy+1)}, "Claimed": {Claimed: "\xff"}, "Note": {Note: strings.Repeat("x", approval.MaxNote+1)},
	} {
		if _, err := p.Decide(t.Context(), "0123456789abcdef", d); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// skewed is a store with a clock of its own.
type skewed struct {
	store.Store
	ahead time.Duration
}

func (s skewed) Now(context.Context) (time.Time, error) { return time.Now().Add(s.ahead), nil }

func TestTimeIsThatOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := newStore(t)
		c := approval.Config{Store: skewed{shared, 5 * time.Hour}, Policy: policy.BuiltIn(), Timeout: minute, Logger: quiet}
		s, err := approval.New(c)
		if err != nil {
			t.Fatal(err)
		}
		p := &process{Service: s}
		began := time.Now()
		ended := asked(t.Context(), p, wipe())
		if r := only(t, p); !r.Asked.Equal(began.Add(5*time.Hour)) || r.Expires.Sub(r.Asked) != minute {
			t.Errorf("asked at %v until %v", r.Asked, r.Expires)
		}
		time.Sleep(minute)
		synctest.Wait()
		wantEnd(t, ended, approval.ErrTimedOut)
		none(t, shared)
	})
}

// TestStoreCannotAllowCalls has somebody who may write to the store do what they can.
func TestStoreCannotAllowCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		p := start(t, s, approval.Config{})
		thief := start(t, s, approval.Config{Key: []byte("the key of somebody else, and as long")})
		ended := asked(t.Context(), p, wipe())
		id := only(t, p).ID
		if all, err := thief.List(t.Context()); err != nil || len(all) != 0 || thief.Stats().Foreign == 0 {
			t.Errorf("with another key %v is listed, %v", all, err)
		}
		if _, err := thief.Decide(t.Context(), id, approval.Decision{Allow: true}); !errors.Is(err, approval.ErrUnknown) {
			t.Errorf("deciding with another key: %v", err)
		}
		if err := thief.Approve(t.Context(), wipe()); err == nil || thief.last().Outcome != approval.NotAsked {
			t.Errorf("asking for the same call with another key: %v", err)
		}

		// The allowance of the thief's own request, put in the place of the other.
		var genuine store.Entry
		for e, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			genuine = e
		}
		elsewhere := newStore(t)
		forger := start(t, elsewhere, approval.Config{Key: []byte("the key of somebody else, and as long")})
		kill(t, forger, wipe())
		forger = start(t, elsewhere, approval.Config{Key: []byte("the key of somebody else, and as long")})
		answer(t, forger, only(t, forger).ID, true)
		forged, err := elsewhere.Get(t.Context(), genuine.Key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), genuine.Key, forged.Value, genuine.Revision); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := <-ended; err == nil {
			t.Error("a forged allowance counts")
		}
		time.Sleep(time.Hour)
		if err := p.Approve(timeout(t, minute), wipe()); !errors.Is(err, context.DeadlineExceeded) { // the forged record is over, and gives way
			t.Errorf("an hour later: %v", err)
		}
	})
}

func timeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestReplayOfAUsedAllowanceByTheStoreIsNotAccepted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		kill(t, start(t, s, approval.Config{}), wipe())
		p := start(t, s, approval.Config{})
		answer(t, p, only(t, p).ID, true)
		var kept store.Entry
		for e, err := range s.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			kept = e
		}
		if err := p.Approve(t.Context(), wipe()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Put(t.Context(), kept.Key, kept.Value, 0); err != nil {
			t.Fatal(err)
		}
		ended := asked(timeout(t, minute), p, wipe())
		waits(t, ended)
		if now := only(t, p); now.State != approval.Waiting {
			t.Errorf("the request is %+v", now)
		}
		time.Sleep(minute)
		synctest.Wait()
		wantEnd(t, ended, context.DeadlineExceeded)
		none(t, s)
	})
}

func BenchmarkApproveByThePolicy(b *testing.B) {
	p := start(b, newStore(b), approval.Config{})
	s, err := approval.New(approval.Config{Store: p.store, Policy: policy.BuiltIn(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	r := wipe()
	r.Annotations = tool.Annotations{}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Approve(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
