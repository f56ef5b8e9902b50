package mcp_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/mcp"
)

// node returns what runs a server of npm. Where it is not installed, the test is skipped, unless that is an error.
func node(t *testing.T, server string) []string {
	t.Helper()
	missing := t.Skipf
	if os.Getenv("CONVERGE_REQUIRE_SERVICES") == "1" {
		missing = t.Fatalf
	}
	program, err := exec.LookPath("node")
	if err != nil {
		missing("node is not installed")
	}
	path, err := filepath.Abs(filepath.Join("testdata", "npm", "node_modules", "@modelcontextprotocol", server, "dist", "index.js"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		missing("%s is not installed: npm ci in testdata/npm", server)
	}
	return []string{program, path}
}

func nodeConfig(t *testing.T, server string, arguments, tools []string) subject {
	t.Helper()
	c := config(t, "", tools...)
	c.Command, c.Env = append(node(t, server), arguments...), nil
	c.Read = []string{filepath.Join("testdata", "npm")}
	c.Write = arguments // the folders
	return c
}

func TestEverythingServer(t *testing.T) {
	t.Parallel()
	s := start(t, nodeConfig(t, "server-everything", nil, []string{
		"echo", "get-sum", "get-structured-content", "get-tiny-image", "get-env", "trigger-long-running-operation",
	}))
	for call, want := range map[string]string{
		`echo {"message":"hello"}`:                      "text/plain: Echo: hello",
		`get-sum {"a":40,"b":2}`:                        "text/plain: The sum of 40 and 2 is 42.",
		`get-structured-content {"location":"Chicago"}`: `application/json: {"temperature":36,"conditions":"Light rain / drizzle","humidity":82}`,
		`get-env {}`: "text/plain: {}", // nothing of ours
	} {
		name, params, _ := strings.Cut(call, " ")
		if got := mustRun(t, s, name, params); got != want {
			t.Errorf("%s: %s\nwant %s", call, got, want)
		}
	}
	if got := mustRun(t, s, "get-tiny-image", "{}"); !strings.HasPrefix(got, `application/json: [{"type":"text"`) || !strings.Contains(got, `"mimeType":"image/png"`) {
		t.Errorf("image %.100s", got)
	}
	if _, err := run(t, s, "get-structured-content", `{"location":"Berlin"}`); !errors.Is(err, tool.ErrInvalidParams) {
		t.Errorf("error %v", err)
	}
	g := guard(t, s, tool.GuardConfig{Timeout: 100 * time.Millisecond})
	if _, err := g.Run(within(t), "it.trigger-long-running-operation", json.RawMessage(`{"duration":3600,"steps":1}`)); !errors.Is(err, tool.ErrTimeout) {
		t.Errorf("error %v", err)
	}
}

func TestEverythingServerOverHTTP(t *testing.T) {
	t.Parallel()
	command := node(t, "server-everything")
	port := ""
	for tries := 0; port == ""; tries++ {
		if port = serveHTTP(t, command); tries == 10 && port == "" {
			t.Fatal("the server does not listen")
		}
	}
	s := start(t, subject{Config: mcp.Config{Name: "it", Tools: []string{"echo", "get-sum"}, URL: "http://127.0.0.1:" + port + "/mcp", Logger: slog.New(slog.DiscardHandler)}})
	if got := mustRun(t, s, "get-sum", `{"a":40,"b":2}`); got != "text/plain: The sum of 40 and 2 is 42." {
		t.Errorf("sum %s", got)
	}
}

// serveHTTP starts the server at a port, and returns that, or "" if the server has ended: the port may be taken.
func serveHTTP(t *testing.T, command []string) (port string) {
	t.Helper()
	port = strconv.Itoa(10000 + rand.IntN(22000)) // which no system gives to connections
	cmd := exec.Command(command[0], append(command[1:], "streamableHttp")...)
	cmd.Env = []string{"PORT=" + port}
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if strings.Contains(lines.Text(), "listening on port "+port) {
			return port
		}
	}
	return ""
}

func TestFilesystemServer(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	file := filepath.Join(dir, "a.txt")
	for path, text := range map[string]string{file: "one\ntwo\n", outside: "secret"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, nodeConfig(t, "server-filesystem", []string{dir}, []string{"read_text_file", "list_directory", "write_file"}))
	params := func(v map[string]any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if got := mustRun(t, s, "read_text_file", params(map[string]any{"path": file})); !strings.Contains(got, `one\ntwo`) {
		t.Errorf("file %s", got)
	}
	if got := mustRun(t, s, "list_directory", params(map[string]any{"path": dir})); !strings.Contains(got, "[FILE] a.txt") {
		t.Errorf("folder %s", got)
	}
	_, err := run(t, s, "read_text_file", params(map[string]any{"path": outside}))
	if failed, ok := errors.AsType[*mcp.ResultError](err); !ok || !strings.Contains(failed.Text, "Access denied") {
		t.Errorf("error %v", err)
	}
	if _, err := run(t, s, "read_text_file", `{"file":"x"}`); !errors.Is(err, tool.ErrInvalidParams) {
		t.Errorf("error %v", err)
	}
	var destructive []string
	for _, it := range s.Tools() {
		if it.Annotations().Destructive {
			destructive = append(destructive, it.Name())
		}
	}
	if want := []string{"it.write_file"}; !slices.Equal(destructive, want) {
		t.Errorf("destructive: %q", destructive)
	}
	// It has no approval, so it does not run.
	g := guard(t, s, tool.GuardConfig{Approver: refuseAll{}})
	if _, err := g.Run(within(t), "it.write_file", json.RawMessage(params(map[string]any{"path": file, "content": ""}))); !errors.Is(err, tool.ErrNotApproved) {
		t.Errorf("error %v", err)
	}
}

// A server that is updated is a server that changes: these are the definitions that the locked version has.
func TestDefinitionsOfTheLockedServerAreStable(t *testing.T) {
	t.Parallel()
	c := nodeConfig(t, "server-filesystem", []string{t.TempDir()}, []string{"read_text_file"})
	if got := start(t, c).Tools()[0].Pinned().String(); got != "d9b8991a52c1e3b2c914cd5a768a7fdeac95365f66cb1fcb4b54358cec3f6cb0" {
		t.Errorf("hash %s", got)
	}
}
