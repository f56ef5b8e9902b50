package remote_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

// TestForeignClaimIsOfNoUse has Mallory, who may work, show Bob's claim as it is.
func TestForeignClaimIsOfNoUse(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker, thief := s.client(alice), s.client(bob), s.client(mallory)
		boss.mustSubmit(t, task.Spec{ID: "a", ClaimTTL: time.Minute})
		claim := worker.mustClaim(t, "a")
		before := s.expectStatus("a", task.Assigned)
		time.Sleep(time.Second)
		ctx := t.Context()
		for _, agent := range []identity.ID{bob.ID(), mallory.ID(), {}} {
			claim.Agent = agent
			_, err := thief.Heartbeat(ctx, claim)
			expectErr(t, "heartbeat", err, task.ErrClaimLost)
			_, err = thief.Report(ctx, claim, []byte("stolen"), "")
			expectErr(t, "report", err, task.ErrClaimLost)
			_, err = thief.Fail(ctx, claim, "stolen")
			expectErr(t, "fail", err, task.ErrClaimLost)
			_, err = thief.Release(ctx, claim)
			expectErr(t, "release", err, task.ErrClaimLost)
		}
		_, _, err := thief.Claim(ctx, "a", task.Profile{Agent: bob.ID()})
		expectErr(t, "claim in Bob's name", err, task.ErrInvalid)
		_, err = thief.Cancel(ctx, "a", mallory.ID())
		expectErr(t, "cancel", err, task.ErrNotSubmitter)
		_, err = thief.Submit(ctx, task.Spec{ID: "a", Kind: "work", ClaimTTL: time.Minute, Submitter: alice.ID()})
		expectErr(t, "submission of the same task", err, task.ErrExists)
		if after := s.expectStatus("a", task.Assigned); !reflect.DeepEqual(before, after) {
			t.Errorf("the task was changed from %+v to %+v", before, after)
		}
		claim.Agent = mallory.ID() // whatever the claim says, it is Bob who shows it
		if _, err := worker.Report(ctx, claim, []byte("mine"), ""); err != nil {
			t.Error(err)
		}
	})
}

// TestEndsOfOthersTasksAreNotTold has Mallory poll, review and look for what is none of her business.
func TestEndsOfOthersTasksAreNotTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker, spy := s.client(alice), s.client(bob, "secret"), s.client(mallory)
		var seen recorder
		defer spy.Attach(seen.listen)()
		boss.mustSubmit(t, task.Spec{ID: "a", Capabilities: []string{"secret"}})
		_, err := spy.Submit(t.Context(), task.Spec{ID: "a", Kind: "work"})
		expectErr(t, "submission", err, task.ErrExists)
		if _, err := worker.Report(t.Context(), worker.mustClaim(t, "a"), []byte("secret"), ""); err != nil {
			t.Fatal(err)
		}
		s.stop()
		s.open() // Mallory makes a review now
		time.Sleep(time.Minute)
		if told := seen.tell(); len(told) != 0 {
			t.Errorf("Mallory was told %+v", told)
		}
	})
}

// exchange sends a request of raw bytes and returns the answer.
func exchange(t *testing.T, h *transport.Hooked, contentType string, body []byte) (*message.Message, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return h.Request(ctx, message.Draft{To: hanna.ID(), ContentType: contentType, Body: body})
}

func TestMalformedRequestsAreRefusedAndChangeNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		h, stop := s.hook(mallory)
		defer stop()
		go func() {
			for {
				if _, err := h.Receive(t.Context()); err != nil {
					return
				}
			}
		}()
		for name, body := range map[string]string{
			"nothing":              "",
			"no map":               "\x01",
			"no version":           "\xa1\x03\x81\xa1\x01\x02",
			"only a version":       "\xa1\x01\x01",
			"version 0":            "\xa2\x01\x00\x05\x81\x61a",
			"version 2":            "\xa2\x01\x02\x05\x81\x61a",
			"two sorts":            "\xa3\x01\x01\x04\xa1\x01\x01\x05\x81\x61a",
			"unknown field":        "\xa2\x01\x01\x09\x01",
			"sender in the body":   "\xa2\x01\x01\x03\x81\xa3\x01\x02\x02\x61a\x08\x58\x20" + strings.Repeat("a", 32),
			"no operation":         "\xa2\x01\x01\x03\x80",
			"operation 0":          "\xa2\x01\x01\x03\x81\xa2\x01\x00\x02\x61a",
			"claim with a spec":    "\xa2\x01\x01\x03\x81\xa3\x01\x02\x02\x61a\x07\xa0",
			"submit without":       "\xa2\x01\x01\x03\x81\xa2\x01\x01\x02\x61a",
			"empty text":           "\xa2\x01\x01\x03\x81\xa2\x01\x02\x02\x60",
			"long head":            "\xa2\x01\x01\x03\x81\xa2\x01\x02\x02\x78\x01a",
			"indefinite":           "\xa2\x01\x01\x03\x9f\xa2\x01\x02\x02\x61a\xff",
			"keys out of order":    "\xa2\x05\x81\x61a\x01\x01",
			"key given twice":      "\xa3\x01\x01\x05\x81\x61a\x05\x81\x61a",
			"huge array":           "\xa2\x01\x01\x03\x9a\xff\xff\xff\xff",
			"too many operations":  "\xa2\x01\x01\x03\x98\x41" + strings.Repeat("\xa2\x01\x02\x02\x61a", 65),
			"truncated":            "\xa2\x01\x01\x03\x81\xa2\x01\x02\x02\x61",
			"trailing":             "\xa2\x01\x01\x05\x81\x61a\x00",
			"text not UTF-8":       "\xa2\x01\x01\x05\x81\x61\xff",
			"window beyond bounds": "\xa2\x01\x01\x04\xa1\x01\x19\x7f\xff",
			"bad pattern":          "\xa3\x01\x01\x02\xa1\x02\x81\x63a..\x05\x81\x61a",
			"float":                "\xa2\x01\x01\x04\xa1\x01\xf9\x3c\x00",
		} {
			answer, err := exchange(t, h, remote.RequestType, []byte(body))
			if err != nil {
				t.Errorf("%s: no answer: %v", name, err)
				continue
			}
			// version, instance, code, text
			if b := answer.Body(); len(b) < 2 || b[0] != 0xa4 || answer.ContentType() != remote.ReplyType {
				t.Errorf("%s: answered by %x", name, b)
			}
		}
		if got := s.desk.Stats(); got.Refused != got.Requests || got.Clients != 0 || got.Parked != 0 {
			t.Errorf("stats %+v", got)
		}
	})
}

func TestUnknownOperationIsRefusedByName(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		c := s.client(bob)
		results := c.Do(t.Context(), []remote.Op{{Kind: 99, TaskID: "a"}, {Kind: remote.OpClaim, TaskID: "b"}})
		if err := results[0].Err; !errors.Is(err, remote.ErrUnsupported) || !strings.Contains(err.Error(), "99") {
			t.Errorf("the unknown operation: %v", err)
		}
		expectErr(t, "the one after it", results[1].Err, task.ErrNotFound)
	})
}

// TestRequestsThatAreNotAddressedToTheHostAreIgnored covers messages that reach the host's agent all the
// same, and those that nobody has verified.
func TestRequestsThatAreNotAddressedToTheHostAreIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		signer := must(message.NewSigner(message.SignerConfig{Identity: bob, Network: "test"}))
		var body []byte
		spy := requesterFunc(func(_ context.Context, d message.Draft) (*message.Message, error) {
			body = d.Body
			return nil, transport.ErrClosed
		})
		c := must(remote.New(remote.Config{Host: hanna.ID()}))
		if err := c.Bind(remote.Binding{Requester: spy, Profile: task.Profile{Agent: bob.ID()}, Logger: quiet}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Submit(t.Context(), task.Spec{ID: "a", Kind: "k"}); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("submit: %v", err)
		}
		for name, d := range map[string]message.Draft{
			"a broadcast":     {ContentType: remote.RequestType, Body: body},
			"a topic":         {ContentType: remote.RequestType, Body: body, Topics: []message.Topic{message.MustTopic("a")}},
			"another type":    {ContentType: "application/cbor", Body: body, To: hanna.ID()},
			"a reply":         {ContentType: remote.ReplyType, Body: body, To: hanna.ID()},
			"not yet a claim": {To: hanna.ID()},
		} {
			if _, ok := s.desk.Answer(t.Context(), must(signer.Sign(t.Context(), d))); ok {
				t.Errorf("%s was answered", name)
			}
		}
		direct := must(signer.Sign(t.Context(), message.Draft{ContentType: remote.RequestType, Body: body, To: hanna.ID()}))
		if _, ok := s.desk.Answer(t.Context(), must(message.ParseUnsafe(direct.Raw()))); ok {
			t.Error("an unverified message was answered")
		}
		if _, err := s.tasks.Get(t.Context(), "a"); !errors.Is(err, task.ErrNotFound) {
			t.Errorf("the task: %v", err)
		}
		if _, ok := s.desk.Answer(t.Context(), direct); !ok {
			t.Error("the request itself was not answered")
		}
		s.expectStatus("a", task.Pending)
	})
}

type requesterFunc func(context.Context, message.Draft) (*message.Message, error)

func (f requesterFunc) Request(ctx context.Context, d message.Draft) (*message.Message, error) {
	return f(ctx, d)
}

// TestStrangersRequestsChangeNothing has somebody ask whose key nobody knows, and somebody who signs with
// it in Bob's name.
func TestStrangersRequestsChangeNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		stranger := agent(200)
		c := s.client(stranger)
		_, err := c.Submit(t.Context(), task.Spec{ID: "a", Kind: "k"})
		expectErr(t, "submission by a stranger", err, remote.ErrUnavailable)
		if got := s.desk.Stats(); got.Requests != 0 || got.Clients != 0 {
			t.Errorf("the host has heard of it: %+v", got)
		}
		_, err = s.tasks.Get(t.Context(), "a")
		expectErr(t, "the task", err, task.ErrNotFound)
	})
}

// TestForgedReplyIsNotTaken has Mallory, who somehow learns of Bob's request, answer it before Hanna does,
// with what a host of hers has to say.
func TestForgedReplyIsNotTaken(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.stop()
		real, stopReal := s.hook(hanna)
		defer stopReal()
		forger, stopForger := s.hook(mallory)
		defer stopForger()
		worker := s.client(bob)
		if _, err := s.tasks.Submit(t.Context(), task.Spec{ID: "a", Kind: "k", Submitter: alice.ID()}); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, _, err := worker.Claim(t.Context(), "a", worker.profile)
			done <- err
		}()
		m := must(real.Receive(t.Context()))
		forged, ok := must(remote.NewHost(remote.HostConfig{Tasks: s.tasks, Allow: remote.AllowAll, Logger: quiet})).Answer(t.Context(), m)
		if !ok {
			t.Fatal("no answer to forge")
		}
		if _, err := forger.Send(t.Context(), forged); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("the forged reply was taken: %v", err)
		default:
		}
		if _, taken := worker.inbox.Load(m.ID()); taken {
			t.Error("the request is in the inbox")
		}
		refusal := must(remote.NewHost(remote.HostConfig{
			Tasks: s.tasks, Allow: func(identity.ID) remote.Rights { return remote.Rights{} }, Logger: quiet,
		}))
		answer, _ := refusal.Answer(t.Context(), m)
		if _, err := real.Send(t.Context(), answer); err != nil {
			t.Fatal(err)
		}
		expectErr(t, "the claim", <-done, remote.ErrNotAllowed)
	})
}

// TestRepliesThatAreNoneAreRefused has the host's own agent answer rubbish.
func TestRepliesThatAreNoneAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for name, d := range map[string]message.Draft{
			"another type":     {ContentType: "application/json", Body: []byte("{}")},
			"empty":            {ContentType: remote.ReplyType},
			"no results":       {ContentType: remote.ReplyType, Body: []byte("\xa2\x01\x01\x02\x07")},
			"two results":      {ContentType: remote.ReplyType, Body: []byte("\xa3\x01\x01\x02\x07\x05\x82\xa0\xa0")},
			"a result of none": {ContentType: remote.ReplyType, Body: []byte("\xa3\x01\x01\x02\x07\x05\x81\xa0")},
			"never any room":   {ContentType: remote.ReplyType, Body: []byte("\xa3\x01\x01\x02\x07\x05\x81\xa1\x01\x10")},
			"to something else": {ContentType: remote.ReplyType,
				Body: []byte("\xa3\x01\x01\x02\x07\x06\xa0")},
		} {
			signer := must(message.NewSigner(message.SignerConfig{Identity: hanna, Network: "test"}))
			asked := 0
			c := must(remote.New(remote.Config{Host: hanna.ID()}))
			b := remote.Binding{Profile: task.Profile{Agent: bob.ID()}, Logger: quiet}
			b.Requester = requesterFunc(func(ctx context.Context, q message.Draft) (*message.Message, error) {
				asked++
				d.To = bob.ID()
				return signer.Sign(ctx, d)
			})
			if err := c.Bind(b); err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.Claim(t.Context(), "a", b.Profile); !errors.Is(err, remote.ErrProtocol) || asked != 1 {
				t.Errorf("%s: %v after %d requests", name, err, asked)
			}
			told := 0
			detach := c.Attach(func(task.Task) { told++ })
			time.Sleep(time.Minute)
			detach()
			if told != 0 || asked > 50 {
				t.Errorf("%s: told %d tasks, asked %d times in a minute", name, told, asked)
			}
		}
	})
}

func TestPollsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.stop()
		s.desk = must(remote.NewHost(remote.HostConfig{Tasks: s.tasks, Allow: remote.AllowAll, MaxClients: 2, Logger: quiet}))
		s.stop = s.serve(s.desk)
		clients := []*client{s.client(alice), s.client(bob), s.client(carol)}
		var heard [3]recorder
		var detach []func()
		for i, c := range clients {
			detach = append(detach, c.Attach(heard[i].listen))
			time.Sleep(time.Second)
		}
		if got := s.desk.Stats(); got.Clients != 2 || got.Parked != 2 {
			t.Errorf("%+v", got)
		}
		clients[2].mustSubmit(t, task.Spec{ID: "a"})
		time.Sleep(time.Second)
		if got := [3]int{len(heard[0].tell()), len(heard[1].tell()), len(heard[2].tell())}; got != [3]int{1, 1, 0} {
			t.Errorf("told %v", got)
		}
		detach[0]()
		time.Sleep(2 * time.Minute) // Alice is forgotten, and Carol gets her place
		if got := heard[2].statuses(); got["a pending"] != 1 {
			t.Errorf("Carol was told %v", got)
		}
		detach[1]()
		detach[2]()
	})
}

// TestNewerPollReplacesTheOlder has an agent flood the host with polls.
func TestNewerPollReplacesTheOlder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		s.stop() // nobody but this test asks the host
		signer := must(message.NewSigner(message.SignerConfig{Identity: mallory, Network: "test"}))
		poll := func(instance, rest string) (message.Draft, bool) {
			m := must(signer.Sign(t.Context(), message.Draft{
				To: hanna.ID(), ContentType: remote.RequestType, Body: []byte("\xa2\x01\x01\x04" + fmt.Sprintf(rest, instance)),
			}))
			return s.desk.Answer(t.Context(), m)
		}
		first, ok := poll("", "\xa1\x01\x01%s") // says which process the host is
		if !ok {
			t.Fatal("the first poll has to wait")
		}
		instance := string(first.Body[4:13]) // behind the head of the map and the version
		for range 150 {
			if _, ok := poll(instance, "\xa3\x01\x01\x03%s\x05\x19\x27\x10"); ok {
				t.Fatal("answered at once")
			}
		}
		if got := s.desk.Stats(); got.Parked != 1 || got.Clients != 1 || got.Requests != 151 {
			t.Errorf("%+v", got)
		}
		time.Sleep(11 * time.Second)
		if drafts, next := s.desk.Due(t.Context()); len(drafts) != 1 || next != 0 || s.desk.Stats().Parked != 0 {
			t.Errorf("%d answers, more of them in %v, %+v", len(drafts), next, s.desk.Stats())
		}
	})
}

// TestAgentThatAsksForTooMuchHasToWait has Mallory ask for as much as she can, beside Bob.
func TestAgentThatAsksForTooMuchHasToWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		flooder, worker := s.clientWith(mallory, nil, remote.Config{Patience: time.Millisecond}), s.client(bob)
		ops := make([]remote.Op, remote.MaxOps)
		for i := range ops {
			ops[i] = remote.Op{Kind: remote.OpClaim, TaskID: "nowhere"}
		}
		start := time.Now()
		carriedOut := 0
		for range 200 { // half as much again as the host lets her save up
			if r := flooder.Do(t.Context(), ops); errors.Is(r[0].Err, task.ErrNotFound) {
				carriedOut += len(r)
			} else if !errors.Is(r[0].Err, remote.ErrUnavailable) {
				t.Fatal(r[0].Err)
			}
		}
		if most := 8192 + 4000*time.Since(start).Seconds(); float64(carriedOut) > most {
			t.Errorf("%d operations were carried out in %v, want %v at most", carriedOut, time.Since(start), most)
		}
		if _, _, err := worker.Claim(t.Context(), "nowhere", worker.profile); !errors.Is(err, task.ErrNotFound) {
			t.Errorf("Bob beside her: %v", err)
		}
	})
}

// TestReviewOfManyTasksComesToAnEnd has more tasks outstanding than the host looks at in a row.
func TestReviewOfManyTasksComesToAnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss := s.client(alice)
		var ends recorder
		defer boss.Attach(ends.listen)()
		const n = 2*remote.MaxReview + 1
		var ops []remote.Op
		for i := range n {
			ops = append(ops, remote.Op{Kind: remote.OpSubmit, Spec: task.Spec{ID: fmt.Sprint(i), Kind: "k", Capabilities: []string{"none"}}})
		}
		for i, r := range boss.Do(t.Context(), ops) {
			if r.Err != nil {
				t.Fatal(i, r.Err)
			}
		}
		time.Sleep(time.Second)
		s.stop()
		for i := range n {
			must(s.tasks.Cancel(t.Context(), fmt.Sprint(i), alice.ID()))
		}
		s.open()
		time.Sleep(time.Minute)
		if got := ends.statuses(); len(got) != n {
			t.Errorf("%d of %d ends were told", len(got), n)
		}
	})
}
