//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
)

// watched is a network that does nothing but know who its peers are.
func watched(data, alice, bob string) string {
	return fmt.Sprintf(`
network: watched
data: %q
store: sqlite
transport: tcp
listen: 127.0.0.1:0
peers:
  - {name: alice, id: %q}
  - {name: bob, id: %q}
agents: [{name: host, kind: host, workers: [alice, bob]}]
`, data, alice, bob)
}

// keyFiles is where the tests' keys are.
type keyFiles struct {
	t   *testing.T
	dir string
}

func (k keyFiles) path(name string) string { return filepath.Join(k.dir, name+".pem") }

// make makes a key, and returns the agent's ID.
func (k keyFiles) make(name string) string {
	k.t.Helper()
	id, err := identity.Generate()
	check(k.t, err)
	check(k.t, identity.WriteKeyFile(k.path(name), id, nil))
	return id.ID().String()
}

// copy copies a key file without what it has signed, which is what makes a root key contradict itself.
func (k keyFiles) copy(from, to string) {
	k.t.Helper()
	data, err := os.ReadFile(k.path(from))
	check(k.t, err)
	check(k.t, os.WriteFile(k.path(to), data, 0o600))
}

// rotated writes the statement of the next key of a root key's agent, and returns the file.
func (k keyFiles) rotated(root string) string {
	k.t.Helper()
	wants(k.t, 0, `^epoch +1$`, `^$`, "keys", "rotate", k.path(root), "--out", k.path(root+"-1"))
	file := filepath.Join(k.dir, root+".txt")
	check(k.t, os.WriteFile(file, []byte(wants(k.t, 0, `STATEMENT`, `^$`, "keys", "export", k.path(root+"-1"))), 0o600))
	return file
}

// TestRevocationIsHandedToTheNetworkThatRuns revokes an agent from another process, and has nothing secret leave it.
func TestRevocationIsHandedToTheNetworkThatRuns(t *testing.T) {
	t.Parallel()
	k, data := keyFiles{t, t.TempDir()}, shortDir(t)
	alice, bob := k.make("alice"), k.make("bob")
	p := newProcess(t, watched(data, alice, bob)).start()
	p.awaitLog("agent is running")
	out := wants(t, 0, `^id +`+alice+`\n.*\(revoked\)\n-----BEGIN CONVERGE KEY STATEMENT-----\n`,
		`^converge: agent alice \(`+alice+`\) is revoked in the network that runs; others are not told by it: import the statement where they run\n$`,
		"keys", "revoke", k.path("alice"), "--yes", "-c", configOf(p), "--note", "stolen")
	p.awaitLog(`msg="agent is revoked" id=` + alice)
	p.awaitLog(`msg="operator's command" action=revoke_agent about=` + alice)
	wants(t, 0, `^`+alice+` +0 +revoked `, `^$`, "keys", "list", filepath.Join(data, "statements"))

	again, _, code := typed("keys", "revoke", k.path("alice"), "--yes", "--data", data, "-o", "json")
	var revoked struct {
		Statement string          `json:"statement"`
		Network   control.Applied `json:"network"`
	}
	check(t, json.Unmarshal([]byte(again), &revoked))
	if code != 0 || revoked.Network.Changed || !revoked.Network.Revoked || !strings.Contains(out, revoked.Statement) {
		t.Errorf("again: %d\n%s", code, again)
	}
	wants(t, 0, `"state":"revoked".*"changed":true.*"network":\{"agent":"bob"`, `bob`, "keys", "import", k.revocation("bob"), "--data", data, "-o", "json")
	p.signal(syscall.SIGTERM)
	p.end(exitOK)
	wants(t, 0, ` operator +revoke_agent `+alice+` ok peer=.*: by \S+ \(uid \d+\): stolen\n`, `^$`, "audit", "show", filepath.Join(data, "audit"), "--kind", "operator")

	// Without a network that runs, the statement is there all the same, and it is said what to do with it.
	wants(t, 1, `\(revoked\)\n-----BEGIN`, `no network is running there: `, "keys", "revoke", k.path("alice"), "--yes", "--data", data)
	carol := k.make("carol")
	wants(t, 0, `^id +`+carol, `^converge: no network is running there: .*; the statement is in force when it starts\n$`,
		"keys", "import", k.revocation("carol"), "-c", configOf(p))
	wants(t, 0, `^`+carol+` +0 +revoked `, `^$`, "keys", "list", filepath.Join(data, "statements"))
	wants(t, 1, `^$`, `no network is running there: .*\nhint: name the folder of statements`, "keys", "import", k.revocation("carol"), "--data", data)
}

// revocation writes the revocation of an agent to a file.
func (k keyFiles) revocation(name string) string {
	k.t.Helper()
	file := filepath.Join(k.dir, name+".revoked")
	out, _, code := typed("keys", "revoke", k.path(name), "--yes")
	if code != 0 {
		k.t.Fatal("revoke: ", code)
	}
	check(k.t, os.WriteFile(file, []byte(out), 0o600))
	return file
}

// TestQuarantineIsListedAndReleased has a root key contradict itself, and a person look.
func TestQuarantineIsListedAndReleased(t *testing.T) {
	t.Parallel()
	k, data := keyFiles{t, t.TempDir()}, shortDir(t)
	alice, bob := k.make("alice"), k.make("bob")
	k.copy("alice", "copied")
	config := watched(data, alice, bob)
	p := newProcess(t, config).start()
	p.awaitLog("agent is running")
	quarantine := func(args ...string) []string {
		return append(append([]string{"keys", "quarantine"}, args...), "--data", data)
	}
	wants(t, 0, `^AGENT +ID +SINCE +EPOCH +WHY\n$`, `^$`, quarantine("list")...)
	wants(t, 0, `^epoch +1\n`, `the key of epoch 1 of agent alice `, "keys", "import", k.rotated("alice"), "--data", data)
	wants(t, 1, `^$`, `its root key contradicts itself\nhint: ask the owner of the root key`, "keys", "import", k.rotated("copied"), "--data", data)
	wants(t, 1, `^$`, `is not quarantined\nhint: `, quarantine("release", "bob", "--yes")...)
	wants(t, 1, `^$`, `agent "mallory": not found: `, quarantine("release", "mallory", "--yes")...)

	p.signal(syscall.SIGTERM)
	p.end(exitOK)
	p = newProcess(t, config).start() // it stays quarantined
	p.awaitLog("agent is running")
	wants(t, 0, `^alice +`+alice+` +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1 +two statements have the number 1\n$`, `^$`, quarantine("list")...)
	wants(t, exitUsage, `^$`, `^converge: to release alice means that what it says is accepted again, by its key of epoch 1, .*\nhint: add --yes`, quarantine("release", "alice")...)
	wants(t, 0, `"why":"two statements`, `^$`, quarantine("list", "-o", "json")...)
	wants(t, 0, `^alice is released: its key of epoch 1 counts again\n$`, `^$`, quarantine("release", "alice", "--yes", "--as", "ada")...)
	wants(t, 0, `^AGENT[^\n]*\n$`, `^$`, quarantine("list")...)
	p.awaitLog(`msg="operator's command" action=release_agent about=` + alice + ` by=.* claimed=ada`)
	wants(t, 1, `^$`, `a later statement of that agent is known there already`, "keys", "import", filepath.Join(k.dir, "copied.txt"), "--data", data)

	p.signal(syscall.SIGTERM)
	p.end(exitOK)
	p = newProcess(t, config).start() // it stays released
	p.awaitLog("agent is running")
	wants(t, 0, `^AGENT[^\n]*\n$`, `^$`, quarantine("list")...)
	p.signal(syscall.SIGTERM)
	p.end(exitOK)
}
