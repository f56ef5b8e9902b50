//go:build unix

package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/converge-agents/converge/network"
)

// serverScript speaks the Model Context Protocol as far as these tests need it. It writes its number into a file.
const serverScript = `
echo $$ >"$1"
while read -r line; do
	id=${line#*\"id\":}
	id=${id%%,*}
	case $line in
	*'"method":"initialize"'*)
		printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"script","version":"1"}}}\n' "$id" ;;
	*'"method":"tools/list"'*)
		printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"greet","inputSchema":{"type":"object","required":["who"],"properties":{"who":{"type":"string"}}},"annotations":{"readOnlyHint":true}},{"name":"hang","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}},{"name":"harm","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
	*'"name":"greet"'*)
		printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"hello"}]}}\n' "$id" ;;
	*'"name":"harm"'*)
		printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"done"}]}}\n' "$id" ;;
	esac
done
`

// serving returns a network with a server whose tools greet, hang and harm there are, and the file with its number.
func serving(t *testing.T, more string) (text, number string) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "server.sh")
	number = filepath.Join(dir, "number")
	check(t, os.WriteFile(script, []byte(serverScript), 0o600))
	return fmt.Sprintf("network: t\nmcp: [{name: it, command: [/bin/sh, %q, %q], write: [%q], tools: [greet, hang, harm]}]\n%s", script, number, dir, more), number
}

func numberOf(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	check(t, err)
	return n
}

func TestToolsOfServersServeTasks(t *testing.T) {
	text, number := serving(t, `agents:
  - {name: worker, kind: worker, tools: [it.greet], capabilities: {greet: it.greet}}
  - {name: boss, kind: coordinator, tasks: [{capability: greet, params: {who: you}}]}
`)
	n := build(t, text, network.Options{})
	report := runJob(t, n)
	if report.Tasks.Completed != 1 {
		t.Errorf("report %+v", report)
	}
	pid := numberOf(t, number)
	check(t, syscall.Kill(pid, 0))
	check(t, n.Close())
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Close, the server is still there: %v", err)
	}
}

func TestDestructiveToolOfAServerNeedsApproval(t *testing.T) {
	for what, want := range map[string]int{"": 0, "destructive: {harm: false}, ": 1} {
		text, _ := serving(t, `policy: {timeout: 20ms} # nobody decides
agents:
  - {name: worker, kind: worker, tools: [it.harm], capabilities: {harm: it.harm}}
  - {name: boss, kind: coordinator, tasks: [{capability: harm, attempts: 1}]}
`)
		text = strings.Replace(text, "name: it, ", "name: it, "+what, 1)
		if report := runJob(t, build(t, text, network.Options{})); report.Tasks.Completed != want {
			t.Errorf("%q: %d completed", what, report.Tasks.Completed)
		}
	}
}

func TestTaskThatLacksParamsOfAServersToolIsRefused(t *testing.T) {
	text, number := serving(t, `agents:
  - {name: worker, kind: worker, tools: [it.greet], capabilities: {greet: it.greet}}
  - {name: boss, kind: coordinator, tasks: [{capability: greet, params: {whom: you}}]}
`)
	log, _ := newLog()
	_, err := network.New(t.Context(), parse(t, text), network.Options{Logger: log})
	if err == nil || !strings.Contains(err.Error(), `params: whom; but tool "it.greet" requires who`) {
		t.Errorf("error %v", err)
	}
	if err := syscall.Kill(numberOf(t, number), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the server is still there: %v", err)
	}
}

func TestAbortEndsCallsOfServers(t *testing.T) {
	text, _ := serving(t, `agents:
  - {name: worker, kind: worker, tools: [it.hang], capabilities: {hang: it.hang}, tool_timeout: 1h}
  - {name: boss, kind: coordinator, tasks: [{capability: hang}]}
`)
	n := build(t, text, network.Options{DrainTimeout: time.Hour})
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	for n.Metrics().Stats().Tools.Run == 0 && ctx.Err() == nil { // Report is for later
		time.Sleep(time.Millisecond)
	}
	stop()
	n.Abort()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func TestProcessIsNotReadyWithoutItsServers(t *testing.T) {
	text, number := serving(t, "agents: [{name: worker, kind: worker, tools: [it.greet], capabilities: {greet: it.greet}}]\n")
	n := build(t, text, network.Options{})
	lacks := func() bool {
		answer := httptest.NewRecorder()
		n.Metrics().Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return strings.Contains(answer.Body.String(), `{"name":"mcp server it","met":false}`)
	}
	if lacks() {
		t.Error("the server counts as away at the start")
	}
	wantMetrics(t, n, map[string]float64{
		`converge_mcp_up{server="it"}`: 1, `converge_mcp_restarts_total{server="it"}`: 0, `converge_mcp_blocked_tools{server="it"}`: 0,
	})
	pid := numberOf(t, number)
	check(t, os.Remove(filepath.Join(filepath.Dir(number), "server.sh"))) // it cannot start again
	check(t, syscall.Kill(pid, syscall.SIGKILL))
	for deadline := time.Now().Add(patience); !lacks(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server does not count as away")
		}
	}
	wantMetrics(t, n, map[string]float64{`converge_mcp_up{server="it"}`: 0})
}

func TestServersThatCannotBeHadAreNamed(t *testing.T) {
	text, _ := serving(t, "")
	text = strings.Replace(text, "mcp: [", `mcp: [{name: web, url: "http://127.0.0.1:1/mcp", token: {env: CONVERGE_NO_SUCH}, tools: [a]}, {name: gone, command: [no-such-program], tools: [a]}, `, 1)
	log, _ := newLog()
	_, err := network.New(t.Context(), parse(t, text), network.Options{Logger: log})
	if err == nil || !strings.Contains(err.Error(), `mcp[1]: mcp server "gone": field Command: program "no-such-program"`) {
		t.Errorf("error %v", err)
	}
	text = strings.Replace(text, `{name: gone, command: [no-such-program], tools: [a]}, `, "", 1)
	_, err = network.New(t.Context(), parse(t, strings.Replace(text, "tools: [greet", "tools: [gret", 1)), network.Options{Logger: log})
	for _, part := range []string{"mcp[0]: start mcp server \"web\": headers: token: environment variable CONVERGE_NO_SUCH: not set", `mcp[1]: start mcp server "it": the server offers no tool "gret": did you mean "greet"?`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}
