//go:build unix

package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// machines are processes that share out the work of a gate: the first one has the tasks.
type machines struct {
	t       *testing.T
	ids     map[string]string
	keys    string
	first   *process
	address string // of the first one
}

// startMachines starts the first process, with two tasks whose claims last for a second.
func startMachines(t *testing.T, workers ...string) *machines {
	t.Helper()
	ids, keys := peerKeys(t, append(workers, "host", "coordinator")...)
	var peers strings.Builder
	for _, name := range workers {
		fmt.Fprintf(&peers, "  - {name: %s, id: %q}\n", name, ids[name])
	}
	m := &machines{t: t, ids: ids, keys: keys}
	m.first = newProcess(t, fmt.Sprintf(`
network: machines
transport: tcp
peers:
%s
agents:
  - {name: host, kind: host, key: %q, workers: [%s]}
  - name: coordinator
    kind: coordinator
    key: %q
    tasks: [{name: first, capability: wait, claim_ttl: 1s}, {name: second, capability: wait, claim_ttl: 1s}]
`, peers.String(), m.key("host"), strings.Join(workers, ", "), m.key("coordinator")),
		"--listen", "127.0.0.1:0", "--exit-when-done").start()
	m.address = m.first.awaitLog(`level=INFO msg=listening transport=tcp address=(127\.0\.0\.1:\d+)`)[1]
	return m
}

func (m *machines) key(agent string) string { return filepath.Join(m.keys, agent+".pem") }

// worker starts the process of a worker, whose tool is the gate.
func (m *machines) worker(name string, g *gate, args ...string) *process {
	m.t.Helper()
	_, tools, _ := strings.Cut(g.config, "tools:")
	tools, _, _ = strings.Cut(tools, "agents:")
	return newProcess(m.t, fmt.Sprintf(`
network: machines
transport: tcp
peers:
  - {name: host, id: %q, address: %q}
  - {name: coordinator, id: %q, address: %q}
tasks: {host: host}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {wait: gate}, tools: [gate]}
tools:%s`, m.ids["host"], m.address, m.ids["coordinator"], m.address, name, m.key(name), tools), args...).start()
}

// TestKilledProcessCostsNoTask has three processes: one with the tasks, one that is killed while it holds
// a claim, and one that does it all.
func TestKilledProcessCostsNoTask(t *testing.T) {
	t.Parallel()
	m := startMachines(t, "doomed", "spare")
	shut := newGate(t)
	doomed := m.worker("doomed", shut)
	tool := shut.awaitStart()
	doomed.signal(syscall.SIGKILL)
	check(t, syscall.Kill(-tool, syscall.SIGKILL)) // which a process that is killed leaves behind
	_ = doomed.cmd.Wait()

	open := newGate(t)
	open.open()
	open.open()
	spare := m.worker("spare", open, "--metrics-listen", "127.0.0.1:0")
	metrics := spare.awaitLog(`msg="serving /metrics, /healthz and /readyz" address=(127\.0\.0\.1:\d+)`)[1]
	spare.awaitLog(`level=INFO msg="peer connected".* peer=host `)
	if got := get(t, "http://"+metrics+"/metrics"); !strings.Contains(got, "\nconverge_transport_connections ") || !strings.Contains(got, "\nconverge_transport_frames_total{direction=\"out\"} ") {
		t.Errorf("the metrics do not tell of the connections:\n%s", got)
	}
	m.first.end(exitOK)
	m.first.wantOutput(`^first +released +spare$`, `^second +released +spare$`, `^tasks +2 submitted, 2 completed, 0 failed$`, `^tcp +[1-9]\d* frames in, `)
	m.first.wantLog(`level=INFO msg="peer connected".* peer=spare `)
	spare.signal(syscall.SIGTERM)
	spare.end(exitOK)
	spare.wantOutput(`^tasks +0 submitted, 0 completed, 0 failed$`, `^work +2 claimed, 2 reported, 0 failed$`)
}

// TestFrozenProcessGoesOn freezes a worker's process, or the one with the tasks, for longer than a claim
// lasts. The worker loses the claim, and has to win the task again, since there is nobody else.
func TestFrozenProcessGoesOn(t *testing.T) {
	for _, which := range []string{"worker", "tasks"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			m := startMachines(t, "worker")
			g := newGate(t)
			worker := m.worker("worker", g)
			g.awaitStart()
			frozen := map[string]*process{"worker": worker, "tasks": m.first}[which]
			frozen.signal(syscall.SIGSTOP)
			time.Sleep(2500 * time.Millisecond) // what is waited for is that nothing happens
			frozen.signal(syscall.SIGCONT)
			g.awaitStart() // once more, or the second task
			g.open()
			g.awaitStart()
			g.open()
			m.first.end(exitOK)
			m.first.wantOutput(`^tasks +2 submitted, 2 completed, 0 failed$`)
			worker.signal(syscall.SIGTERM)
			worker.end(exitOK)
		})
	}
}
