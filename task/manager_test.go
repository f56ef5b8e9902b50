package task_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

func TestMain(m *testing.M) {
	flag.Set("rapid.checks", propertyChecks)
	flag.Parse() // what the command line says counts
	goleak.VerifyTestMain(m)
}

var (
	submitter = identity.ID{0xab}
	alice     = task.Profile{Agent: identity.ID{1}}
	bob       = task.Profile{Agent: identity.ID{2}}
)

func TestLifeOfATask(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("here", 3600))
	m := newManager(t, newStore(t), func(c *task.Config) { c.Now = func() time.Time { return now } })
	ctx := t.Context()
	spec := task.Spec{
		ID: "t/1", Kind: "resize", Params: json.RawMessage(`{"to": 7}`), Capabilities: []string{"gpu", "cpu", "gpu"},
		Topic: message.MustTopic("images.new@2"), Pool: "painters", Submitter: submitter, ClaimTTL: time.Minute,
		Deadline: now.Add(time.Hour), Priority: 5,
	}
	profile := task.Profile{
		Agent: alice.Agent, Capabilities: []string{"cpu", "gpu", "ram"}, Pools: []string{"painters"},
		Topics: []message.Pattern{message.MustPattern("images.*")},
	}
	submitted, err := m.Submit(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	want := task.Task{Spec: spec, Status: task.Pending, CreatedAt: now.UTC(), UpdatedAt: now.UTC(), Revision: submitted.Revision}
	want.Capabilities, want.Deadline = []string{"cpu", "gpu"}, spec.Deadline.UTC()
	wantTask(t, m, submitted, want)

	claim, claimed, err := m.Claim(ctx, "t/1", profile)
	if err != nil {
		t.Fatal(err)
	}
	want.Status, want.Claimant, want.Epoch, want.ClaimExpires = task.Assigned, alice.Agent, 1, now.Add(time.Minute).UTC()
	want.Revision = claimed.Revision
	wantTask(t, m, claimed, want)
	if expected := (task.Claim{TaskID: "t/1", Agent: alice.Agent, Epoch: 1, Expires: want.ClaimExpires}); claim != expected {
		t.Errorf("Claim gives %+v, want %+v", claim, expected)
	}

	now = now.Add(30 * time.Second)
	if claim, err = m.Heartbeat(ctx, claim); err != nil || !claim.Expires.Equal(now.Add(time.Minute)) {
		t.Fatalf("Heartbeat gives %+v, %v", claim, err)
	}
	now = now.Add(45 * time.Second)
	reported, err := m.Report(ctx, claim, []byte("result"), "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	want.Status, want.ClaimExpires, want.UpdatedAt = task.Completed, time.Time{}, now.UTC()
	want.Result, want.ResultType, want.Revision = []byte("result"), "text/plain", reported.Revision
	wantTask(t, m, reported, want)

	if stats, want := m.Stats(), (task.Stats{Submitted: 1, Claimed: 1, Completed: 1}); stats != want {
		t.Errorf("Stats gives %+v, want %+v", stats, want)
	}
}

// wantTask checks what a call returned, and that the store agrees.
func wantTask(t *testing.T, m *task.Manager, got, want task.Task) {
	t.Helper()
	stored, err := m.Get(t.Context(), want.ID)
	if err != nil || !reflect.DeepEqual(stored, got) {
		t.Fatalf("Get gives %+v, %v, and the call gave %+v", stored, err, got)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

// Terminal is terminal, and in each state only what may follow does. The operations are tried with and
// without somebody attached.
func TestRefusals(t *testing.T) {
	type outcomes map[string]error
	all := func(err error) outcomes {
		return outcomes{"claim": err, "heartbeat": err, "report": err, "fail": err, "release": err, "cancel": err}
	}
	states := map[string]struct {
		reach func(*fixture)
		want  outcomes // of operations with the first claim; what is missing succeeds
	}{
		"pending":   {func(*fixture) {}, outcomes{"heartbeat": task.ErrClaimLost, "report": task.ErrClaimLost, "fail": task.ErrClaimLost, "release": task.ErrClaimLost}},
		"assigned":  {func(f *fixture) { f.claimAs(alice) }, outcomes{"claim": task.ErrNotPending}},
		"completed": {func(f *fixture) { f.claimAs(alice); f.must(f.do("report")) }, all(task.ErrTerminal)},
		"failed":    {func(f *fixture) { f.claimAs(alice); f.must(f.do("fail")) }, all(task.ErrTerminal)},
		"cancelled": {func(f *fixture) { f.claimAs(alice); f.must(f.do("cancel")) }, all(task.ErrTerminal)},
		"released": {func(f *fixture) { f.claimAs(alice); f.must(f.do("release")) },
			outcomes{"heartbeat": task.ErrClaimLost, "report": task.ErrClaimLost, "fail": task.ErrClaimLost, "release": task.ErrClaimLost}},
		"taken over": {func(f *fixture) {
			f.claimAs(alice)
			f.must(f.do("release"))
			first := f.claim
			f.claimAs(bob)
			f.claim = first
		},
			outcomes{"claim": task.ErrNotPending, "heartbeat": task.ErrClaimLost, "report": task.ErrClaimLost, "fail": task.ErrClaimLost, "release": task.ErrClaimLost}},
		"retaken": {func(f *fixture) {
			f.claimAs(alice)
			f.must(f.do("release"))
			first := f.claim
			f.claimAs(alice)
			f.claim = first
		},
			outcomes{"claim": task.ErrNotPending, "heartbeat": task.ErrClaimLost, "report": task.ErrClaimLost, "fail": task.ErrClaimLost, "release": task.ErrClaimLost}},
		"completed by another": {func(f *fixture) {
			f.claimAs(alice)
			f.must(f.do("release"))
			first := f.claim
			f.claimAs(bob)
			f.must(f.do("report"))
			f.claim = first
		}, outcomes{"claim": task.ErrTerminal, "heartbeat": task.ErrClaimLost, "report": task.ErrClaimLost, "fail": task.ErrClaimLost, "release": task.ErrClaimLost, "cancel": task.ErrTerminal}},
	}
	for name, state := range states {
		for _, op := range []string{"claim", "heartbeat", "report", "fail", "release", "cancel"} {
			for _, attached := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/attached=%t", name, op, attached), func(t *testing.T) {
					f := newFixture(t)
					if attached {
						defer f.m.Attach(func(task.Task) {})()
					}
					state.reach(f)
					before := f.get()
					err := f.do(op)
					if !errors.Is(err, state.want[op]) {
						t.Fatalf("%s gives %v, want %v", op, err, state.want[op])
					}
					if after := f.get(); err != nil && !reflect.DeepEqual(after, before) {
						t.Errorf("%s was refused and changed %+v to %+v", op, before, after)
					}
				})
			}
		}
	}
}

// fixture is a manager with one task, and the latest claim of it.
type fixture struct {
	t     *testing.T
	m     *task.Manager
	claim task.Claim
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, m: newManager(t, newStore(t)), claim: task.Claim{TaskID: "t", Agent: alice.Agent, Epoch: 1}}
	_, err := f.m.Submit(t.Context(), task.Spec{ID: "t", Kind: "work", Submitter: submitter})
	f.must(err)
	return f
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) get() task.Task {
	got, err := f.m.Get(f.t.Context(), "t")
	f.must(err)
	return got
}

func (f *fixture) claimAs(p task.Profile) {
	var err error
	f.claim, _, err = f.m.Claim(f.t.Context(), "t", p)
	f.must(err)
}

func (f *fixture) do(op string) error {
	ctx := f.t.Context()
	var err error
	switch op {
	case "claim":
		_, _, err = f.m.Claim(ctx, "t", bob)
	case "heartbeat":
		_, err = f.m.Heartbeat(ctx, f.claim)
	case "report":
		_, err = f.m.Report(ctx, f.claim, []byte("1"), "application/json")
	case "fail":
		_, err = f.m.Fail(ctx, f.claim, "no")
	case "release":
		_, err = f.m.Release(ctx, f.claim)
	case "cancel":
		_, err = f.m.Cancel(ctx, "t", submitter)
	}
	return err
}

func TestForgedClaimsAreRefused(t *testing.T) {
	f := newFixture(t)
	forged := []task.Claim{{TaskID: "t"}, {TaskID: "t", Agent: bob.Agent}, {TaskID: "t", Epoch: 1}}
	try := func(c task.Claim) {
		if _, err := f.m.Report(t.Context(), c, nil, ""); !errors.Is(err, task.ErrClaimLost) {
			t.Errorf("Report with %+v gives %v", c, err)
		}
	}
	for _, c := range forged {
		try(c)
	}
	f.claimAs(alice)
	for _, c := range append(forged, task.Claim{TaskID: "t", Agent: bob.Agent, Epoch: 1}, task.Claim{TaskID: "t", Agent: alice.Agent, Epoch: 2}) {
		try(c)
	}
}

func TestOnlyTheSubmitterCancels(t *testing.T) {
	f := newFixture(t)
	for _, by := range []identity.ID{{}, alice.Agent} {
		if _, err := f.m.Cancel(t.Context(), "t", by); !errors.Is(err, task.ErrNotSubmitter) {
			t.Errorf("Cancel by %s gives %v", by.Short(), err)
		}
	}
	cancelled, err := f.m.Cancel(t.Context(), "t", submitter)
	if err != nil || cancelled.Status != task.Cancelled {
		t.Errorf("Cancel gives %v, %v", cancelled.Status, err)
	}
}

func TestUnknownTasks(t *testing.T) {
	m := newManager(t, newStore(t))
	ctx := t.Context()
	for _, id := range []string{"unknown", "../../etc"} {
		_, err := m.Get(ctx, id)
		wantIs(t, err, task.ErrNotFound)
		_, _, err = m.Claim(ctx, id, alice)
		wantIs(t, err, task.ErrNotFound)
		_, err = m.Cancel(ctx, id, submitter)
		wantIs(t, err, task.ErrNotFound)
		_, err = m.Report(ctx, task.Claim{TaskID: id, Agent: alice.Agent}, nil, "")
		wantIs(t, err, task.ErrNotFound)
	}
	for _, id := range []string{"", "a b", "a\nb", strings.Repeat("x", 129)} {
		_, err := m.Get(ctx, id)
		wantIs(t, err, task.ErrInvalid)
	}
	_, _, err := m.Claim(ctx, "unknown", task.Profile{})
	wantIs(t, err, task.ErrInvalid)
}

func TestSubmitTwice(t *testing.T) {
	f := newFixture(t)
	_, err := f.m.Submit(t.Context(), task.Spec{ID: "t", Kind: "other", Submitter: alice.Agent})
	wantIs(t, err, task.ErrExists)
	f.must(f.do("cancel"))
	_, err = f.m.Submit(t.Context(), task.Spec{ID: "t", Kind: "other", Submitter: alice.Agent})
	wantIs(t, err, task.ErrExists)
	if f.get().Kind != "work" {
		t.Errorf("the task is now %+v", f.get())
	}
}

func TestSubmitDefaults(t *testing.T) {
	m := newManager(t, newStore(t))
	seen := map[string]bool{}
	for range 3 {
		got, err := m.Submit(t.Context(), task.Spec{Kind: "work", Submitter: submitter})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.ID) != 32 || seen[got.ID] || string(got.Params) != "{}" || got.ClaimTTL != 30*time.Second {
			t.Errorf("Submit gives %+v", got)
		}
		seen[got.ID] = true
	}
}

func TestSubmitNamesTheFieldAtFault(t *testing.T) {
	m := newManager(t, newStore(t))
	long := strings.Repeat("x", 129)
	tests := map[string]func(*task.Spec){
		"ID has 129":              func(s *task.Spec) { s.ID = long },
		`ID "a b"`:                func(s *task.Spec) { s.ID = "a b" },
		"Kind has 0":              func(s *task.Spec) { s.Kind = "" },
		`Kind "é"`:                func(s *task.Spec) { s.Kind = "é" },
		"Pool has 129":            func(s *task.Spec) { s.Pool = long },
		"Params has 262145":       func(s *task.Spec) { s.Params = json.RawMessage(`{"a":"` + strings.Repeat("x", 256<<10-7) + `"}`) },
		"Params is not":           func(s *task.Spec) { s.Params = json.RawMessage(`[1]`) },
		"Params is not a":         func(s *task.Spec) { s.Params = json.RawMessage(`{"a":1} {}`) },
		"Params is not a JSON":    func(s *task.Spec) { s.Params = json.RawMessage(" ") },
		"Params is not a JSON ob": func(s *task.Spec) { s.Params = json.RawMessage("{\"a\":\"\xff\"}") },
	}
	tests["Capabilities[0] has 0"] = func(s *task.Spec) { s.Capabilities = []string{"a", ""} } // sorted
	tests[`Capabilities[1] "b c"`] = func(s *task.Spec) { s.Capabilities = []string{"b c", "a"} }
	tests["Capabilities names 33"] = func(s *task.Spec) {
		for i := range 33 {
			s.Capabilities = append(s.Capabilities, fmt.Sprint("c", i))
		}
	}
	tests["Submitter is not set"] = func(s *task.Spec) { s.Submitter = identity.ID{} }
	tests["ClaimTTL is 9ms"] = func(s *task.Spec) { s.ClaimTTL = 9 * time.Millisecond }
	tests["ClaimTTL is -1s"] = func(s *task.Spec) { s.ClaimTTL = -time.Second }
	tests["ClaimTTL is 24h0m0.000000001s"] = func(s *task.Spec) { s.ClaimTTL = 24*time.Hour + 1 }
	tests["Deadline 1970-01-01 00:00:00 +0000 UTC is over"] = func(s *task.Spec) { s.Deadline = time.Unix(0, 0) }
	tests["Deadline 1066"] = func(s *task.Spec) { s.Deadline = time.Date(1066, 1, 1, 0, 0, 0, 0, time.UTC) }
	tests["Deadline 2999"] = func(s *task.Spec) { s.Deadline = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC) }
	for want, spoil := range tests {
		spec := task.Spec{ID: "t", Kind: "work", Submitter: submitter}
		spoil(&spec)
		_, err := m.Submit(t.Context(), spec)
		if !errors.Is(err, task.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Submit gives %v, want it to say %q", err, want)
		}
	}
	if tasks := m.Visible(alice, 10); tasks != nil {
		t.Errorf("refused tasks are visible: %v", tasks)
	}
}

func TestSubmitAtTheLimits(t *testing.T) {
	m := newManager(t, newStore(t))
	name := strings.Repeat("x", 128)
	spec := task.Spec{ID: name, Kind: name, Pool: name, Submitter: submitter, ClaimTTL: task.MaxClaimTTL}
	spec.Params = json.RawMessage(` {"a":"` + strings.Repeat("x", task.MaxParams-9) + `"}`)
	spec.Topic = message.MustTopic(strings.Repeat("t", message.MaxTopicText))
	for i := range task.MaxCapabilities {
		spec.Capabilities = append(spec.Capabilities, fmt.Sprintf("%0128d", i))
	}
	if _, err := m.Submit(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	all := task.Profile{Agent: alice.Agent, Capabilities: spec.Capabilities, Pools: []string{name}, Topics: []message.Pattern{message.MustPattern(">")}}
	claim, _, err := m.Claim(t.Context(), name, all)
	if err != nil {
		t.Fatal(err)
	}
	result := bytes.Repeat([]byte{0xff}, task.MaxResult)
	_, err = m.Report(t.Context(), claim, append(result, 0), "")
	wantIs(t, err, task.ErrInvalid)
	_, err = m.Report(t.Context(), claim, nil, "text/plain\n")
	wantIs(t, err, task.ErrInvalid)
	_, err = m.Report(t.Context(), claim, nil, strings.Repeat("x", 129))
	wantIs(t, err, task.ErrInvalid)
	if _, err := m.Report(t.Context(), claim, result, name); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Get(t.Context(), name); err != nil || !bytes.Equal(got.Result, result) || got.ResultType != name {
		t.Errorf("Get gives a result of %d bytes, %v", len(got.Result), err)
	}
}

func TestLongReasonIsCut(t *testing.T) {
	f := newFixture(t)
	f.claimAs(alice)
	failed, err := f.m.Fail(t.Context(), f.claim, "bad\xff"+strings.Repeat("é", task.MaxReason))
	f.must(err)
	if failed.Status != task.Failed || len(failed.Error) > task.MaxReason || len(failed.Error) < task.MaxReason-8 ||
		!utf8.ValidString(failed.Error) || !strings.HasPrefix(failed.Error, "bad\uFFFDé") || !strings.HasSuffix(failed.Error, "é…") {
		t.Errorf("Fail gives %s with a reason of %d bytes: %.12q", failed.Status, len(failed.Error), failed.Error)
	}
	if got := f.get(); got.Error != failed.Error {
		t.Errorf("the store has another reason")
	}
}

// What a caller does to its slices, before or after, does not reach a task.
func TestSlicesAreCopied(t *testing.T) {
	for _, attached := range []bool{false, true} {
		m := newManager(t, newStore(t))
		if attached {
			defer m.Attach(func(task.Task) {})()
		}
		ctx := t.Context()
		profile := task.Profile{Agent: alice.Agent, Capabilities: []string{"a", "b"}}
		spec := task.Spec{ID: "t", Kind: "work", Submitter: submitter, Params: json.RawMessage(`{"a":1}`), Capabilities: []string{"b", "a"}}
		submitted, err := m.Submit(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		if spec.Capabilities[0] != "b" {
			t.Error("Submit sorts its caller's slice")
		}
		spoil(spec.Params, spec.Capabilities)
		spoil(submitted.Params, submitted.Capabilities)
		for _, seen := range m.Visible(profile, 1) {
			spoil(seen.Params, seen.Capabilities)
		}
		claim, claimed, err := m.Claim(ctx, "t", profile)
		if err != nil {
			t.Fatal(err)
		}
		spoil(claimed.Params, claimed.Capabilities)
		result := []byte("result")
		reported, err := m.Report(ctx, claim, result, "")
		if err != nil {
			t.Fatal(err)
		}
		spoil(result, nil)
		spoil(reported.Result, reported.Capabilities)
		got, err := m.Get(ctx, "t")
		if err != nil || string(got.Params) != `{"a":1}` || string(got.Result) != "result" || strings.Join(got.Capabilities, " ") != "a b" {
			t.Errorf("Get gives %s, %s, %s, %v", got.Params, got.Result, got.Capabilities, err)
		}
	}
}

func spoil(b []byte, names []string) {
	clear(b)
	clear(names)
}

func TestNewChecksItsConfig(t *testing.T) {
	s := newStore(t)
	for want, c := range map[string]task.Config{
		"Store":           {},
		"DefaultClaimTTL": {Store: s, UnsignedUnsafe: true, DefaultClaimTTL: time.Millisecond},
		"MaxPending":      {Store: s, UnsignedUnsafe: true, MaxPending: -1},
		"Verifier":        {Store: s},
		"UnsignedUnsafe":  {Store: s, UnsignedUnsafe: true, Verifier: newVerifier(t)},
	} {
		if _, err := task.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New gives %v, want it to name %s", err, want)
		}
	}
}

func TestStatusText(t *testing.T) {
	for s := task.Pending; s <= task.Cancelled; s++ {
		text, err := s.MarshalText()
		var back task.Status
		if err != nil || back.UnmarshalText(text) != nil || back != s || s.String() != string(text) {
			t.Errorf("%d is %q, %v, and back %d", s, text, err, back)
		}
	}
	for _, bad := range []task.Status{0, task.Cancelled + 1} {
		if _, err := bad.MarshalText(); err == nil {
			t.Errorf("%v has a text", bad)
		}
	}
	s := task.Failed
	for _, text := range []string{"", "Pending", "none"} {
		if err := s.UnmarshalText([]byte(text)); err == nil || s != task.Failed {
			t.Errorf("%q is %v, %v", text, s, err)
		}
	}
}

func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got the error %v, want %v", err, want)
	}
}

func newStore(t testing.TB) store.Store {
	t.Helper()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newManager(t testing.TB, s store.Store, options ...func(*task.Config)) *task.Manager {
	t.Helper()
	c := task.Config{Store: s, UnsignedUnsafe: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Member: everybody}
	for _, option := range options {
		option(&c)
	}
	m, err := task.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustSubmit(t testing.TB, m *task.Manager, s task.Spec) task.Task {
	t.Helper()
	s.Kind, s.Submitter = cmp.Or(s.Kind, "work"), submitter
	got, err := m.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got the error %v, want it to say %q", err, want)
	}
}
