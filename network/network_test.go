package network_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/role"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		pgtest.Stop()
		os.Exit(code)
	}), goleak.IgnoreAnyFunction("github.com/converge-agents/converge/internal/pgtest.(*process).supervise"))
}

// patience bounds what a broken test waits for.
const patience = 2 * time.Minute

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func newLog() (*slog.Logger, *syncBuffer) {
	var b syncBuffer
	return slog.New(slog.NewTextHandler(&b, nil)), &b
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("converge.yaml", []byte(text), config.Options{})
	check(t, err)
	return c
}

// build makes a network that is closed at the end of the test.
func build(t *testing.T, text string, o network.Options) *network.Network {
	t.Helper()
	if o.Logger == nil {
		o.Logger, _ = newLog()
	}
	n, err := network.New(t.Context(), parse(t, text), o)
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	return n
}

// runJob runs the network until its job is done and returns the report.
func runJob(t *testing.T, n *network.Network) network.Report {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	select {
	case <-n.Done():
	case err := <-ran:
		t.Fatalf("the network ended before its job was done: %v", err)
	case <-ctx.Done():
	}
	stop()
	check(t, <-ran)
	return n.Report()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes files, each with its path as its content, below dir.
func write(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		full := filepath.Join(dir, path)
		check(t, os.MkdirAll(filepath.Dir(full), 0o755))
		check(t, os.WriteFile(full, []byte(path+"\n"), 0o644))
	}
}

// catFiles is a network of some workers and a coordinator that has them read the files of a folder.
func catFiles(workers int, dir, rest string) string {
	return fmt.Sprintf(`
network: cat
%s
tools:
  cat: {command: [cat, --, "{file}"], paths: {file: %q}, output: word}
agents:
  - {name: worker, kind: worker, count: %d, capabilities: {cat: cat}, tools: [cat], concurrency: 4}
  - name: coordinator
    kind: coordinator
    tasks: [{capability: cat, each: "**", in: %q, params: {file: "{path}"}}]
`, rest, dir, workers, dir)
}

// one is a network of one worker and one task.
const one = `
network: one
tools:
  echo: {command: [cat], stdin: hello}
agents:
  - {name: worker, kind: worker, capabilities: {greet: echo}, tools: [echo]}
  - {name: coordinator, kind: coordinator, tasks: [{capability: greet}]}
`

func rowsOf(r network.Report) []string {
	var rows []string
	for _, line := range r.Table[min(1, len(r.Table)):] {
		rows = append(rows, line[0])
	}
	return rows
}

func wantRows(t *testing.T, r network.Report, want ...string) {
	t.Helper()
	if got := rowsOf(r); !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestEveryResultIsSignedAndNothingIsRefused(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("file%02d", i))
	}
	write(t, dir, names...)
	log, text := newLog()
	// The more workers, the likelier a coordinator that starts too early meets one that it does not know.
	r := runJob(t, build(t, catFiles(20, dir, ""), network.Options{Logger: log}))
	if r.Tasks != (network.TaskReport{Submitted: 30, Completed: 30}) || r.Agents != 21 || r.Unfinished != 0 {
		t.Errorf("report %+v", r)
	}
	if r.Messages.Sent != 0 || len(r.Messages.Rejected) != 0 { // the tasks themselves carry the signatures
		t.Errorf("messages %+v, want none", r.Messages)
	}
	for i, line := range r.Table[1:] {
		if line[0] != names[i] || line[1] != names[i] || !strings.HasPrefix(line[2], "worker-") {
			t.Errorf("line %q, want subject and result %s and a worker", line, names[i])
		}
	}
	if strings.Contains(text.String(), "level=ERROR") {
		t.Errorf("errors in a normal run:\n%s", text)
	}
}

func TestTemporaryStateIsRemoved(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	log, _ := newLog()
	n, err := network.New(t.Context(), parse(t, one), network.Options{Logger: log})
	check(t, err)
	if len(entries(t, tmp)) != 1 {
		t.Errorf("%v in TMPDIR, want one state directory", entries(t, tmp))
	}
	runJob(t, n)
	check(t, n.Close())
	check(t, n.Close())
	if left := entries(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if r := n.Report(); r.Tasks.Completed != 1 || len(r.Table) != 2 {
		t.Errorf("report after Close: %+v", r)
	}
}

func entries(t *testing.T, dir string) []fs.DirEntry {
	t.Helper()
	all, err := os.ReadDir(dir)
	check(t, err)
	return all
}

func TestNamedStateIsKeptAndItsKeysAreUsedAgain(t *testing.T) {
	tmp, data := t.TempDir(), filepath.Join(t.TempDir(), "state")
	t.Setenv("TMPDIR", tmp)
	text := one + fmt.Sprintf("data: %q\n", data)
	var ids []identity.ID
	for range 2 {
		n := build(t, text, network.Options{})
		runJob(t, n)
		check(t, n.Close())
		path := network.KeyPath(data, "worker")
		info, err := os.Stat(path)
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("key file has mode %v", info.Mode())
		}
		id, err := identity.ReadKeyFile(path, nil)
		check(t, err)
		ids = append(ids, id.ID())
	}
	if ids[0] != ids[1] {
		t.Errorf("the worker was %s and became %s", ids[0], ids[1])
	}
	if left := entries(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSelectionOfFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.go", "b.md", ".hidden", "-n", "x y", "src/c.go", "src/deep/d.go", "vendor/v.go", "vendor/deep/w.go", "[x]/e.go")
	check(t, os.Symlink("a.go", filepath.Join(dir, "link.go")))
	check(t, os.Symlink("src", filepath.Join(dir, "linked")))
	check(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.go")))
	check(t, os.Symlink(dir, filepath.Join(dir, "src", "loop")))
	folder := filepath.Join(t.TempDir(), "linked folder")
	check(t, os.Symlink(dir, folder))
	for _, test := range []struct {
		in, each string
		exclude  []string
		want     []string
	}{
		{each: "*", want: []string{"-n", ".hidden", "a.go", "b.md", "x y"}},
		{each: "*.go", want: []string{"a.go"}},
		{each: "./*.go", want: []string{"a.go"}},
		{each: "**/*.go", want: []string{"[x]/e.go", "a.go", "src/c.go", "src/deep/d.go", "vendor/deep/w.go", "vendor/v.go"}},
		{each: "**/*.go", exclude: []string{"vendor/**", "[[]x]/*"}, want: []string{"a.go", "src/c.go", "src/deep/d.go"}},
		{each: "**/*.go", exclude: []string{"./vendor/**", "**/deep/**", "**/e.go"}, want: []string{"a.go", "src/c.go"}},
		{each: "**/*.go", exclude: []string{"**"}},
		{each: "src/*.go", want: []string{"src/c.go"}},
		{each: "src/**", want: []string{"src/c.go", "src/deep/d.go"}},
		{each: "*/*.go", want: []string{"[x]/e.go", "src/c.go", "vendor/v.go"}},
		{each: "{src,vendor}/*.go", want: []string{"src/c.go", "vendor/v.go"}},
		{each: "{a.go,src/deep/d.go}", want: []string{"a.go", "src/deep/d.go"}},
		{each: `\[x\]/e.go`, want: []string{"[x]/e.go"}},
		{each: "a.go", want: []string{"a.go"}},
		{each: "link*", want: nil},
		{each: "linked/*", want: nil},
		{each: "linked/c.go", want: nil},
		{each: "dangling.go", want: nil},
		{each: "src", want: nil},
		{each: "src/", want: nil},
		{each: "nowhere/**", want: nil},
		{in: folder, each: "src/*", want: []string{"src/c.go"}},
	} {
		t.Run(test.each, func(t *testing.T) {
			c := parse(t, catFiles(1, dir, ""))
			tasks := &c.Agents[1].Tasks[0]
			tasks.Each, tasks.Exclude = test.each, test.exclude
			if test.in != "" {
				tasks.In = test.in
			}
			log, text := newLog()
			n, err := network.New(t.Context(), c, network.Options{Logger: log})
			check(t, err)
			defer n.Close()
			wantRows(t, n.Report(), test.want...)
			if warned := strings.Contains(text.String(), "no file matches"); warned != (len(test.want) == 0) {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}

func TestJobWithoutTasksIsDoneAtOnce(t *testing.T) {
	log, text := newLog()
	r := runJob(t, build(t, catFiles(1, t.TempDir(), ""), network.Options{Logger: log}))
	if r.Tasks != (network.TaskReport{}) || r.Unfinished != 0 || len(r.Table) != 0 {
		t.Errorf("report %+v", r)
	}
	if want := `level=WARN msg="no file matches: nothing to do" agent=coordinator task=cat each=**`; !strings.Contains(text.String(), want) {
		t.Errorf("log without %q:\n%s", want, text)
	}
}

func TestFileNameThatIsNotUTF8IsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "b\xff")
	_, err := network.New(t.Context(), parse(t, catFiles(1, dir, "")), network.Options{})
	wantError(t, err, `"b\xff" is not UTF-8`)
	wantHint(t, err, "rename the file, or exclude it")

	c := parse(t, catFiles(1, dir, ""))
	c.Agents[1].Tasks[0].Exclude = []string{"b*"}
	n, err := network.New(t.Context(), c, network.Options{})
	check(t, err)
	defer n.Close()
	wantRows(t, n.Report(), "a")
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), want) {
		t.Errorf("error %v without the hint %q", err, want)
	}
}

func TestNewNamesWhatItCannotHave(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "worker.pem")
	id, err := identity.Generate()
	check(t, err)
	check(t, identity.WriteKeyFile(key, id, nil))
	check(t, identity.WriteKeyFile(filepath.Join(dir, "copy.pem"), id, nil))
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for name, test := range map[string]struct {
		change     func(*config.Config)
		want, hint string
	}{
		"invalid": {func(c *config.Config) { c.Tools["echo"] = config.Tool{Output: "text"} }, "tools.echo.command: required", ""},
		"denied":  {func(c *config.Config) { c.Agents[0].Tools = nil }, `tool "echo" is not on this agent's allowlist`, ""},
		"program": {func(c *config.Config) { c.Tools["echo"].Command[0] = "no-such-program" }, `tools.echo.command: program "no-such-program"`, "install it"},
		"folder": {func(c *config.Config) {
			c.Tools["echo"] = config.Tool{Command: []string{"cat", "--", "{f}"}, Paths: map[string]string{"f": "nowhere"}, Output: "text"}
		}, `tools.echo.paths.f: folder "nowhere": no such file`, "relative to the current directory"},
		"key": {func(c *config.Config) { c.Agents[0].Key = filepath.Join(dir, "none.pem") }, `agent "worker": read key file`, "converge keys new"},
		"key of another": {func(c *config.Config) {
			c.Agents[0].Key, c.Agents[1].Key = key, filepath.Join(dir, "copy.pem")
		}, `agent "coordinator": its key is that of agent "worker" too`, "a key of its own"},
		"params": {func(c *config.Config) { c.Agents[1].Tasks[0].Params = map[string]any{"who": "me"} },
			`agent "coordinator": tasks[0].params: who; but tool "echo" takes none`, "a tool takes the {names} of its templates"},
		"in": {func(c *config.Config) {
			c.Agents[1].Tasks[0].Each, c.Agents[1].Tasks[0].In = "*", key
		}, `agent "coordinator": tasks[0]: in: folder`, ""},
		"data": {func(c *config.Config) { c.Data = filepath.Join(key, "state") }, "make state directory", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := parse(t, one)
			test.change(c)
			n, err := network.New(t.Context(), c, network.Options{})
			if n != nil {
				t.Error("a network in spite of the error")
			}
			wantError(t, err, test.want)
			if test.hint != "" {
				wantHint(t, err, test.hint)
			}
		})
	}
	if left := entries(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTwoCoordinatorsHaveColumnsOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "first/a", "second/a", "second/b")
	n := build(t, fmt.Sprintf(`
network: two
tools:
  cat: {command: [cat, --, "{file}"], paths: {file: %[1]q}, output: word}
  echo: {command: [cat], stdin: hello}
agents:
  - {name: worker, kind: worker, count: 2, capabilities: {cat: cat, greet: echo}, tools: [cat, echo]}
  - name: x
    kind: coordinator
    tasks: [{capability: cat, each: "*", in: %[2]q, params: {file: "first/{path}"}}]
  - name: y
    kind: coordinator
    tasks: [{capability: cat, each: "*", in: %[3]q, params: {file: "second/{path}"}}, {capability: greet}]
`, dir, filepath.Join(dir, "first"), filepath.Join(dir, "second")), network.Options{})
	r := runJob(t, n)
	if r.Tasks.Completed != 4 || len(r.Messages.Rejected) != 0 {
		t.Errorf("report %+v", r)
	}
	var got []string
	for _, line := range r.Table {
		got = append(got, strings.Join(line[:len(line)-1], " | "))
	}
	want := []string{
		"file or task | x/cat | y/cat | task result",
		filepath.Join(dir, "first/a") + " | first/a | - | -",
		filepath.Join(dir, "second/a") + " | - | second/a | -",
		filepath.Join(dir, "second/b") + " | - | second/b | -",
		"y/greet | - | - | hello",
	}
	if !slices.Equal(got, want) {
		t.Errorf("table\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCountedTasksHaveTheirNumber(t *testing.T) {
	n := build(t, `
network: counted
tools:
  echo: {command: [cat], stdin: "number {number}"}
agents:
  - {name: worker, kind: worker, capabilities: {greet: echo}, tools: [echo]}
  - name: coordinator
    kind: coordinator
    tasks: [{name: greet, capability: greet, count: 3, params: {number: "<{n}>"}}]
`, network.Options{})
	r := runJob(t, n)
	wantRows(t, r, "greet 1", "greet 2", "greet 3")
	for i, line := range r.Table[1:] {
		if want := fmt.Sprintf("number <%d>", i+1); line[1] != want {
			t.Errorf("result %q, want %q", line[1], want)
		}
	}
}

func TestRunTwiceIsRefused(t *testing.T) {
	n := build(t, one, network.Options{})
	runJob(t, n)
	wantError(t, n.Run(t.Context()), "Run was called before")
	if r := n.Report(); r.Tasks.Completed != 1 {
		t.Errorf("report %+v", r)
	}
}

func TestCloseWithoutRun(t *testing.T) {
	n, err := network.New(t.Context(), parse(t, one), network.Options{})
	check(t, err)
	check(t, n.Close())
	check(t, n.Close())
	if r := n.Report(); r.Tasks != (network.TaskReport{}) || r.Unfinished != 1 || r.ElapsedMS != 0 {
		t.Errorf("report %+v", r)
	}
	wantError(t, n.Run(t.Context()), "run network: it is closed")
}

func TestCancelledBeforehand(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	errCause := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := build(t, one, network.Options{})
	cancel(errCause)
	check(t, n.Run(ctx))
	if r := n.Report(); r.Tasks.Submitted != 0 || r.Unfinished != 1 {
		t.Errorf("report %+v", r)
	}
	check(t, n.Close())
	if _, err := network.New(ctx, parse(t, one), network.Options{}); !errors.Is(err, errCause) {
		t.Errorf("error %v, want %v", err, errCause)
	}
	if left := entries(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDeadlineOfRunIsNoError: however ctx ends, it was on request.
func TestDeadlineOfRunIsNoError(t *testing.T) {
	n := build(t, one, network.Options{})
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errors.New("time is up"))
	defer cancel()
	check(t, n.Run(ctx))
}

func TestProgressIsToldAsSums(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "b", "c")
	var last role.Progress
	n := build(t, catFiles(2, dir, ""), network.Options{Progress: func(p role.Progress) {
		if p.Completed < last.Completed || p.Submitted < last.Submitted {
			t.Errorf("progress went back from %+v to %+v", last, p)
		}
		last = p // calls come one at a time, and the last one before Done
	}})
	runJob(t, n)
	if want := (role.Progress{Total: 3, Submitted: 3, Completed: 3}); last != want || n.Progress() != want {
		t.Errorf("progress %+v, %+v, want %+v", last, n.Progress(), want)
	}
}

func TestMetricsAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	n := build(t, one+fmt.Sprintf("metrics: {listen: %q}\n", taken.Addr()), network.Options{})
	wantError(t, n.Run(t.Context()), "serve metrics (metrics.listen): listen tcp "+taken.Addr().String())
}

func TestReportForPeople(t *testing.T) {
	r := network.Report{
		Network: "demo", Agents: 1, ElapsedMS: 1234,
		Tasks:    network.TaskReport{Submitted: 3, Completed: 2, Failed: 1},
		Messages: network.MessageReport{Sent: 5, Verified: 4, Rejected: map[string]uint64{"replayed": 2, "expired": 1}},
		Table:    [][]string{{"subject", "lines", "agents"}, {"a b", "12", "w"}},
	}
	var text strings.Builder
	check(t, r.Write(&text))
	want := `subject  lines  agents
a b      12     w

network demo: 1 agent, 1.234s
tasks      3 submitted, 2 completed, 1 failed
messages   5 signed, 4 verified, 3 refused (expired 1, replayed 2)
tools      0 run, 0 denied, 0 timed out
limited    0 in, 0 out
`
	if text.String() != want {
		t.Errorf("report\n%s\nwant\n%s", text.String(), want)
	}
	if err := r.Write(failingWriter{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("error %v of a writer that fails", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, fs.ErrClosed }

// TestHostileTextCannotBreakTheReport: file names, results and errors of tools are shown, not obeyed.
func TestHostileTextCannotBreakTheReport(t *testing.T) {
	dir := t.TempDir()
	const name = "\x1b[2J\tevil\u202e\r\nnetwork fake"
	write(t, dir, name)
	c := parse(t, catFiles(1, dir, ""))
	cat := c.Tools["cat"]
	cat.Output = "text"
	c.Tools["cat"] = cat
	c.Agents[1].Tasks = append(c.Agents[1].Tasks, config.Task{Name: "fails", Capability: "cat", Each: "*", In: dir, Params: map[string]any{"file": "{path}-"}})
	n, err := network.New(t.Context(), c, network.Options{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	defer n.Close()
	r := runJob(t, n)
	const shown = `\x1b[2J\tevil\u202e\r\nnetwork fake`
	if row := r.Table[1]; row[0] != shown || row[1] != shown || row[2] != "FAILED" {
		t.Errorf("row %q, want %q", row, shown)
	}
	if len(r.Errors) != 1 || !strings.HasPrefix(r.Errors[0], `fails of "`+shown+`": tool cat: `) {
		t.Errorf("errors %q", r.Errors)
	}
}
