//go:build unix

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/identity"
)

// peerKeys makes a key for each agent, and returns their IDs and the folder of the files.
func peerKeys(t *testing.T, agents ...string) (ids map[string]string, dir string) {
	t.Helper()
	ids, dir = map[string]string{}, t.TempDir()
	for _, name := range agents {
		id, err := identity.Generate()
		check(t, err)
		check(t, identity.WriteKeyFile(filepath.Join(dir, name+".pem"), id, nil))
		ids[name] = id.ID().String()
	}
	return ids, dir
}

// TestKilledProcessCostsNoTask has three processes: one with the tasks, one that is killed while it holds
// a claim, and one that does it all.
func TestKilledProcessCostsNoTask(t *testing.T) {
	t.Parallel()
	ids, keys := peerKeys(t, "host", "coordinator", "doomed", "spare")
	first := newProcess(t, fmt.Sprintf(`
network: machines
transport: tcp
peers:
  - {name: doomed, id: %q}
  - {name: spare, id: %q}
agents:
  - {name: host, kind: host, key: %q, workers: [doomed, spare]}
  - name: coordinator
    kind: coordinator
    key: %q
    tasks: [{name: first, capability: wait, claim_ttl: 1s}, {name: second, capability: wait, claim_ttl: 1s}]
`, ids["doomed"], ids["spare"], filepath.Join(keys, "host.pem"), filepath.Join(keys, "coordinator.pem")),
		"--listen", "127.0.0.1:0", "--exit-when-done").start()
	address := first.awaitLog(`level=INFO msg=listening transport=tcp address=(127\.0\.0\.1:\d+)`)[1]
	worker := func(name string, g *gate, args ...string) *process {
		_, tools, _ := strings.Cut(g.config, "tools:")
		tools, _, _ = strings.Cut(tools, "agents:")
		return newProcess(t, fmt.Sprintf(`
network: machines
transport: tcp
peers:
  - {name: host, id: %q, address: %q}
  - {name: coordinator, id: %q, address: %q}
tasks: {host: host}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {wait: gate}, tools: [gate]}
tools:%s`, ids["host"], address, ids["coordinator"], address, name, filepath.Join(keys, name+".pem"), tools), args...).start()
	}

	shut := newGate(t)
	doomed := worker("doomed", shut)
	tool := shut.awaitStart()
	doomed.signal(syscall.SIGKILL)
	check(t, syscall.Kill(-tool, syscall.SIGKILL)) // which a process that is killed leaves behind
	_ = doomed.cmd.Wait()

	open := newGate(t)
	open.open()
	open.open()
	spare := worker("spare", open, "--metrics-listen", "127.0.0.1:0")
	metrics := spare.awaitLog(`msg="serving /metrics, /healthz and /readyz" address=(127\.0\.0\.1:\d+)`)[1]
	spare.awaitLog(`level=INFO msg="peer connected".* peer=host `)
	if got := get(t, "http://"+metrics+"/metrics"); !strings.Contains(got, "\nconverge_transport_connections ") || !strings.Contains(got, "\nconverge_transport_frames_total{direction=\"out\"} ") {
		t.Errorf("the metrics do not tell of the connections:\n%s", got)
	}
	first.end(exitOK)
	first.wantOutput(`^first +released +spare$`, `^second +released +spare$`, `^tasks +2 submitted, 2 completed, 0 failed$`, `^tcp +[1-9]\d* frames in, `)
	first.wantLog(`level=INFO msg="peer connected".* peer=spare `)
	spare.signal(syscall.SIGTERM)
	spare.end(exitOK)
	spare.wantOutput(`^tasks +0 submitted, 0 completed, 0 failed$`, `^work +2 claimed, 2 reported, 0 failed$`)
}
