//go:build unix

package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
)

// operated is a network as the server sees it: it keeps what it was asked, and answers what it was told to.
type operated struct {
	mu      sync.Mutex
	asked   []string
	authors []control.Author
	query   control.TaskQuery
	err     error
	page    control.TaskPage
	block   bool // until the request's time is over
}

func (o *operated) note(ctx context.Context, a control.Author, format string, args ...any) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked, o.authors = append(o.asked, fmt.Sprintf(format, args...)), append(o.authors, a)
	if o.block {
		<-ctx.Done()
		return ctx.Err()
	}
	return o.err
}

func (o *operated) taken() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.asked
	o.asked = nil
	return all
}

func (o *operated) ListTasks(ctx context.Context, q control.TaskQuery) (control.TaskPage, error) {
	o.query = q
	return o.page, o.note(ctx, control.Author{}, "list")
}

func (o *operated) GetTask(ctx context.Context, id string) (control.TaskDetail, error) {
	return control.TaskDetail{Task: control.Task{ID: id}}, o.note(ctx, control.Author{}, "get %q", id)
}

func (o *operated) RequeueTask(ctx context.Context, id string, a control.Author) (control.Task, error) {
	return control.Task{ID: id}, o.note(ctx, a, "requeue %q", id)
}

func (o *operated) CancelTask(ctx context.Context, id string, a control.Author) (control.Task, error) {
	return control.Task{ID: id}, o.note(ctx, a, "cancel %q", id)
}

func (o *operated) Quarantined(ctx context.Context) ([]control.Quarantine, error) {
	all := make([]control.Quarantine, control.MaxQuarantined+7)
	return all, o.note(ctx, control.Author{}, "quarantined")
}

func (o *operated) ReleaseAgent(ctx context.Context, agent string, a control.Author) (control.Quarantine, error) {
	return control.Quarantine{Agent: agent}, o.note(ctx, a, "release %q", agent)
}

func (o *operated) ApplyStatement(ctx context.Context, statement string, a control.Author) (control.Applied, error) {
	return control.Applied{ID: "x", Changed: true}, o.note(ctx, a, "apply %.20q", statement)
}

// operate serves a network that is operated.
func operate(t *testing.T) (*fixture, *operated) {
	t.Helper()
	o := new(operated)
	return serveWith(t, func(c *control.Config) { c.Tasks, c.Keys = o, o }), o
}

// TestWhatOperatorsDoComesWithWhoItWas has somebody claim to be another.
func TestWhatOperatorsDoComesWithWhoItWas(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	a := control.Author{By: "root (uid 0), really", Claimed: "ada", Note: "why not"}
	_, one := f.client.RequeueTask(t.Context(), "t-1", a)
	_, two := f.client.CancelTask(t.Context(), "t-2", a)
	_, three := f.client.ReleaseAgent(t.Context(), "alice", a)
	_, four := f.client.ApplyStatement(t.Context(), revocation(t), a)
	if err := errors.Join(one, two, three, four); err != nil {
		t.Fatal(err)
	}
	if asked := o.taken(); !reflect.DeepEqual(asked, []string{`requeue "t-1"`, `cancel "t-2"`, `release "alice"`, `apply "-----BEGIN CONVERGE "`}) {
		t.Errorf("asked %q", asked)
	}
	for _, got := range o.authors {
		if got.By != me(t) || got.Claimed != "ada" || got.Note != "why not" {
			t.Errorf("by %+v, want %q", got, me(t))
		}
	}
}

func revocation(t *testing.T) []byte {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := id.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestQueriesArriveAsTheyWere(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	o.page = control.TaskPage{Tasks: []control.Task{{ID: "t-1", Created: time.Unix(1, 0).UTC()}}, Next: "more"}
	want := control.TaskQuery{
		States: []string{"pending", "failed"}, Kinds: []string{"a", "b&c=d"}, Worker: "w/ö", Submitter: "s", Pool: "p",
		Topics: []string{"a.*", "b.>"}, Capabilities: []string{"x"}, Newer: time.Hour, Older: time.Minute, Limit: 7, After: "c-_",
	}
	page, err := f.client.ListTasks(t.Context(), want)
	if err != nil || !reflect.DeepEqual(page, o.page) || !reflect.DeepEqual(o.query, want) {
		t.Errorf("%+v, %v\n got %+v\nwant %+v", page, err, o.query, want)
	}
	if _, err := f.client.ListTasks(t.Context(), control.TaskQuery{}); err != nil || !reflect.DeepEqual(o.query, control.TaskQuery{Limit: control.DefaultPage}) {
		t.Errorf("the zero query is %+v, %v", o.query, err)
	}
}

// TestMalformedQueriesListNothing has filters that would be overlooked, and pages that have no bound.
func TestMalformedQueriesListNothing(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	for _, query := range []string{
		"limit=0x", "limit=-1", "limit=501", "limit=99999999999999999999", "limit=1&limit=2", "stat=dead", "state=deaf", "state=dead&state=failed",
		"newer=1", "newer=-1h", "older=0s", "worker=a&worker=b", "%zz=1", "Limit=1", "state=pending;limit=1",
	} {
		if status, text := f.raw(t, "GET", "/v1/tasks?"+query, ""); status != http.StatusBadRequest || !strings.Contains(text, `"code":"invalid"`) {
			t.Errorf("%s: %d %s", query, status, text)
		}
	}
	if asked := o.taken(); asked != nil {
		t.Errorf("asked %q", asked)
	}
	if _, err := f.client.ListTasks(t.Context(), control.TaskQuery{Limit: control.MaxPage + 1}); !errors.Is(err, control.ErrInvalid) {
		t.Errorf("a page that is too long: %v", err)
	}
}

// TestHostileIDsReachNothingElse has IDs that look like other paths, other requests or other lines.
func TestHostileIDsReachNothingElse(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	for _, id := range []string{
		".", "..", "../quarantine", "a/../../keys/statements", "a/b", "a?action=cancel", "a#b", "a%2fb", "a b", "\r\nX: y", "\x1b[2J", "ö\u202e", "%2e%2e",
		strings.Repeat("x", 4096),
	} {
		if got, err := f.client.GetTask(t.Context(), id); err != nil || got.ID != id {
			t.Errorf("get %q: %q, %v", id, got.ID, err)
		}
		if got, err := f.client.CancelTask(t.Context(), id, control.Author{}); err != nil || got.ID != id {
			t.Errorf("cancel %q: %q, %v", id, got.ID, err)
		}
		if got, err := f.client.ReleaseAgent(t.Context(), id, control.Author{}); err != nil || got.Agent != id {
			t.Errorf("release %q: %q, %v", id, got.Agent, err)
		}
		if asked := o.taken(); !reflect.DeepEqual(asked, []string{fmt.Sprintf("get %q", id), fmt.Sprintf("cancel %q", id), fmt.Sprintf("release %q", id)}) {
			t.Errorf("asked %q", asked)
		}
	}
	_, one := f.client.GetTask(t.Context(), "")
	_, two := f.client.RequeueTask(t.Context(), "", control.Author{})
	_, three := f.client.ReleaseAgent(t.Context(), "", control.Author{})
	for _, err := range []error{one, two, three} {
		if !errors.Is(err, control.ErrNotFound) {
			t.Errorf("nothing: %v", err)
		}
	}
	if asked := o.taken(); asked != nil {
		t.Errorf("asked %q", asked)
	}
}

// TestMalformedActsDoNothing confuses methods, paths, actions and bodies.
func TestMalformedActsDoNothing(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	long := strings.Repeat("x", control.MaxBody)
	for _, path := range []string{"/v1/tasks/t-1", "/v1/keys/quarantine/alice", "/v1/keys/statements"} {
		for name, body := range map[string]string{
			"empty":             ``,
			"nothing":           `{}`,
			"an array":          `["cancel"]`,
			"another":           `{"action": "delete"}`,
			"of elsewhere":      `{"decision": "allow"}`,
			"by others":         `{"action": "cancel", "by": "root (uid 0)"}`,
			"two":               `{"action": "cancel"} {"action": "release"}`,
			"too large":         `{"action": "cancel", "note": "` + long + `"}`,
			"large space":       strings.Repeat(" ", control.MaxBody) + `{"action": "cancel"}`,
			"long note":         `{"action": "cancel", "note": "` + strings.Repeat("x", approval.MaxNote+1) + `"}`,
			"long name":         `{"action": "cancel", "as": "` + strings.Repeat("x", approval.MaxBy+1) + `"}`,
			"statement of none": `{"statement": ""}`,
			"long statement":    `{"statement": "` + long + `"}`,
		} {
			if path == "/v1/keys/quarantine/alice" {
				body = strings.ReplaceAll(body, "cancel", "release")
			}
			if status, text := f.raw(t, "POST", path, body); status != http.StatusBadRequest || !strings.Contains(text, `"code":"invalid"`) {
				t.Errorf("%s %s: %d %s", path, name, status, text)
			}
		}
		for _, method := range []string{"PUT", "DELETE", "PATCH", "CANCEL"} {
			if status, _ := f.raw(t, method, path, `{"action": "cancel"}`); status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, status)
			}
		}
	}
	for path, body := range map[string]string{
		"/v1/tasks/t-1":             `{"action": "release"}`,
		"/v1/keys/quarantine/alice": `{"action": "cancel"}`,
	} {
		if status, text := f.raw(t, "POST", path, body); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for method, path := range map[string]string{"POST": "/v1/tasks", "GET": "/v1/keys/statements", "PUT": "/v1/keys/quarantine"} {
		if status, _ := f.raw(t, method, path, `{"action": "cancel"}`); status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %d", method, path, status)
		}
	}
	for _, path := range []string{"/v1/tasks/", "/v1/tasks/a/b", "/v1/keys", "/v2/tasks", "/v1/keys/quarantine/"} {
		if status, _ := f.raw(t, "POST", path, `{"action": "cancel"}`); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", path, status)
		}
	}
	if asked := o.taken(); asked != nil {
		t.Errorf("asked %q", asked)
	}
}

func TestErrorsOfTasksAndKeysKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	for _, cause := range []error{
		control.ErrNotFound, control.ErrState, control.ErrInvalid, control.ErrElsewhere,
		identity.ErrRolledBack, identity.ErrRevoked, identity.ErrQuarantined,
	} {
		o.err = fmt.Errorf("about \x1b[2J\u202e: %w", cause)
		_, one := f.client.ListTasks(t.Context(), control.TaskQuery{})
		_, two := f.client.CancelTask(t.Context(), "t-1", control.Author{})
		_, three := f.client.ApplyStatement(t.Context(), revocation(t), control.Author{})
		_, _, four := f.client.Quarantined(t.Context())
		for _, err := range []error{one, two, three, four} {
			if !errors.Is(err, cause) || !strings.HasSuffix(err.Error(), cause.Error()) {
				t.Errorf("%v has become %v", cause, err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\u202e") {
				t.Errorf("an error brings what it quotes to the terminal: %q", err)
			}
		}
	}
	o.err = errors.New("the disk is full")
	if _, err := f.client.GetTask(t.Context(), "t-1"); err == nil || err.Error() != "the disk is full" {
		t.Errorf("another error: %v", err)
	}
}

func TestListOfQuarantinedAgentsIsBounded(t *testing.T) {
	t.Parallel()
	f, _ := operate(t)
	agents, total, err := f.client.Quarantined(t.Context())
	if err != nil || len(agents) != control.MaxQuarantined || total != control.MaxQuarantined+7 {
		t.Errorf("%d of %d, %v", len(agents), total, err)
	}
}

// TestSecretsAreNotHandedOver has a client be given what is no statement: a private key, say.
func TestSecretsAreNotHandedOver(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	forged := revocation(t)
	forged[len(forged)-1] ^= 1
	for _, raw := range [][]byte{nil, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), forged} {
		if _, err := f.client.ApplyStatement(t.Context(), raw, control.Author{}); !errors.Is(err, identity.ErrStatement) && !errors.Is(err, identity.ErrForgedStatement) {
			t.Errorf("%.30q: %v", raw, err)
		}
	}
	if asked := o.taken(); asked != nil {
		t.Errorf("asked %q", asked)
	}
}

// TestOtherVersionIsNamed asks a server that has neither tasks nor keys.
func TestOtherVersionIsNamed(t *testing.T) {
	t.Parallel()
	f := serve(t)
	_, one := f.client.GetTask(t.Context(), "t-1")
	_, two := f.client.ListTasks(t.Context(), control.TaskQuery{})
	_, three := f.client.ApplyStatement(t.Context(), revocation(t), control.Author{})
	for _, err := range []error{one, two, three} {
		if !errors.Is(err, control.ErrOther) {
			t.Errorf("got %v", err)
		}
	}
}

// TestClientThatGivesUpEndsItsRequest has a request that takes for ever.
func TestClientThatGivesUpEndsItsRequest(t *testing.T) {
	t.Parallel()
	f, o := operate(t)
	o.block = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.client.ListTasks(ctx, control.TaskQuery{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// lasting is a network whose acts take until their time is over, or a moment.
type lasting struct {
	operated
	begun chan struct{}
	ended chan error // why the act was cut short; nil if it was not
	takes time.Duration
}

func (l *lasting) ApplyStatement(ctx context.Context, _ string, _ control.Author) (control.Applied, error) {
	close(l.begun)
	select {
	case <-ctx.Done():
	case <-time.After(l.takes):
	}
	l.ended <- ctx.Err()
	return control.Applied{ID: "x"}, ctx.Err()
}

// handOverTo has a client hand over a revocation, and returns when that has begun, with what has the client give up.
func handOverTo(t *testing.T, l *lasting) (f *fixture, giveUp func()) {
	t.Helper()
	l.begun, l.ended = make(chan struct{}), make(chan error, 1)
	f = serveWith(t, func(c *control.Config) { c.Keys = l })
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := id.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan error, 1)
	go func() {
		_, err := f.client.ApplyStatement(ctx, raw, control.Author{})
		told <- err
	}()
	<-l.begun
	return f, func() {
		cancel()
		if err := <-told; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
	}
}

// TestActOutlastsItsClient has a client vanish between a revocation that is in force and the telling of others.
func TestActOutlastsItsClient(t *testing.T) {
	t.Parallel()
	l := &lasting{takes: 500 * time.Millisecond}
	_, giveUp := handOverTo(t, l)
	giveUp()
	if err := <-l.ended; err != nil {
		t.Errorf("the act was cut short: %v", err)
	}
}

// TestActEndsWithTheServer has a network stopped amid one.
func TestActEndsWithTheServer(t *testing.T) {
	t.Parallel()
	l := &lasting{takes: time.Minute}
	f, giveUp := handOverTo(t, l)
	giveUp()
	f.stop()
	if err := <-l.ended; err == nil {
		t.Error("the act went on")
	}
}

// FuzzTaskQuery has what is read back mean the same, and never more than is allowed.
func FuzzTaskQuery(f *testing.F) {
	for _, seed := range []string{"", "state=dead&limit=5", "state=pending&state=failed&kind=a&worker=w&newer=1h", "limit=501", "after=%00", "older=9999999h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := url.ParseQuery(raw)
		if err != nil {
			t.Skip()
		}
		q, err := control.ParseTaskQuery(v)
		if err != nil {
			return
		}
		if q.Limit < 1 || q.Limit > control.MaxPage || q.Newer < 0 || q.Older < 0 {
			t.Fatalf("%q is accepted as %+v", raw, q)
		}
		again, err := control.ParseTaskQuery(q.Values())
		one, _ := json.Marshal(q)
		two, _ := json.Marshal(again)
		if err != nil || string(one) != string(two) {
			t.Fatalf("%q is %s, and then %s, %v", raw, one, two, err)
		}
	})
}
