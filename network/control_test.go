package network

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

var ada = control.Author{By: "ada (uid 7)", Claimed: "root\x1b[2J", Note: "as agreed"}

// operatedText is a network with one worker.
const operatedText = "network: n\ntools: {t: {command: [cat]}}\nagents: [{name: w, kind: worker, capabilities: {t: t}, tools: [t]}]\n"

// operatorOf builds a network that does not run, and closes it when the test ends.
func operatorOf(t *testing.T, text string) operator {
	t.Helper()
	c, err := config.Parse("c.yaml", []byte(text), config.Options{Set: map[string]string{"data": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	n, err := New(t.Context(), c, Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return operator{n}
}

// submit submits a task as the network's agent.
func (o operator) submit(t *testing.T, s task.Spec) task.Task {
	t.Helper()
	signer, err := task.NewSigner(o.members[0].identity, "n")
	if err != nil {
		t.Fatal(err)
	}
	s.Submitter, s.Kind = o.members[0].id, "t"
	if err := errors.Join(signer.SignSpecs(&s)...); err != nil {
		t.Fatal(err)
	}
	submitted, err := o.tasks.Submit(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return submitted
}

// end claims a task as the network's agent, and ends it.
func (o operator) end(t *testing.T, id string, how func(task.Claim) task.Ending) {
	t.Helper()
	claim, _, err := o.tasks.Claim(t.Context(), id, task.Profile{Agent: o.members[0].id})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := task.NewSigner(o.members[0].identity, "n")
	if err != nil {
		t.Fatal(err)
	}
	ending := how(claim)
	if err := errors.Join(signer.SignEndings(&ending)...); err != nil {
		t.Fatal(err)
	}
	if _, err := o.tasks.End(t.Context(), ending); err != nil {
		t.Fatal(err)
	}
}

// stranger is an agent with a root key, and statements of its next two keys.
type stranger struct {
	root          *identity.Identity
	first, second []byte
}

func newStranger(t *testing.T) stranger {
	t.Helper()
	root, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	s := stranger{root: root}
	s.first = s.rotate(t, nil)
	s.second = s.rotate(t, s.first)
	return s
}

func (s stranger) rotate(t *testing.T, current []byte) []byte {
	t.Helper()
	next, err := s.root.Rotate(identity.Rotation{Current: current})
	if err != nil {
		t.Fatal(err)
	}
	return next.Statement()
}

func (s stranger) revocation(t *testing.T) string {
	t.Helper()
	raw, err := s.root.Revoke(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(identity.EncodeStatement(raw))
}

func pemOf(raw []byte) string { return string(identity.EncodeStatement(raw)) }

func TestStatementsThroughTheSocketAreVerified(t *testing.T) {
	t.Parallel()
	o, s := operatorOf(t, operatedText), newStranger(t)
	apply := func(text string) (control.Applied, error) { return o.ApplyStatement(t.Context(), text, ada) }
	foreign := newStranger(t)
	key, err := os.ReadFile(KeyPath(o.dir, "w"))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"nothing": "", "rubbish": "rubbish", "private key": string(key), "two": pemOf(s.first) + pemOf(foreign.first),
		"another type": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.first})),
		"headers":      string(pem.EncodeToMemory(&pem.Block{Type: "CONVERGE KEY STATEMENT", Headers: map[string]string{"A": "b"}, Bytes: s.first})),
		"huge":         strings.Repeat(" ", 1<<20) + pemOf(s.first),
	}
	for i := range s.first {
		flipped := bytes.Clone(s.first)
		flipped[i] ^= 1
		bad[fmt.Sprint("bit ", i)] = pemOf(flipped)
	}
	for name, text := range bad {
		if _, err := apply(text); !errors.Is(err, control.ErrInvalid) || name == "private key" && strings.Contains(err.Error(), "MC4") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o.registry.Statement(s.root.ID()) != nil {
		t.Fatal("something of that is in force")
	}
	if a, err := apply(pemOf(s.second)); err != nil || !a.Changed || a.Epoch != 2 || a.Told != "" || a.Untold != "" {
		t.Errorf("a good one: %+v, %v", a, err)
	}
	if a, err := apply(pemOf(s.second)); err != nil || a.Changed {
		t.Errorf("again: %+v, %v", a, err)
	}
	if _, err := apply(pemOf(s.first)); !errors.Is(err, identity.ErrRolledBack) {
		t.Errorf("an older one: %v", err)
	}
	kept, err := identity.ReadStatementFile(identity.StatementFile(filepath.Join(o.dir, "statements"), s.root.ID()))
	if err != nil || !bytes.Equal(kept, s.second) {
		t.Errorf("the folder has %x, %v", kept, err)
	}
	if a, err := apply(s.revocation(t)); err != nil || !a.Revoked || !a.Changed {
		t.Errorf("a revocation: %+v, %v", a, err)
	}
	if _, err := apply(pemOf(s.second)); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("after the revocation: %v", err)
	}
	if _, err := o.registry.Lookup(s.root.ID()); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("the agent is %v", err)
	}
}

// TestQuarantineOfDiscoveryIsListedAndReleased has the store show a contradiction, of which the agents have not heard.
func TestQuarantineOfDiscoveryIsListedAndReleased(t *testing.T) {
	t.Parallel()
	o, s := operatorOf(t, operatedText), newStranger(t)
	if err := o.discovery.PublishStatement(t.Context(), s.second); err != nil {
		t.Fatal(err)
	}
	key := store.Key("discovery", "n") + "/-keys/" + s.root.ID().String()
	entry, err := o.store.Get(t.Context(), key)
	if err == nil {
		_, err = o.store.Put(t.Context(), key, s.rotate(t, s.first), entry.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []control.Quarantine
	for giveUp := time.Now().Add(30 * time.Second); len(all) == 0 && time.Now().Before(giveUp); time.Sleep(time.Millisecond) {
		all, _ = o.Quarantined(t.Context())
	}
	if len(all) != 1 || all[0].ID != s.root.ID().String() || len(o.registry.Quarantined()) != 0 {
		t.Fatalf("quarantined: %+v", all)
	}
	if _, err := o.ReleaseAgent(t.Context(), all[0].ID, ada); err != nil {
		t.Error(err)
	}
	if all, err := o.Quarantined(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestStatementThatContradictsQuarantines(t *testing.T) {
	t.Parallel()
	o, s := operatorOf(t, operatedText), newStranger(t)
	if _, err := o.ApplyStatement(t.Context(), pemOf(s.second), ada); err != nil {
		t.Fatal(err)
	}
	fork := s.rotate(t, s.first)
	if _, err := o.ApplyStatement(t.Context(), pemOf(fork), ada); !errors.Is(err, identity.ErrQuarantined) {
		t.Errorf("a contradiction: %v", err)
	}
	all, err := o.Quarantined(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != s.root.ID().String() || all[0].Epoch != 2 || all[0].Counts != pemOf(s.second) || all[0].Contrary != pemOf(fork) {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, other := range []string{"w", o.members[0].id.String(), strings.Repeat("0", 64)} {
		if _, err := o.ReleaseAgent(t.Context(), other, ada); !errors.Is(err, control.ErrState) {
			t.Errorf("%s: %v", other, err)
		}
	}
	for _, nobody := range []string{"", "nobody", s.root.ID().Short(), "W", strings.ToUpper(s.root.ID().String())} {
		if _, err := o.ReleaseAgent(t.Context(), nobody, ada); !errors.Is(err, control.ErrNotFound) {
			t.Errorf("%q: %v", nobody, err)
		}
	}
	if q, err := o.ReleaseAgent(t.Context(), s.root.ID().String(), ada); err != nil || q.Epoch != 2 {
		t.Errorf("released %+v, %v", q, err)
	}
	if _, err := o.ReleaseAgent(t.Context(), s.root.ID().String(), ada); !errors.Is(err, control.ErrState) {
		t.Errorf("released twice: %v", err)
	}
	if all, err := o.Quarantined(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestOwnAgentInQuarantineIsReleasedAfterARestart has a process start whose own agent its store has in quarantine: where
// else could it be released?
func TestOwnAgentInQuarantineIsReleasedAfterARestart(t *testing.T) {
	t.Parallel()
	for _, seal := range []bool{false, true} {
		testOwnAgentInQuarantine(t, seal)
	}
}

func testOwnAgentInQuarantine(t *testing.T, seal bool) {
	dir, s := t.TempDir(), newStranger(t)
	id, more := s.root, "seal: allowed\n"
	if !seal {
		more = ""
		next, err := s.root.Rotate(identity.Rotation{})
		if err != nil {
			t.Fatal(err)
		}
		id = next
	}
	key := filepath.Join(dir, "w.pem")
	if err := identity.WriteKeyFile(key, id, nil); err != nil {
		t.Fatal(err)
	}
	if seal {
		if _, err := identity.KeepStatement(key+identity.StatementSuffix, s.first); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("network: n\nstore: sqlite\n%stools: {t: {command: [cat]}}\nagents: [{name: w, kind: worker, key: %q, capabilities: {t: t}, tools: [t]}]\n", more, key)
	c, err := config.Parse("c.yaml", []byte(text), config.Options{Set: map[string]string{"data": filepath.Join(dir, "data")}})
	if err != nil {
		t.Fatal(err)
	}
	for run, end := range []func(o operator){
		func(o operator) {
			o.registry.Apply(s.first)
			o.registry.Apply(s.rotate(t, nil))
		},
		func(o operator) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- o.Run(ctx) }()
			for o.members[0].runtime.Health().State < converge.StateRunning && len(ended) == 0 {
				time.Sleep(time.Millisecond)
			}
			if _, err := o.ReleaseAgent(t.Context(), "w", ada); err != nil {
				t.Errorf("release: %v", err)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("with seal %t, Run: %v", seal, err)
			}
		},
		func(o operator) {
			if _, err := o.registry.Lookup(id.ID()); err != nil {
				t.Errorf("released, and %v", err)
			}
		},
	} {
		n, err := New(t.Context(), c, Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatalf("with seal %t, run %d: %v", seal, run, err)
		}
		all, _ := operator{n}.Quarantined(t.Context())
		if len(all) != run%2 {
			t.Errorf("with seal %t, run %d: %+v", seal, run, all)
		}
		end(operator{n})
		n.saveKeys(t.Context())
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if seal {
		return
	}
	other, err := s.root.Rotate(identity.Rotation{}) // as from a backup
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(key), identity.WriteKeyFile(key, other, nil)); err != nil {
		t.Fatal(err)
	}
	if n, err := New(t.Context(), c, Options{Logger: slog.New(slog.DiscardHandler)}); !errors.Is(err, identity.ErrQuarantined) {
		t.Errorf("a key that contradicts what is known: %v", err)
		if n != nil {
			n.Close()
		}
	}
}

// TestStatementThatCannotBeKeptIsInForceAndSaysSo has a file in the place of the folder.
func TestStatementThatCannotBeKeptIsInForceAndSaysSo(t *testing.T) {
	t.Parallel()
	o, s := operatorOf(t, operatedText), newStranger(t)
	dir := filepath.Join(o.dir, "statements")
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	a, err := o.ApplyStatement(t.Context(), s.revocation(t), ada)
	if err != nil || !a.Changed || a.File != "" || !strings.Contains(a.Untold, "folder of statements") {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := o.registry.Lookup(s.root.ID()); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("the agent is %v", err)
	}
}

// TestStatementsHandedOverAtOnceLeaveTheLastOne races the keys of agents.
func TestStatementsHandedOverAtOnceLeaveTheLastOne(t *testing.T) {
	t.Parallel()
	o := operatorOf(t, operatedText)
	for range 10 {
		s := newStranger(t)
		all := [][]byte{s.first, s.second}
		for range 6 {
			all = append(all, s.rotate(t, all[len(all)-1]))
		}
		var handing sync.WaitGroup
		for _, raw := range all {
			handing.Go(func() {
				if _, err := o.ApplyStatement(context.Background(), pemOf(raw), ada); err != nil && !errors.Is(err, identity.ErrRolledBack) {
					t.Error(err)
				}
			})
		}
		handing.Wait()
		last := all[len(all)-1]
		kept, err := identity.ReadStatementFile(identity.StatementFile(filepath.Join(o.dir, "statements"), s.root.ID()))
		if err != nil || !bytes.Equal(kept, last) || !bytes.Equal(o.registry.Statement(s.root.ID()), last) {
			t.Errorf("the folder does not have the last one: %v", err)
		}
	}
}

// TestWhatCannotBeRecordedIsNotDoneUnlessItIsARevocation breaks the log.
func TestWhatCannotBeRecordedIsNotDoneUnlessItIsARevocation(t *testing.T) {
	t.Parallel()
	o, s := operatorOf(t, operatedText), newStranger(t)
	waiting := o.submit(t, task.Spec{ID: "t-1"})
	o.registry.Apply(s.second)
	o.registry.Apply(s.rotate(t, s.first))
	if err := o.audit.Close(); err != nil {
		t.Fatal(err)
	}
	_, one := o.CancelTask(t.Context(), waiting.ID, ada)
	_, two := o.ReleaseAgent(t.Context(), s.root.ID().String(), ada)
	_, three := o.ApplyStatement(t.Context(), pemOf(newStranger(t).first), ada)
	for _, err := range []error{one, two, three} {
		if !errors.Is(err, converge.ErrAudit) {
			t.Errorf("got %v", err)
		}
	}
	if now, err := o.tasks.Get(t.Context(), waiting.ID); err != nil || now.Status != task.Pending {
		t.Errorf("the task is %s, %v", now.Status, err)
	}
	if all, _ := o.Quarantined(t.Context()); len(all) != 1 {
		t.Errorf("released: %+v", all)
	}
	if a, err := o.ApplyStatement(t.Context(), s.revocation(t), ada); err != nil || !a.Changed {
		t.Errorf("a revocation: %+v, %v", a, err)
	}
}

// TestOperatorsActsHaveReceipts also has acts that fail.
func TestOperatorsActsHaveReceipts(t *testing.T) {
	t.Parallel()
	o := operatorOf(t, operatedText+"audit: {sync: always}\n")
	one, two := o.submit(t, task.Spec{ID: "t-1", MaxAttempts: 1}), o.submit(t, task.Spec{ID: "t-2"})
	o.end(t, one.ID, func(c task.Claim) task.Ending { return task.Failure(c, "it broke") })
	if changed, err := o.RequeueTask(t.Context(), one.ID, ada); err != nil || changed.State != "pending" || changed.Attempts != 0 || changed.DeadLetter {
		t.Errorf("requeued %+v, %v", changed, err)
	}
	if changed, err := o.CancelTask(t.Context(), two.ID, ada); err != nil || changed.State != "cancelled" {
		t.Errorf("cancelled %+v, %v", changed, err)
	}
	if _, err := o.CancelTask(t.Context(), two.ID, ada); !errors.Is(err, control.ErrState) {
		t.Errorf("cancelled twice: %v", err)
	}
	if _, err := o.RequeueTask(t.Context(), one.ID, ada); !errors.Is(err, control.ErrState) {
		t.Errorf("requeued twice: %v", err)
	}
	if _, err := o.CancelTask(t.Context(), "t-3", ada); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("no such task: %v", err)
	}
	if _, err := o.CancelTask(t.Context(), "../t-1", ada); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("a path: %v", err)
	}
	if _, err := o.CancelTask(t.Context(), "t\n1", ada); !errors.Is(err, control.ErrNotFound) && !errors.Is(err, control.ErrInvalid) {
		t.Errorf("no ID: %v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	if _, err := audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
		if e.Kind == audit.KindOperator {
			got = append(got, fmt.Sprintf("%s %s %s %q", e.Action, e.Subject, e.Outcome, e.Reason))
		}
		return nil
	}}, filepath.Join(o.dir, "audit")); err != nil {
		t.Fatal(err)
	}
	const by = `by ada (uid 7), who says to be root\x1b[2J`
	want := []string{
		`requeue_task t-1 ok "` + by + `: as agreed"`, `cancel_task t-2 ok "` + by + `: as agreed"`,
		`cancel_task t-2 failed "` + by + `: cancel task \"t-2\": task has ended: as agreed"`,
		`requeue_task t-1 failed "` + by + `: requeue task \"t-1\": task is not a dead letter: as agreed"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("receipts\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestListsHoldNoContents has tasks whose params, reasons and results are large, hostile and no text.
func TestListsHoldNoContents(t *testing.T) {
	t.Parallel()
	o := operatorOf(t, operatedText)
	params, err := json.Marshal(map[string]string{"a": "PRECIOUS" + strings.Repeat("x", 100<<10), "z": "\x1b[2J"})
	if err != nil {
		t.Fatal(err)
	}
	o.submit(t, task.Spec{ID: "failed", Params: params})
	o.end(t, "failed", func(c task.Claim) task.Ending { return task.Failure(c, strings.Repeat("ä", 2000)) })
	results := map[string][]byte{
		"binary": {0xff, 0xfe, 0}, "text": []byte("PRECIOUS" + strings.Repeat("ö", control.MaxContent)),
		"json": []byte(`{"a": "PRECIOUS` + strings.Repeat("x", control.MaxContent) + `", "z": 1}`), "none": nil,
	}
	for id, result := range results {
		o.submit(t, task.Spec{ID: id})
		o.end(t, id, func(c task.Claim) task.Ending { return task.Completion(c, result, "text/plain") })
	}
	page, err := o.ListTasks(t.Context(), control.TaskQuery{Limit: 100})
	if err != nil || len(page.Tasks) != 5 || page.Next != "" {
		t.Fatalf("%+v, %v", page, err)
	}
	text, err := json.Marshal(page)
	if err != nil || strings.Contains(string(text), "PRECIOUS") || len(text) > 5<<10 {
		t.Errorf("a list of %d bytes: %.2000s, %v", len(text), text, err)
	}
	failed, err := o.GetTask(t.Context(), "failed")
	if err != nil || failed.Reason != strings.Repeat("ä", 2000) || failed.ReasonCut || failed.Params.Size != len(params) || !failed.Params.Cut ||
		len(failed.Params.Text) > control.MaxContent || !strings.Contains(failed.Params.Text, `"z":"\u001b[2J"`) || failed.Result != nil || !failed.Signed {
		t.Errorf("failed: %+v, %v", failed, err)
	}
	for id, result := range results {
		d, err := o.GetTask(t.Context(), id)
		if err != nil || d.Result == nil || d.Result.Size != len(result) || len(d.Result.Text) > control.MaxContent || d.Result.Binary != (id == "binary") ||
			d.Result.Cut != (id == "text" || id == "json") {
			t.Errorf("%s: %+v, %v", id, d.Result, err)
		}
	}
}

func TestTasksAreFilteredAndPaged(t *testing.T) {
	t.Parallel()
	o := operatorOf(t, operatedText)
	for i := range 25 {
		o.submit(t, task.Spec{ID: fmt.Sprintf("t-%02d", i), Priority: i, MaxAttempts: 1})
	}
	for _, id := range []string{"t-07", "t-21"} {
		o.end(t, id, func(c task.Claim) task.Ending { return task.Failure(c, "no") })
	}
	var ids []string
	for q := (control.TaskQuery{Limit: 10}); ; {
		page, err := o.ListTasks(t.Context(), q)
		if err != nil || len(page.Tasks) > 10 {
			t.Fatalf("%d tasks, %v", len(page.Tasks), err)
		}
		for _, listed := range page.Tasks {
			ids = append(ids, listed.ID)
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if len(ids) != 25 || ids[0] != "t-00" || ids[24] != "t-24" {
		t.Errorf("pages have %q", ids)
	}
	me := o.members[0].id.String()
	for want, q := range map[int]control.TaskQuery{
		2:  {States: []string{control.Dead}, Worker: "w", Submitter: me},
		23: {States: []string{"pending", "assigned"}, Newer: 1 << 40},
		0:  {Pool: "p"},
	} {
		if page, err := o.ListTasks(t.Context(), func() control.TaskQuery { q.Limit = 100; return q }()); err != nil || len(page.Tasks) != want {
			t.Errorf("%+v: %d tasks, %v", q, len(page.Tasks), err)
		}
	}
	for _, bad := range []control.TaskQuery{{After: "nonsense"}, {Topics: []string{"a..b"}}, {States: []string{"deaf"}}} {
		bad.Limit = 1
		if _, err := o.ListTasks(t.Context(), bad); !errors.Is(err, control.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := o.ListTasks(t.Context(), control.TaskQuery{Limit: 1, Worker: "nobody"}); !errors.Is(err, control.ErrNotFound) {
		t.Errorf("a worker that there is not: %v", err)
	}
}

func TestTasksOfAHostAreElsewhere(t *testing.T) {
	t.Parallel()
	peer, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	o := operatorOf(t, operatedText+fmt.Sprintf("transport: tcp\npeers: [{name: h, id: %q, address: \"127.0.0.1:1\"}]\ntasks: {host: h}\n", peer.ID()))
	_, one := o.ListTasks(t.Context(), control.TaskQuery{Limit: 1})
	_, two := o.GetTask(t.Context(), "t-1")
	_, three := o.RequeueTask(t.Context(), "t-1", ada)
	_, four := o.CancelTask(t.Context(), "t-1", ada)
	for _, err := range []error{one, two, three, four} {
		if !errors.Is(err, control.ErrElsewhere) || !strings.Contains(err.Error(), `"h"`) {
			t.Errorf("got %v", err)
		}
	}
}
