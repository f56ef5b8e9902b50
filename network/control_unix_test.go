//go:build unix

package network_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

// handOver gives a revocation to the network that runs in a state directory.
func handOver(t *testing.T, dir string, id *identity.Identity) control.Applied {
	t.Helper()
	raw, err := id.Revoke(nil)
	check(t, err)
	client := control.NewClient(dir)
	defer client.Close()
	var applied control.Applied
	eventually(t, "the socket is served", func() bool {
		applied, err = client.ApplyStatement(t.Context(), raw, control.Author{})
		return !errors.Is(err, control.ErrNotRunning)
	})
	check(t, err)
	if !applied.Changed || !applied.Revoked || applied.Untold != "" || applied.File == "" {
		t.Errorf("applied %+v", applied)
	}
	return applied
}

// TestRevocationThroughTheSocketReachesPeersByMessages hands it to one of three processes.
func TestRevocationThroughTheSocketReachesPeersByMessages(t *testing.T) {
	t.Parallel()
	m, data := newMachines(t, "hub", "east", "west"), stateDir(t)
	agent := func(name, rest, peers string) string {
		return fmt.Sprintf(`
network: machines
transport: tcp
listen: 127.0.0.1:0
discovery: {via: messages, admit: any}
%s
peers:
%s
tools:
  echo: {command: [cat], stdin: hello}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {greet: echo}, tools: [echo]}
`, rest, peers, name, m.key(name))
	}
	hub := run(t, agent("hub", fmt.Sprintf("data: %q", data), m.peer("east", "")+m.peer("west", "")), network.Options{})
	dial := m.peer("hub", ", address: "+strconv.Quote(hub.address()))
	run(t, agent("east", "", dial), network.Options{})
	west := run(t, agent("west", "", dial), network.Options{})
	east := m.ids["east"]
	eventually(t, "all know east", func() bool { return hub.Knows(east.ID()) && west.Knows(east.ID()) })
	if a := handOver(t, data, east); a.Told != control.ToldByMessages || a.Agent != "east" {
		t.Errorf("applied %+v", a)
	}
	if hub.Knows(east.ID()) {
		t.Error("it is not in force when the command has ended")
	}
	eventually(t, "west knows that east is revoked", func() bool { return !west.Knows(east.ID()) })
	eventually(t, "east is disconnected", func() bool { return hub.Metrics().Transport().Connections == 1 })
}

// TestRevocationThroughTheSocketReachesThoseWhoShareTheStore hands it to one of two processes.
func TestRevocationThroughTheSocketReachesThoseWhoShareTheStore(t *testing.T) {
	t.Parallel()
	shared, one, two := postgresStore(t), stateDir(t), stateDir(t)
	text := func(data, agent string) string {
		return fmt.Sprintf(`
network: shared
data: %q
%s
tools:
  echo: {command: [cat], stdin: hello}
agents:
  - {name: %s, kind: worker, capabilities: {greet: echo}, tools: [echo]}
`, data, shared, agent)
	}
	first, second := run(t, text(one, "first"), network.Options{}), run(t, text(two, "second"), network.Options{})
	victim, err := identity.ReadKeyFile(network.KeyPath(two, "second"), nil)
	check(t, err)
	eventually(t, "both know it", func() bool { return first.Knows(victim.ID()) && second.Knows(victim.ID()) })
	if a := handOver(t, one, victim); a.Told != control.ToldByStore {
		t.Errorf("applied %+v", a)
	}
	eventually(t, "the other process has it in force", func() bool { return !second.Knows(victim.ID()) })
}
