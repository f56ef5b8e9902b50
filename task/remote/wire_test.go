package remote

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// samples have a request of each sort, with every field set that there is.
func requestSamples() []request {
	profile := task.Profile{
		Capabilities: []string{"sum", "hash"}, Pools: []string{"night"}, Kinds: []string{"k"},
		Topics: []message.Pattern{must(message.ParsePattern("orders.>@2?tier=gold"))},
	}
	spec := task.Spec{
		ID: "id", Kind: "k", Params: json.RawMessage(`{"n":1}`), Capabilities: []string{"sum"}, Topic: message.MustTopic("orders.new"),
		Pool: "night", ClaimTTL: time.Minute, Deadline: now.Add(time.Hour), Priority: -7,
		NotBefore: now.Add(time.Minute), MaxAttempts: 5, Backoff: task.Backoff{Base: time.Second, Max: time.Minute}, IdempotencyKey: "key",
		Proof: []byte("mine"),
	}
	claim := task.Claim{TaskID: "id", Epoch: 3}
	return []request{
		{profile: profile, ops: []Op{
			{Kind: OpSubmit, Spec: spec}, {Kind: OpSubmit}, {Kind: OpClaim, TaskID: "id"}, {Kind: OpHeartbeat, Claim: claim},
			{Kind: OpReport, Claim: claim, Result: []byte("r"), ResultType: "text/plain", Proof: []byte("p")}, {Kind: OpFail, Claim: claim, Reason: "why"},
			{Kind: OpRelease, Claim: claim}, {Kind: OpCancel, TaskID: "id"},
			{Kind: OpFail, Claim: claim, Permanent: true}, {Kind: OpRequeue, TaskID: "id"}, {Kind: OpSubmit, Spec: task.Spec{MaxAttempts: -1}},
		}},
		{profile: profile, poll: &pollRequest{
			window: 64, known: []known{{"a", 7}, {"b", 0}}, cursor: cursor{1 << 63, 9}, wait: 10 * time.Second,
		}},
		{poll: &pollRequest{}},
		{review: []string{"a", "b"}},
	}
}

func replySamples() []reply {
	full := task.Task{
		Spec: task.Spec{
			ID: "id", Kind: "k", Params: json.RawMessage(`{"n":1}`), Capabilities: []string{"sum"}, Topic: message.MustTopic("orders.new"),
			Pool: "night", Submitter: identity.ID{1}, ClaimTTL: time.Minute, Deadline: now.Add(time.Hour), Priority: -7,
			NotBefore: now.Add(-time.Minute), MaxAttempts: 5, Backoff: task.Backoff{Base: time.Second, Max: time.Minute}, IdempotencyKey: "key",
			Proof: []byte("mine"),
		},
		ReadyAt: now.Add(1), Attempts: task.MostAttempts, DeadLetter: true, Existed: true,
		Status: task.Completed, Claimant: identity.ID{2}, Epoch: 3, ClaimExpires: now.Add(-time.Second), CreatedAt: now.Add(-time.Hour),
		UpdatedAt: now.Add(-1), Result: []byte("r"), ResultType: "text/plain", Error: "why", Revision: 12, ResultProof: []byte("yours"),
	}
	reference := task.Task{Spec: task.Spec{ID: "known"}}
	return []reply{
		{instance: 1 << 63, failure: failure{codeInvalid, "why"}},
		{instance: 1, results: []result{{task: &full, remaining: time.Second}, {failure: failure{codeNotPending, "x"}}, {remaining: -1}}},
		{instance: 1, poll: &pollReply{pending: []task.Task{reference, full}, ended: []task.Task{full}, seq: 5, resync: true, more: true}},
		{instance: 1, poll: &pollReply{}},
		{instance: 1, review: &reviewReply{done: 3, ended: []task.Task{full}, gone: []string{"a"}}},
	}
}

func TestRequestsAndRepliesComeThrough(t *testing.T) {
	for i, want := range requestSamples() {
		got, f := parseRequest(want.append(nil, now), now)
		if f.code != 0 || !reflect.DeepEqual(*got, want) {
			t.Errorf("request %d: %+v, %+v\nwant %+v", i, f, *got, want)
		}
	}
	for i, want := range replySamples() {
		got, err := parseReply(want.append(nil, now), now)
		if (err != nil) != (want.code != 0) || !reflect.DeepEqual(*got, want) {
			t.Errorf("reply %d: %v, %+v\nwant %+v", i, err, *got, want)
		}
	}
}

// TestFrozenBytes holds the format to what other programs have been told of it.
func TestFrozenBytes(t *testing.T) {
	for want, got := range map[string][]byte{
		"a2010103" + "81" + "a2" + "0102" + "02" + "6474736b31": (&request{ops: []Op{{Kind: OpClaim, TaskID: "tsk1"}}}).append(nil, now),
		"a20101" + "04" + "a3" + "011840" + "0281" + "82" + "6474736b31" + "07" + "05192710": (&request{
			poll: &pollRequest{window: 64, known: []known{{"tsk1", 7}}, wait: 10 * time.Second},
		}).append(nil, now),
		"a2010103" + "81" + "a4" + "0105" + "02" + "6474736b31" + "0307" + "0801": (&request{ops: []Op{
			{Kind: OpFail, Claim: task.Claim{TaskID: "tsk1", Epoch: 7}, Permanent: true},
		}}).append(nil, now),
		"a2010103" + "81" + "a2" + "0108" + "02" + "6474736b31": (&request{ops: []Op{{Kind: OpRequeue, TaskID: "tsk1"}}}).append(nil, now),
		"a2010103" + "81" + "a3" + "0101" + "02" + "6474736b31" + "07" + "a2" + "01616b" + "09" + "a5" + "011b1886caf21c9635ee" + "0203" + "0319ea60" + "041a000f4240" + "056178": (&request{ops: []Op{
			{Kind: OpSubmit, Spec: task.Spec{
				ID: "tsk1", Kind: "k", NotBefore: now.Add(1000), MaxAttempts: 3, Backoff: task.Backoff{Base: 60000, Max: 1000000}, IdempotencyKey: "x",
			}},
		}}).append(nil, now),
		"a2010105816474736b31":                  (&request{review: []string{"tsk1"}}).append(nil, now),
		"a3010102070581" + "a1" + "0103":        (&reply{instance: 7, results: []result{{failure: failure{code: codeNotPending}}}}).append(nil, now),
		"a30101020706" + "a2" + "0305" + "0401": (&reply{instance: 7, poll: &pollReply{seq: 5, resync: true}}).append(nil, now),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("%x, want %s", got, want)
		}
	}
}

// TestEveryErrorKeepsItsIdentity covers the codes one by one.
func TestEveryErrorKeepsItsIdentity(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7: password hunter2")
	for c, want := range errorOf {
		if c == codeMalformed { // said of requests as a whole
			continue
		}
		f := failureOf(want)
		if err := f.err(); !errors.Is(err, want) {
			t.Errorf("code %d: %v became %v", c, want, err)
		}
		if f := failureOf(errors.Join(secret, want)); bytes.Contains([]byte(f.text), []byte("hunter2")) {
			t.Errorf("code %d tells %q", c, f.text)
		}
	}
	if f := failureOf(secret); f.text != "" || !errors.Is(f.err(), ErrUnavailable) {
		t.Errorf("an inner error is told as %+v", f)
	}
	if err := (failure{code: 200}).err(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a code of a later version is %v", err)
	}
}

func TestEventsAreForgottenInOrder(t *testing.T) {
	var e events
	for i := range uint64(MaxEvents + 10) {
		if e.last != i {
			t.Fatalf("after %d events the last is %d", i, e.last)
		}
		e.add(event{id: string(rune(i))})
	}
	for seq, want := range map[uint64]bool{0: false, 9: false, 10: true, MaxEvents + 10: true, MaxEvents + 11: false} {
		if e.reaches(seq) != want {
			t.Errorf("reaches(%d) is %t", seq, !want)
		}
	}
	if len(e.ring) != MaxEvents || e.ring[(e.last-1)%MaxEvents].id != string(rune(MaxEvents+9)) {
		t.Error("the newest event is not there")
	}
}

func TestWeightIsNoLessThanTheSize(t *testing.T) {
	for _, p := range replySamples() {
		for _, r := range p.results {
			if r.task != nil {
				if size := len(appendTask(nil, r.task, now)); size > weight(r.task) {
					t.Errorf("%d bytes weigh %d", size, weight(r.task))
				}
			}
		}
	}
}

// FuzzRequest holds that a request which is accepted has one form only, and that a host survives it, and
// answers with a reply.
func FuzzRequest(f *testing.F) {
	for _, q := range requestSamples() {
		f.Add(q.append(nil, now))
	}
	entries := must(memory.New(memory.Config{}))
	f.Cleanup(func() { entries.Close() })
	quiet := slog.New(slog.DiscardHandler)
	tasks := must(task.New(task.Config{Store: entries, UnsignedUnsafe: true, Logger: quiet}))
	host := must(NewHost(HostConfig{Tasks: tasks, Allow: AllowAll, Logger: quiet}))
	host.instance = 1
	agent := must(identity.FromSeed(bytes.Repeat([]byte{9}, 32)))
	signer := must(message.NewSigner(message.SignerConfig{Identity: agent, Network: "test"}))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, failed := parseRequest(body, now)
		if failed.code == 0 {
			if again := q.append(nil, now); !bytes.Equal(again, body) {
				t.Fatalf("%x is written as %x", body, again)
			}
		}
		m, err := signer.Sign(t.Context(), message.Draft{To: identity.ID{1}, ContentType: RequestType, Body: body})
		if err != nil {
			t.Skip(err)
		}
		answer, ok := host.Answer(context.Background(), m)
		if !ok && (failed.code != 0 || q.poll == nil) {
			t.Fatal("no answer")
		}
		if p, err := parseReply(answer.Body, now); ok && (p.instance != 1 || errors.Is(err, ErrProtocol) && failed.code != codeMalformed) {
			t.Fatalf("the answer %x: %v", answer.Body, err)
		}
	})
}

// FuzzReply holds the same of replies, as a client that polls takes them in.
func FuzzReply(f *testing.F) {
	for _, p := range replySamples() {
		f.Add(p.append(nil, now))
	}
	host := must(identity.FromSeed(bytes.Repeat([]byte{9}, 32)))
	signer := must(message.NewSigner(message.SignerConfig{Identity: host, Network: "test"}))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := parseReply(body, now)
		if err == nil || p.code != 0 {
			if again := p.append(nil, now); !bytes.Equal(again, body) {
				t.Fatalf("%x is written as %x", body, again)
			}
		}
		m, err := signer.Sign(t.Context(), message.Draft{To: identity.ID{1}, ContentType: ReplyType, Body: body})
		if err != nil {
			t.Skip(err)
		}
		c := must(New(Config{Host: host.ID(), Patience: time.Nanosecond, Timeout: time.Nanosecond}))
		b := Binding{Requester: always{m}, Profile: task.Profile{Agent: identity.ID{1}}, Logger: slog.New(slog.DiscardHandler)}
		if err := c.Bind(b); err != nil {
			t.Fatal(err)
		}
		defer c.listenNowhere()()
		c.poll(t.Context(), c.binding, 0, c.config.Timeout)
		for _, o := range requestSamples()[0].ops {
			if r := c.Do(t.Context(), []Op{o})[0]; r.Err == nil && r.Task.ID == "" && o.Kind != OpHeartbeat {
				t.Fatalf("%v of no task has been done", o.Kind)
			}
		}
	})
}

// always is a requester to whom everything is answered by one message.
type always struct{ m *message.Message }

func (a always) Request(context.Context, message.Draft) (*message.Message, error) { return a.m, nil }

func (c *Client) listenNowhere() (stop func()) {
	nothing := func() {}
	return c.listeners.Attach(func(t task.Task) {
		if t.ID == "" {
			panic("told of no task")
		}
	}, nothing, nothing)
}
