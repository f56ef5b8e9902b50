//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/converge-agents/converge/control"
)

// hungAndLocked is a network with a task that hangs until the gate opens, and one that fails for as long as there is no key.
func hungAndLocked(g *gate, data, key string) string {
	return fmt.Sprintf(`
network: tasks
data: %[1]q
tools:
  gate:
    command: [sh, -c, 'echo $$ > "$STARTED"; read word < "$RELEASE"; echo "$word"']
    env: {STARTED: %[2]q, RELEASE: %[3]q}
    read: [%[3]q]
    write: [%[2]q]
  lock: {command: [cat, --, "{file}"], paths: {file: %[4]q}, output: word}
agents:
  - {name: worker, kind: worker, capabilities: {wait: gate, unlock: lock}, tools: [gate, lock], concurrency: 2}
  - name: coordinator
    kind: coordinator
    tasks: [{name: hung, capability: wait}, {name: locked, capability: unlock, params: {file: %[5]q}, attempts: 1, priority: 7}]
`, data, g.started.Name(), g.release.Name(), filepath.Dir(key), filepath.Base(key))
}

// tasksIn asks for the tasks in some states until there are so many.
func tasksIn(t *testing.T, data string, n int, states string) []control.Task {
	t.Helper()
	var page control.TaskPage
	for giveUp := time.Now().Add(patience); ; {
		stdout, stderr, code := typed("tasks", "list", "--data", data, "--state", states, "-o", "json")
		if code == 0 {
			page = control.TaskPage{}
			check(t, json.Unmarshal([]byte(stdout), &page))
		}
		if code == 0 && len(page.Tasks) == n {
			return page.Tasks
		}
		if time.Now().After(giveUp) {
			t.Fatalf("no %d tasks %s: %d\n%s%s", n, states, code, stdout, stderr)
		}
	}
}

// wants checks what a command has printed and its exit code.
func wants(t *testing.T, status int, out, problems string, args ...string) string {
	t.Helper()
	stdout, stderr, code := typed(args...)
	if code != status || !regexp.MustCompile(`(?ms)`+out).MatchString(stdout) || !regexp.MustCompile(`(?ms)`+problems).MatchString(stderr) {
		t.Errorf("converge %s: exit status %d, want %d, with %q and %q:\n%s%s", strings.Join(args, " "), code, status, out, problems, stdout, stderr)
	}
	return stdout
}

// TestTasksOfANetworkThatRuns lists, shows, requeues and cancels tasks of one process from another.
func TestTasksOfANetworkThatRuns(t *testing.T) {
	t.Parallel()
	data, key, g := shortDir(t), filepath.Join(t.TempDir(), "key"), newGate(t)
	p := newProcess(t, hungAndLocked(g, data, key)).start()
	tool := g.awaitStart()
	dead, hung := tasksIn(t, data, 1, control.Dead)[0], tasksIn(t, data, 1, "assigned")[0]
	at := []string{"--data", data}
	tasks := func(args ...string) []string { return append(append([]string{"tasks"}, args...), at...) }

	list := wants(t, 0, `^ID +STATE +PRIORITY +ATTEMPTS +WORKER +AGE +REASON\n.+\n.+\n$`, `^$`, tasks("list")...)
	for _, want := range []string{
		`(?m)^` + dead.ID + ` +dead +7 +1/1 +worker +\d+s +tool lock: failed: program "cat": exit status 1\n`,
		`(?m)^` + hung.ID + ` +assigned +0 +0 +worker +\d+s *$`,
	} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("no %s in\n%s", want, list)
		}
	}
	wants(t, 0, `^ID [^\n]*\n[^\n]+\n$`, `^$`, tasks("list", "--worker", "worker", "--kind", "wait", "--submitter", "coordinator", "--newer", "1h")...)
	wants(t, 0, `^ID [^\n]*\n$`, `^$`, tasks("list", "--older", "1h")...)
	wants(t, 1, `^$`, `agent "nobody": not found: .*hint: `, tasks("list", "--worker", "nobody")...)
	_, more, _ := typed(tasks("list", "--limit", "1")...)
	after := regexp.MustCompile(`^converge: there may be more: add --after (\S+)\n$`).FindStringSubmatch(more)
	if after == nil {
		t.Fatalf("a page of one does not say that there are more: %q", more)
	}
	wants(t, 0, `^ID [^\n]*\n[^\n]+\n$`, `^$`, tasks("list", "--limit", "1", "--after", after[1])...)

	wants(t, 0, `^id +`+dead.ID+`\nstate +dead\nkind +unlock\n.*^params +14 bytes, SHA-256 [0-9a-f]{64}, application/json\n\{"file":"key"\}\n`, `^$`, tasks("show", dead.ID)...)
	wants(t, 1, `^$`, `no such task\nhint: `, tasks("show", "none")...)
	wants(t, 1, `^$`, `task is not a dead letter\nhint: `, tasks("requeue", hung.ID)...)
	wants(t, 1, `^$`, `task has ended\nhint: `, tasks("cancel", dead.ID)...)

	check(t, os.WriteFile(key, []byte("open\n"), 0o600))
	wants(t, 1, `^`+dead.ID+`: unlock is pending\n$`, `requeue task "none"|no such task`, tasks("requeue", "none", dead.ID, "--note", "there is a key", "--as", "ada")...)
	tasksIn(t, data, 1, "completed")
	wants(t, 0, `^state +completed\n.*^result +\d+ bytes, SHA-256 [0-9a-f]{64}, \S+\n.*open.*^signed +yes\n$`, `^$`, tasks("show", dead.ID)...)

	wants(t, 0, `^`+hung.ID+`: wait is cancelled\n$`, `^$`, tasks("cancel", hung.ID)...)
	for giveUp := time.Now().Add(patience); syscall.Kill(tool, 0) != syscall.ESRCH; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(giveUp) {
			t.Fatal("the tool of a task that was cancelled runs on")
		}
	}
	p.signal(os.Interrupt)
	p.end(exitFailed) // the job has failed, though one of its tasks was done after all
	p.wantLog(`msg="operator's command" action=requeue_task about=` + dead.ID + ` by="\S+ \(uid \d+\)" claimed=ada$`)
	p.wantLog(`msg="operator's command" action=cancel_task about=` + hung.ID)
	receipts := wants(t, 0, `^`, `^`, "audit", "show", filepath.Join(data, "audit"), "--kind", "operator")
	for _, want := range []string{
		` operator requeue_task ` + dead.ID + ` ok peer=worker: by \S+ \(uid \d+\), who says to be ada: there is a key\n`,
		` operator requeue_task ` + hung.ID + ` failed .*not a dead letter`,
		` operator cancel_task ` + hung.ID + ` ok peer=worker: by \S+ \(uid \d+\)\n`,
	} {
		if !regexp.MustCompile(want).MatchString(receipts) {
			t.Errorf("no %q in\n%s", want, receipts)
		}
	}
	wants(t, 1, `^$`, `no network is running there: .*hint: start it with `, tasks("list")...)
}
