//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds what a broken test waits for, and lifetime how long a process is there that it forgets: some have many
// commands ask the one that runs.
const (
	patience = 30 * time.Second
	lifetime = 4 * patience
)

// process is a converge that runs.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	tmp    string
	stdout bytes.Buffer
	stderr *bufio.Reader
	log    bytes.Buffer // what was read of stderr
}

// newProcess prepares a `converge run` of a configuration.
func newProcess(t *testing.T, config string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	t.Cleanup(cancel)
	p := &process{t: t, tmp: t.TempDir()}
	path := filepath.Join(t.TempDir(), "converge.yaml")
	check(t, os.WriteFile(path, []byte(config), 0o600))
	p.cmd = exec.CommandContext(ctx, "converge", append([]string{"run", "-c", path}, args...)...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + p.tmp, "GORACE=" + raceOptions}
	p.cmd.Stdout = &p.stdout
	return p
}

// start starts it, with its standard error to be read by awaitLog.
func (p *process) start() *process {
	p.t.Helper()
	stderr, err := p.cmd.StderrPipe()
	check(p.t, err)
	p.stderr = bufio.NewReader(io.TeeReader(stderr, &p.log))
	check(p.t, p.cmd.Start())
	return p
}

// awaitLog reads standard error up to a line that matches, and returns its submatches.
func (p *process) awaitLog(pattern string) []string {
	p.t.Helper()
	for {
		line, err := p.stderr.ReadString('\n')
		if found := regexp.MustCompile(pattern).FindStringSubmatch(line); found != nil {
			return found
		}
		if err != nil {
			p.t.Fatalf("no %q on stderr:\n%s", pattern, p.log.String())
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	check(p.t, p.cmd.Process.Signal(s))
}

// end waits for the end, which has to come with that exit status and leave nothing behind.
func (p *process) end(status int) {
	p.t.Helper()
	if p.stderr != nil {
		_, err := io.Copy(io.Discard, p.stderr)
		check(p.t, err)
	}
	_ = p.cmd.Wait() // the exit status says it
	if got := p.cmd.ProcessState.ExitCode(); got != status {
		p.t.Errorf("%v, want exit status %d; stdout:\n%s\nstderr:\n%s", p.cmd.ProcessState, status, p.stdout.String(), p.log.String())
	}
	left, err := os.ReadDir(p.tmp)
	check(p.t, err)
	if len(left) > 0 {
		p.t.Errorf("left behind: %v", left)
	}
}

func (p *process) wantOutput(patterns ...string) {
	p.t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile(`(?m)` + pattern).MatchString(p.stdout.String()) {
			p.t.Errorf("no %q on stdout:\n%s", pattern, p.stdout.String())
		}
	}
}

func (p *process) wantLog(pattern string) {
	p.t.Helper()
	if !regexp.MustCompile(`(?m)` + pattern).MatchString(p.log.String()) {
		p.t.Errorf("no %q on stderr:\n%s", pattern, p.log.String())
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gate is a tool that says when it has started and ends when it is told to, and the configuration of a
// worker that has two tasks for it, one at a time.
type gate struct {
	t                *testing.T
	started, release *os.File
	config           string
}

func newGate(t *testing.T) *gate {
	t.Helper()
	g := &gate{t: t}
	dir := t.TempDir()
	pipe := func(name string) (string, *os.File) {
		path := filepath.Join(dir, name)
		check(t, unix.Mkfifo(path, 0o600))
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0) // not to wait for the other end
		check(t, err)
		t.Cleanup(func() { f.Close() })
		return path, f
	}
	started, startedFile := pipe("started")
	release, releaseFile := pipe("release")
	g.started, g.release = startedFile, releaseFile
	g.config = fmt.Sprintf(`
network: gate
tools:
  gate:
    command: [sh, -c, 'echo $$ > "$STARTED"; read word < "$RELEASE"; echo "$word"']
    env: {STARTED: %[1]q, RELEASE: %[2]q}
    read: [%[2]q]
    write: [%[1]q]
    output: word
agents:
  - {name: worker, kind: worker, capabilities: {wait: gate}, tools: [gate]}
  - name: coordinator
    kind: coordinator
    tasks: [{name: first, capability: wait}, {name: second, capability: wait}]
`, started, release)
	return g
}

// awaitStart waits until the tool runs, and returns its process ID.
func (g *gate) awaitStart() int {
	g.t.Helper()
	check(g.t, g.started.SetReadDeadline(time.Now().Add(patience)))
	line := make([]byte, 32)
	n, err := g.started.Read(line)
	check(g.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	check(g.t, err)
	return pid
}

func (g *gate) open() {
	g.t.Helper()
	_, err := g.release.WriteString("released\n")
	check(g.t, err)
}

func TestFirstInterruptLetsToolsFinish(t *testing.T) {
	for name, test := range map[string]struct {
		flags  []string
		status int
		said   string
	}{
		"to be done": {[]string{"--exit-when-done"}, exitInterrupted, `(?m)^converge: interrupted: 1 task had not ended$`},
		"to go on":   {nil, exitOK, ``},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			p := newProcess(t, g.config, test.flags...).start()
			g.awaitStart()
			p.signal(os.Interrupt)
			p.awaitLog(`msg="agents are stopping; tools that run get time to finish" at_most=10s`)
			g.open()
			p.end(test.status)
			p.wantOutput(`^(first|second) +released +worker$`, `^(first|second) +- *$`, `^tasks +2 submitted, 1 completed, 0 failed$`, ` 0 refused$`)
			p.wantLog(test.said)
			if strings.Contains(p.log.String(), "level=WARN") {
				t.Errorf("a clean end warns:\n%s", p.log.String())
			}
		})
	}
}

func TestSecondInterruptKillsTools(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	p := newProcess(t, g.config).start()
	tool := g.awaitStart()
	p.signal(os.Interrupt)
	p.awaitLog("stopping")
	p.signal(os.Interrupt)
	p.end(exitInterrupted)
	p.wantOutput(`^tasks +2 submitted, 0 completed, 1 failed$`)
	p.wantLog(`^converge: interrupted twice: running tools were killed$`)
	if err := syscall.Kill(tool, 0); err != syscall.ESRCH {
		t.Errorf("the tool runs on: %v", err)
	}
}

// hearHangups has the test's processes start with SIGHUP as from a terminal: under nohup they would inherit that it is
// ignored.
func hearHangups(t *testing.T) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
}

// TestSignalsEndALongRunningNetwork also shows how an operator watches one.
func TestSignalsEndALongRunningNetwork(t *testing.T) {
	hearHangups(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			g := newGate(t)
			g.open()
			g.open()
			p := newProcess(t, g.config, "--metrics-listen", "127.0.0.1:0").start()
			address := p.awaitLog(`level=INFO msg="serving /metrics, /healthz and /readyz" address=(127\.0\.0\.1:\d+)`)[1]
			p.awaitLog(`msg="all tasks have ended" completed=2 failed=0`)
			for path, want := range map[string]string{
				"/healthz": `{"name":"worker","state":"running"`,
				"/readyz":  `{"name":"coordinator","state":"running"`,
				"/metrics": "\nconverge_tasks_total{event=\"completed\"} 2\n",
			} {
				if got := get(t, "http://"+address+path); !strings.Contains(got, want) {
					t.Errorf("%s does not hold %s:\n%s", path, want, got)
				}
			}
			p.signal(signal)
			p.end(exitOK)
			p.wantOutput(`^first +released +worker$`, `^second +released +worker$`, `^tasks +2 submitted, 2 completed, 0 failed$`)
		})
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	check(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", url, resp.Status)
	}
	return string(body)
}

// closedPipe returns the writing end of a pipe that nobody reads.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	check(t, r.Close())
	t.Cleanup(func() { w.Close() })
	return w
}

func TestReportThatNobodyReadsIsAnError(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	g.open()
	g.open()
	p := newProcess(t, g.config, "--exit-when-done")
	p.cmd.Stdout = closedPipe(t)
	p.start()
	p.end(exitFailed)
	p.wantLog(`^converge: print the report: write /dev/stdout: broken pipe$`)
}

func TestLogThatNobodyReadsCostsNothing(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	g.open()
	g.open()
	p := newProcess(t, g.config, "--exit-when-done", "-o", "json")
	p.cmd.Stderr = closedPipe(t)
	check(t, p.cmd.Start())
	p.end(exitOK)
	p.wantOutput(`^\{"network":"gate","agents":2,"tasks":\{"submitted":2,"completed":2,"failed":0\}`)
}
