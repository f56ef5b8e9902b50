package network_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/network"
)

// counting is a network whose tasks are 1 to n; rest is more of its configuration.
func counting(n int, rest string) string {
	return fmt.Sprintf(`
network: counting
%s
tools:
  echo: {command: [cat], stdin: "{number}"}
agents:
  - {name: worker, kind: worker, capabilities: {say: echo}, tools: [echo]}
  - name: coordinator
    kind: coordinator
    tasks: [{name: say, capability: say, count: %d, params: {number: "{n}"}, claim_ttl: 5s, attempts: 9}]
`, rest, n)
}

func TestJobGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	restart(t, "store: sqlite")
}

func TestJobGoesOnAfterARestartOnPostgreSQL(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(pgtest.Shared(t).URL())
	check(t, err)
	word, _ := u.User.Password()
	file := filepath.Join(t.TempDir(), "password")
	check(t, os.WriteFile(file, []byte(word), 0o600))
	u.User = url.User(u.User.Username())
	restart(t, fmt.Sprintf("store: %q\npostgres: {schema: %s, password: {file: %q}}", u, pgtest.Name(), file))
}

// restart ends a process amid its job. The next one does what is left, and no more.
func restart(t *testing.T, store string) {
	t.Helper()
	const tasks = 60
	text := counting(tasks, fmt.Sprintf("data: %q\n%s", t.TempDir(), store))
	first := run(t, text, network.Options{})
	eventually(t, "some tasks are done", func() bool { return first.Progress().Completed >= 10 })
	before := first.end()
	check(t, first.Close())
	if before.Unfinished == 0 {
		t.Fatal("the first run was too quick to be ended amid its job")
	}
	second := run(t, text, network.Options{})
	second.done()
	after := second.end()
	if after.Tasks.Submitted != tasks || after.Tasks.Completed != tasks {
		t.Errorf("report of the second run %+v", after.Tasks)
	}
	if ran := before.Tools.Run + after.Tools.Run; ran < tasks || ran > tasks+4 { // one claim may have been amid its tool
		t.Errorf("%d tools were run, %d of them before the restart", ran, before.Tools.Run)
	}
	check(t, second.Close())
	third := run(t, text, network.Options{})
	third.done()
	if again := third.end(); again.Tools.Run != tasks {
		t.Errorf("the next job, which is a new one, has run %d tools", again.Tools.Run)
	}
}

// TestSecondProcessOnAFileIsRefusedByName starts a network twice.
func TestSecondProcessOnAFileIsRefusedByName(t *testing.T) {
	t.Parallel()
	text := counting(1, fmt.Sprintf("data: %q\nstore: sqlite", t.TempDir()))
	n := build(t, text, network.Options{})
	_, err := network.New(t.Context(), parse(t, text), network.Options{})
	if err == nil || !strings.Contains(err.Error(), "converge.db") || !strings.Contains(err.Error(), "has the store open") {
		t.Errorf("got %v", err)
	}
	check(t, n.Close())
}

// TestOnlyMembersSeeTheTasksOfAPool has two workers that could do the tasks, of which one is a member.
func TestOnlyMembersSeeTheTasksOfAPool(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(token, []byte("correct horse battery staple\n"), 0o600))
	for admission, rest := range map[string]string{
		"allowlist": "members: [insider, coordinator]",
		"token":     fmt.Sprintf("admission: token, token: {file: %q}", token),
	} {
		t.Run(admission, func(t *testing.T) {
			t.Parallel()
			r := runJob(t, build(t, fmt.Sprintf(`
network: pooled
pools: [{name: guild, owner: coordinator, %s}]
tools:
  echo: {command: [cat], stdin: "{number}"}
agents:
  - {name: outsider, kind: worker, capabilities: {say: echo}, tools: [echo], concurrency: 8}
  - {name: insider, kind: worker, pools: [guild], capabilities: {say: echo}, tools: [echo]}
  - name: coordinator
    kind: coordinator
    pools: [guild]
    tasks: [{name: say, capability: say, count: 40, params: {number: "{n}"}, pool: guild}]
`, rest), network.Options{}))
			if r.Tasks.Completed != 40 {
				t.Fatalf("report %+v", r)
			}
			for _, row := range r.Table[1:] {
				if row[len(row)-1] != "insider" {
					t.Errorf("%v was done by an agent that is no member", row)
				}
			}
		})
	}
}

func TestAgentThatIsNotAdmittedEndsTheNetworkWithAnError(t *testing.T) {
	t.Parallel()
	n := build(t, strings.Replace(counting(1, "pools: [{name: guild, owner: coordinator, members: [coordinator]}]"),
		"kind: worker,", "kind: worker, pools: [guild],", 1), network.Options{})
	err := n.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `agent "worker": join pool "guild": `) {
		t.Errorf("got %v", err)
	}
}

// TestSealedNetworkDoesItsJob has tasks go between processes whose direct messages are all sealed.
func TestSealedNetworkDoesItsJob(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "host", "coordinator", "east")
	dir := t.TempDir()
	write(t, dir, "a", "b", "c")
	sealed := func(transport string) string {
		return transport + "\nseal: required\ndata: " + strconv.Quote(t.TempDir())
	}
	first := run(t, m.first(dir, sealed("transport: tcp\nlisten: 127.0.0.1:0"), "east"), network.Options{})
	east := run(t, m.other("east", dir, sealed("transport: tcp"), ", address: "+strconv.Quote(first.address())), network.Options{})
	first.done()
	east.end()
	r := first.end()
	if r.Tasks.Completed != 3 {
		t.Errorf("report %+v", r)
	}
	if s := first.Metrics().Stats(); s.Sealed == 0 || s.Opened == 0 || s.Sealed != s.Signed {
		t.Errorf("%d of %d messages were sealed, %d opened", s.Sealed, s.Signed, s.Opened)
	}
}

// TestRevocationInTheFolderIsInForceWithinASecond revokes a worker of another process, by a file that an operator puts
// into the folder of the process with the tasks.
func TestRevocationInTheFolderIsInForceWithinASecond(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "host", "coordinator", "east")
	dir, data := t.TempDir(), t.TempDir()
	first := run(t, m.first(dir, "transport: tcp\nlisten: 127.0.0.1:0\ndata: "+strconv.Quote(data), "east"), network.Options{})
	east := run(t, m.other("east", dir, "transport: tcp", ", address: "+strconv.Quote(first.address())), network.Options{})
	connections := func() int { return first.Metrics().Transport().Connections }
	eventually(t, "the worker is connected", func() bool { return connections() == 2 })
	statement, err := m.ids["east"].Revoke(nil)
	check(t, err)
	_, _, err = identity.ImportStatement(filepath.Join(data, "statements"), statement)
	check(t, err)
	start := time.Now()
	eventually(t, "the worker is disconnected", func() bool { return connections() == 0 })
	if took := time.Since(start); took > time.Second {
		t.Logf("it took %v, on a machine that has other work", took)
	}
	east.end()
}

// TestIntroducedAgentIsDialledWhereItSays has two processes that know of a third one and not of each other. The one
// that says where it can be reached is dialled by the other.
func TestIntroducedAgentIsDialledWhereItSays(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "hub", "east", "west")
	agent := func(name, discovery, peers string) string {
		return fmt.Sprintf(`
network: machines
transport: tcp
%s
peers:
%s
tools:
  echo: {command: [cat], stdin: hello}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {greet: echo}, tools: [echo]}
`, discovery, peers, name, m.key(name))
	}
	address := freeAddress(t)
	const introduced = "discovery: {via: messages, admit: any"
	hub := run(t, agent("hub", "listen: 127.0.0.1:0\n"+introduced+"}", m.peer("east", "")+m.peer("west", "")), network.Options{})
	dial := m.peer("hub", ", address: "+strconv.Quote(hub.address()))
	east := run(t, agent("east", fmt.Sprintf("listen: %q\n%s, advertise: %q}", address, introduced, address), dial), network.Options{})
	west := run(t, agent("west", "listen: 127.0.0.1:0\n"+introduced+"}", dial), network.Options{})
	eventually(t, "east and west know each other", func() bool {
		return east.Knows(m.ids["west"].ID()) && west.Knows(m.ids["east"].ID())
	})
	eventually(t, "west is connected to the hub and to east", func() bool { return west.Metrics().Transport().Connections == 2 })
}
