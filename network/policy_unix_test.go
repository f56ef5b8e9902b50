//go:build unix

package network_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/network"
)

// taking is a network that takes the files of a folder, if somebody lets it, and reads some. To take them is
// destructive, or so the configuration says.
func taking(data, dir, policy string) string {
	return fmt.Sprintf(`
network: taking
data: %q
tools:
  take: {command: [cat, --, "{file}"], paths: {file: %q}, destructive: true, concurrency: 1}
  cat: {command: [cat, --, "{file}"], paths: {file: %q}}
agents:
  - {name: worker, kind: worker, capabilities: {take: take, read: cat}, tools: [take, cat], concurrency: 8}
  - name: coordinator
    kind: coordinator
    tasks:
      - {capability: take, each: "**", in: %q, params: {file: "{path}"}, attempts: 1, claim_ttl: 3s}
      - {capability: read, each: "keep*", in: %q, params: {file: "{path}"}, attempts: 1}
%s`, data, dir, dir, dir, dir, policy)
}

// stateDir returns a folder whose path leaves room for a socket's name.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "net")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// waiting returns the requests that the socket tells of, once there are so many, by the name of the file.
func waiting(t *testing.T, c *control.Client, n int) map[string]approval.Request {
	t.Helper()
	files := map[string]approval.Request{}
	eventually(t, fmt.Sprintf("%d requests", n), func() bool {
		all, _, err := c.List(t.Context())
		if err != nil && !errors.Is(err, control.ErrNotRunning) {
			t.Fatal(err)
		}
		clear(files)
		for _, r := range all {
			_, file, _ := strings.Cut(strings.TrimSuffix(r.Params, `"}`), `:"`)
			files[file] = r
		}
		return len(files) == n
	})
	return files
}

func TestDestructiveToolRunsOnlyWhereSomebodyAllowsIt(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), stateDir(t)
	write(t, dir, "a", "b", "keep-c", "d")
	log, lines := newLog()
	n := build(t, taking(data, dir, ""), network.Options{Logger: log})
	ran := make(chan error, 1)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	go func() { ran <- n.Run(ctx) }()

	c := control.NewClient(data)
	defer c.Close()
	files := waiting(t, c, 4) // although the tool has one slot
	eventually(t, "what needs nobody's approval to be done", func() bool { return n.Progress().Completed == 1 })
	for file, r := range files {
		if r.Tool != "take" || r.Agent != "worker" || !r.Destructive || r.TaskID == "" || len(r.Taint) != 1 {
			t.Errorf("%s: %+v", file, r)
		}
	}
	_, err := c.Decide(t.Context(), files["a"].ID, true, "", "")
	check(t, err)
	eventually(t, "the call that was allowed to have run", func() bool { return n.Progress().Completed == 2 })
	if ran := n.Metrics().Stats().Tools.Run; ran != 2 {
		t.Errorf("%d calls have run", ran)
	}
	_, err = c.Decide(t.Context(), files["b"].ID, false, "b is precious", "")
	check(t, err)
	_, err = n.Approvals().Decide(t.Context(), files["keep-c"].ID, approval.Decision{By: "this test"})
	check(t, err)
	_, err = n.Approvals().Decide(t.Context(), files["d"].ID, approval.Decision{Allow: true})
	check(t, err)
	<-n.Done()
	stop()
	check(t, <-ran)
	report := n.Report()
	if report.Tasks.Completed != 3 || report.Tasks.Failed != 2 || report.Tools.Run != 3 || !strings.Contains(fmt.Sprint(report.Errors), "b is precious") {
		t.Errorf("report %+v", report)
	}
	if text := lines.String(); !strings.Contains(text, "converge approvals show "+files["a"].ID+" --data "+data) || strings.Contains(text, dir+"/a") {
		t.Errorf("the log does not say how to decide, or too much:\n%s", text)
	}
	check(t, n.Close())
	outcomes := map[string]int{}
	_, err = audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
		if e.Kind == audit.KindApproval {
			outcomes[e.Outcome]++
		}
		return nil
	}}, filepath.Join(data, "audit"))
	check(t, err)
	if want := map[string]int{"allowed": 2, "denied": 2, "policy_allowed": 1}; !maps.Equal(outcomes, want) {
		t.Errorf("receipts of approvals %v, want %v", outcomes, want)
	}
	key, err := os.ReadFile(filepath.Join(data, "approval.key"))
	check(t, err)
	if info, err := os.Stat(filepath.Join(data, "approval.key")); err != nil || info.Mode().Perm() != 0o600 || strings.Contains(lines.String(), strings.TrimSpace(string(key))) {
		t.Errorf("the key of approvals is not secret: %v, %v", info, err)
	}
	if _, err := os.Lstat(filepath.Join(data, control.SocketName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestCallThatNobodyDecidesOnIsDenied has a call wait for several times as long as its claim holds.
func TestCallThatNobodyDecidesOnIsDenied(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a")
	n := build(t, taking(stateDir(t), dir, "policy: {timeout: 1200ms}"), network.Options{})
	report := runJob(t, n)
	if report.Tasks.Failed != 1 || report.Tools.Run != 0 || !strings.Contains(fmt.Sprint(report.Errors), "nobody has decided in time") {
		t.Errorf("report %+v", report)
	}
}

func TestPolicyOfTheFileDecides(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a", "b", "keep-c")
	n := build(t, taking(stateDir(t), dir, `
policy:
  rules:
    - {when: 'tool == "take" && params.file == "a" && taint.exists(l, l.startsWith("peer:"))', then: allow}
    - {when: tool == "cat", then: allow}
    - {when: params.nothing == 1, then: allow}
`), network.Options{})
	report := runJob(t, n)
	if report.Tasks.Completed != 2 || report.Tools.Run != 2 || report.Tasks.Failed != 2 {
		t.Errorf("report %+v", report)
	}
	if text := fmt.Sprint(report.Errors); !strings.Contains(text, "rule 3 of the policy cannot be evaluated") {
		t.Errorf("errors %s", text)
	}
}

func TestEmptyPolicyDeniesAllAndSaysSo(t *testing.T) {
	t.Parallel()
	log, lines := newLog()
	report := runJob(t, build(t, one+"policy: {}\n", network.Options{Logger: log}))
	if report.Tasks.Completed != 0 || !strings.Contains(fmt.Sprint(report.Errors), "the policy has no rules") {
		t.Errorf("report %+v", report)
	}
	if !strings.Contains(lines.String(), "level=WARN msg=\"the policy has no rules, so no tool call will run\"") {
		t.Errorf("log:\n%s", lines)
	}
}

func TestCallsThatWaitDoNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), stateDir(t)
	write(t, dir, "a", "b")
	n := build(t, taking(data, dir, ""), network.Options{DrainTimeout: time.Hour})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	c := control.NewClient(data)
	defer c.Close()
	waiting(t, c, 2)
	stop()
	select {
	case err := <-ran:
		check(t, err)
	case <-time.After(patience):
		t.Fatal("the network does not end")
	}
	all, err := n.Approvals().List(t.Context())
	if err != nil || len(all) != 0 {
		t.Errorf("requests %v, %v", all, err)
	}
	if report := n.Report(); report.Tasks.Failed != 0 || report.Unfinished != 2 || report.Tools.Run != 0 {
		t.Errorf("the tasks have failed with it: %+v", report)
	}
}

func TestStateDirectoryWithoutRoomForASocket(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), filepath.Join(stateDir(t), strings.Repeat("deep/", 30))
	write(t, dir, "keep-a")
	log, lines := newLog()
	n := build(t, taking(data, dir, "policy: {timeout: 100ms}"), network.Options{Logger: log})
	if report := runJob(t, n); report.Tasks.Completed != 1 || report.Tasks.Failed != 1 {
		t.Errorf("report %+v", report)
	}
	if text := lines.String(); !strings.Contains(text, "the path of the socket is too long") || !strings.Contains(text, "shorter path") {
		t.Errorf("log:\n%s", text)
	}
}
