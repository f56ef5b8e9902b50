//go:build unix

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/approval"
)

// taking is a network with one task, whose tool destroys something, as the configuration says.
func taking(data, file string) string {
	return fmt.Sprintf(`
network: taking
data: %q
store: sqlite
tools:
  take: {command: [cat, --, "{file}"], paths: {file: %q}, output: word, destructive: true}
agents:
  - {name: worker, kind: worker, capabilities: {take: take}, tools: [take]}
  - {name: coordinator, kind: coordinator, tasks: [{capability: take, params: {file: %q}, claim_ttl: 1s}]}
`, data, filepath.Dir(file), filepath.Base(file))
}

// shortDir returns a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cmd")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// converge runs a command and returns its outputs and its exit code.
func converge(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems strings.Builder
	cmd := exec.CommandContext(t.Context(), "converge", args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if exit, failed := errors.AsType[*exec.ExitError](err); !failed {
		check(t, err)
	} else {
		code = exit.ExitCode()
	}
	return out.String(), problems.String(), code
}

const waitsLine = `tool call waits for approval.* id=([0-9a-f]{16}) .*decide="converge approvals show ([0-9a-f]{16}) --data ([^ ]+) `

func TestCallRunsOnceItIsAllowedByCommand(t *testing.T) {
	t.Parallel()
	data, file := shortDir(t), filepath.Join(t.TempDir(), "log")
	check(t, os.WriteFile(file, []byte("precious\n"), 0o600))
	p := newProcess(t, taking(data, file), "--exit-when-done").start()
	found := p.awaitLog(waitsLine)
	id, dir := found[1], found[3]
	if found[2] != id || dir != data {
		t.Errorf("the log says %q", found[0])
	}
	stdout, stderr, code := converge(t, "approvals", "list", "--data", dir)
	if code != 0 || stderr != "" || !regexp.MustCompile(`^ID +AGENT.*\n`+id+` +worker +take +waiting +\d+s +(10m0|9m\d+)s +yes\n$`).MatchString(stdout) {
		t.Errorf("list: %d\n%s%s", code, stdout, stderr)
	}
	stdout, _, code = converge(t, "approvals", "show", id, "-c", configOf(p))
	for _, want := range []string{"id          " + id, "state       waiting", "hints       destructive yes", "rule        1: the tool is destructive", `{"file":"log"}`, "taint       peer:"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("show: %d, no %q in\n%s", code, want, stdout)
		}
	}
	stdout, stderr, code = converge(t, "approvals", "allow", "0123456789abcdef", id, "--data", dir, "--note", "fine", "--as", "ada")
	if code != 1 || stdout != id+": take of worker is allowed\n" || !strings.Contains(stderr, `approval "0123456789abcdef": no such request`) || !strings.Contains(stderr, "hint: ") {
		t.Errorf("allow: %d\n%s%s", code, stdout, stderr)
	}
	p.end(0)
	p.wantOutput(`^take +precious +worker$`, `^tools +1 run, `)
	_, stderr, code = converge(t, "approvals", "list", "--data", dir)
	if code != 1 || !strings.Contains(stderr, "no network is running there") || !strings.Contains(stderr, "hint: calls wait while `converge run` runs") {
		t.Errorf("after the end: %d\n%s", code, stderr)
	}
}

func configOf(p *process) string {
	for i, arg := range p.cmd.Args {
		if arg == "-c" {
			return p.cmd.Args[i+1]
		}
	}
	return ""
}

func TestKilledNetworkFindsItsRequestAgainAndRunsTheCallOnce(t *testing.T) {
	t.Parallel()
	data, file := shortDir(t), filepath.Join(t.TempDir(), "log")
	check(t, os.WriteFile(file, []byte("precious\n"), 0o600))
	first := newProcess(t, taking(data, file), "--exit-when-done").start()
	id := first.awaitLog(waitsLine)[1]
	first.signal(syscall.SIGKILL)
	_ = first.cmd.Wait()
	second := newProcess(t, taking(data, file), "--exit-when-done").start()
	second.awaitLog("agent is running")
	var waiting []approval.Request
	stdout, stderr, code := converge(t, "approvals", "list", "--data", data, "-o", "json")
	if code == 0 {
		check(t, json.Unmarshal([]byte(stdout), &waiting))
	}
	if code != 0 || len(waiting) != 1 || waiting[0].ID != id {
		t.Fatalf("list: %d\n%s%s\nwant %s", code, stdout, stderr, id)
	}
	stdout, stderr, code = converge(t, "approvals", "allow", id, "--data", data) // before the call asks again, perhaps
	if code != 0 {
		t.Fatalf("allow: %d\n%s%s", code, stdout, stderr)
	}
	second.end(0)
	second.wantOutput(`^take +precious +worker$`, `^tools +1 run, `)
	if strings.Contains(second.log.String(), "tool call waits for approval") {
		t.Errorf("it was asked again:\n%s", second.log.String())
	}
}

func TestWhatWouldNotShowIsWrittenOut(t *testing.T) {
	for text, want := range map[string]string{
		"plain é 漢 ✓":    "plain é 漢 ✓",
		"a\u202eb":       `a\u202eb`,
		"\x1b[2J":        `\u001b[2J`,
		"\u200bx\u2066":  `\u200bx\u2066`,
		"\U000e0041":     `\udb40\udc41`,
		"line\nline\r\t": `line\u000aline\u000d\u0009`,
		"\xff":           `\ufffd`,
	} {
		if got := visible(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func TestWatchPrintsWhatComesUntilItIsInterrupted(t *testing.T) {
	t.Parallel()
	data, file := shortDir(t), filepath.Join(t.TempDir(), "log")
	check(t, os.WriteFile(file, []byte("precious\n"), 0o600))
	p := newProcess(t, taking(data, file), "--exit-when-done").start()
	id := p.awaitLog(waitsLine)[1]
	watch := exec.CommandContext(t.Context(), "converge", "approvals", "list", "--watch", "--data", data)
	stdout, err := watch.StdoutPipe()
	check(t, err)
	check(t, watch.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, id+"  worker  take  until ") {
		t.Errorf("%q, %v", line, err)
	}
	check(t, watch.Process.Signal(syscall.SIGTERM))
	check(t, watch.Wait())
	if stdout, stderr, code := converge(t, "approvals", "deny", id, "--data", data, "--note", "not today", "-o", "json"); code != 0 || !strings.Contains(stdout, `"state":"denied"`) {
		t.Errorf("deny: %d\n%s%s", code, stdout, stderr)
	}
	// The task is tried again, and the denial still stands.
	p.end(1)
	p.wantLog("task failed: take: tool take: not approved: denied by who was asked: not today")
}
