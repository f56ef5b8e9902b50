package remote_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
)

func paramsOf(size int) json.RawMessage {
	return json.RawMessage(`{"x":"` + strings.Repeat("x", size-8) + `"}`)
}

// TestLargestTasksComeThrough has tasks as large as package task lets them be.
func TestLargestTasksComeThrough(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSite(t)
		boss, worker := s.client(alice), s.client(bob)
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		const n = 2
		result := make([]byte, task.MaxResult)
		for i := range n {
			boss.mustSubmit(t, task.Spec{ID: fmt.Sprint(i), Params: paramsOf(task.MaxParams)})
		}
		time.Sleep(time.Second)
		if got := worker.Visible(worker.profile, 10); len(got) != n {
			t.Errorf("%d tasks are visible", len(got))
		}
		for i := range n {
			if _, err := worker.Report(t.Context(), worker.mustClaim(t, fmt.Sprint(i)), result, "application/octet-stream"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for _, told := range ends.tell() {
			if told.Status == task.Completed && len(told.Result) == task.MaxResult && len(told.Params) == task.MaxParams {
				continue
			}
			if told.Status != task.Pending {
				t.Errorf("told of %s, %v with %d bytes of result", told.ID, told.Status, len(told.Result))
			}
		}
		if got := s.expectStatus(fmt.Sprint(n-1), task.Completed); len(got.Result) != task.MaxResult {
			t.Error("the result was cut")
		}
	})
}

// TestSmallMessagesOfANetworkAreRespected has messages of 64 KiB at most.
func TestSmallMessagesOfANetworkAreRespected(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const size = 64 << 10
		s := newSite(t)
		s.stop()
		s.desk = must(remote.NewHost(remote.HostConfig{Tasks: s.tasks, Allow: remote.AllowAll, MaxMessage: size, Logger: quiet}))
		s.stop = s.serve(s.desk)
		guard := func(id *identity.Identity) *client {
			return s.clientWith(id, nil, remote.Config{MaxMessage: size}, onSize(t, size))
		}
		boss, worker := guard(alice), guard(bob)
		var ends, work recorder
		defer boss.Attach(ends.listen)()
		defer worker.Attach(work.listen)()
		_, err := boss.Submit(t.Context(), task.Spec{Kind: "k", Params: paramsOf(17 << 10)})
		expectErr(t, "params that have no room", err, task.ErrInvalid)
		var ops []remote.Op
		for i := range 20 {
			ops = append(ops, remote.Op{Kind: remote.OpSubmit, Spec: task.Spec{ID: fmt.Sprint(i), Kind: "k", Params: paramsOf(16 << 10)}})
		}
		for _, r := range boss.Do(t.Context(), ops) {
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
		must(s.tasks.Submit(t.Context(), task.Spec{ID: "local", Kind: "k", Params: paramsOf(100 << 10), Priority: 1, Submitter: hanna.ID()}))
		time.Sleep(time.Second)
		if got := worker.Visible(worker.profile, 100); len(got) != 20 {
			t.Errorf("%d tasks are visible, want all but the one that has no room", len(got))
		}
		claim := worker.mustClaim(t, "0")
		_, err = worker.Report(t.Context(), claim, make([]byte, 33<<10), "")
		expectErr(t, "a result that has no room", err, task.ErrInvalid)
		for i := range 20 {
			claim := worker.mustClaim(t, fmt.Sprint(i))
			if _, err := worker.Report(t.Context(), claim, make([]byte, 32<<10), ""); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		if got := filter(ends.statuses(), "pending"); len(got) != 20 {
			t.Errorf("%d ends were told", len(got))
		}
	})
}

// onSize is a hook that fails the test for messages that the network has no room for.
func onSize(t *testing.T, most int) transport.Hook { return sizes{t, most} }

type sizes struct {
	t    *testing.T
	most int
}

func (s sizes) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) {
	if len(d.Body) > s.most-4096 {
		s.t.Errorf("a request of %d bytes", len(d.Body))
	}
	return &d, nil
}

func (s sizes) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	if len(m.Raw()) > s.most {
		s.t.Errorf("an answer of %d bytes", len(m.Raw()))
	}
	return m, nil
}
