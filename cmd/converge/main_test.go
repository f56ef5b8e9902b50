package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/keywork"
	"github.com/converge-agents/converge/llm/llmtest"
)

// TestMain makes the test binary the command itself, if it is run by that name.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"converge": command})
}

// command is main, whose key files cost less with the race detector: under it a process takes many seconds and more than
// a gigabyte to seal one key.
func command() {
	if race {
		keywork.UnsafeLower(10)
	}
	main()
}

// leakChecked fails tests that leave goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", raceOptions)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":    status,
			"odd-files": oddFiles,
			"mode":      mode,
			"report":    reportKeys,
			"empty":     empty,
			"damage":    damage,
			"model":     model,
		},
	})
}

// raceOptions spare each process the second that the race detector waits at its end.
const raceOptions = "atexit_sleep_ms=0"

// status runs a command that has to end with that exit status: status 64 converge run --bogus.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARGUMENT…]")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

// oddFiles fills a folder with files of one line whose names an archive cannot hold, and with what is
// no regular file: odd-files DIR.
func oddFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: odd-files DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, "sub folder"), 0o755))
	for _, name := range []string{"-n", "--help", "a b.txt", "new\nline", "tab\t", `quo"te'`, "$(reboot)", "*", "{file}", "ünï✓", "bell\a", "sub folder/.hidden"} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte("line\n"), 0o644))
	}
	ts.Check(os.Symlink("a b.txt", filepath.Join(dir, "link to file")))
	ts.Check(os.Symlink("sub folder", filepath.Join(dir, "link to folder")))
	ts.Check(os.Symlink("/etc", filepath.Join(dir, "link out")))
	ts.Check(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
}

// mode checks permissions: mode 600 FILE….
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode OCTAL FILE…")
	}
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", file, got, args[0])
		}
	}
}

// damage changes one bit in the middle of a file: damage FILE.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage FILE")
	}
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// model runs a model that has greet run for its task, and reports what came of it: model. Its address is in MODEL_URL.
func model(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: model")
	}
	call := func(name, args string) llmtest.Reply {
		return llmtest.Reply{Calls: []llmtest.Call{{Name: name, Args: args}}}
	}
	server := llmtest.New(llmtest.Rules(
		llmtest.Rule{Contains: "params of the task", Reply: call("greet", `{"name":"bob"}`)},
		llmtest.Rule{Reply: call("report_task", `{"result":"greeted"}`)},
	))
	ts.Defer(server.Close)
	ts.Setenv("MODEL_URL", server.OpenAI())
}

// empty checks that a folder holds nothing: empty DIR.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: empty DIR")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(entries) > 0 {
		ts.Fatalf("%s holds %v", args[0], entries)
	}
}

// reportKeys checks that the standard output is one JSON object with exactly the keys that the interface
// promises, and values in it: report tasks.completed=3 tools.denied=0.
func reportKeys(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: report [KEY=VALUE…]")
	}
	var report map[string]any
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	decoder.UseNumber()
	ts.Check(decoder.Decode(&report))
	if decoder.More() {
		ts.Fatalf("there is more than one object")
	}
	flat := map[string]string{}
	flatten(flat, "", report)
	want := []string{
		"agents", "audit.folder", "audit.head", "audit.receipts", "elapsed_ms", "messages.rejected", "messages.sent", "messages.verified", "network",
		"rate_limited.egress", "rate_limited.ingress", "tasks.completed", "tasks.failed", "tasks.submitted",
		"tools.denied", "tools.run", "tools.timed_out", "work.claimed", "work.failed", "work.reported",
	}
	if _, shared := flat["transport.name"]; shared {
		want = append(want, "transport.frames_in", "transport.frames_out", "transport.lost", "transport.name", "transport.refused")
		slices.Sort(want)
	}
	if got := slices.Sorted(maps.Keys(flat)); !slices.Equal(got, want) {
		ts.Fatalf("keys %q, want %q", got, want)
	}
	for _, pair := range args {
		key, value, _ := strings.Cut(pair, "=")
		if flat[key] != value {
			ts.Fatalf("%s is %s, want %s", key, flat[key], value)
		}
	}
}

func flatten(into map[string]string, prefix string, object map[string]any) {
	for key, value := range object {
		if inner, ok := value.(map[string]any); ok && key != "rejected" && key != "refused" {
			flatten(into, prefix+key+".", inner)
		} else {
			into[prefix+key] = fmt.Sprint(value)
		}
	}
}
