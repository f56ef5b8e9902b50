package network_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

// machines are processes of one network, as far as a test can have them: networks that share nothing but
// the wires between them.
type machines struct {
	t    *testing.T
	keys string
	ids  map[string]*identity.Identity
}

func newMachines(t *testing.T, agents ...string) *machines {
	t.Helper()
	m := &machines{t, t.TempDir(), map[string]*identity.Identity{}}
	for _, name := range agents {
		id, err := identity.Generate()
		check(t, err)
		check(t, identity.WriteKeyFile(m.key(name), id, nil))
		m.ids[name] = id
	}
	return m
}

func (m *machines) key(agent string) string { return filepath.Join(m.keys, agent+".pem") }

// peer is one entry of peers.
func (m *machines) peer(name, rest string) string {
	id := m.ids[name]
	return fmt.Sprintf("  - {name: %s, id: %q, key: %s%s}\n", name, id.ID(), hex.EncodeToString(id.PublicKey()), rest)
}

// first is the configuration of the machine with the tasks; workers are the names of others' agents.
func (m *machines) first(dir, transport string, workers ...string) string {
	var peers strings.Builder
	for _, w := range workers {
		peers.WriteString(m.peer(w, ""))
	}
	transport = strings.Replace(transport, "DATA", strconv.Quote(m.t.TempDir()), 1)
	return fmt.Sprintf(`
network: machines
%s
peers:
%s
agents:
  - {name: host, kind: host, key: %q, workers: [%s]}
  - name: coordinator
    kind: coordinator
    key: %q
    tasks: [{capability: cat, each: "**", in: %q, params: {file: "{path}"}, claim_ttl: 5s}]
`, transport, peers.String(), m.key("host"), strings.Join(workers, ", "), m.key("coordinator"), dir)
}

// other is the configuration of a machine with a worker; rest is what else is to be said of its peers.
func (m *machines) other(name, dir, transport, rest string) string {
	return fmt.Sprintf(`
network: machines
%s
peers:
%s%s
tasks: {host: host}
tools:
  cat: {command: [cat, --, "{file}"], paths: {file: %q}, output: word}
agents:
  - {name: %s, kind: worker, key: %q, capabilities: {cat: cat}, tools: [cat], concurrency: 4}
`, transport, m.peer("host", rest), m.peer("coordinator", rest), dir, name, m.key(name))
}

// running is a network that runs.
type running struct {
	t *testing.T
	*network.Network
	stop  context.CancelFunc
	ended chan error
}

// run starts a network, which ends with the test at the latest.
func run(t *testing.T, text string, o network.Options) *running {
	t.Helper()
	n := build(t, text, o)
	ctx, stop := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	r := &running{t, n, stop, make(chan error, 1)}
	go func() { r.ended <- n.Run(ctx) }()
	t.Cleanup(func() { r.end() })
	return r
}

// end stops the network and waits for it.
func (r *running) end() network.Report {
	r.t.Helper()
	r.stop()
	if err, first := <-r.ended; first {
		check(r.t, err)
		close(r.ended)
	}
	return r.Report()
}

// reported returns how many tasks the network's workers have reported so far.
func (r *running) reported() uint64 {
	return r.Metrics().Stats().Decisions[converge.ReportTask{}.Kind()].Done
}

// address waits until the network listens.
func (r *running) address() string {
	r.t.Helper()
	var addr net.Addr
	eventually(r.t, "listening", func() bool { addr = r.Addr(); return addr != nil })
	return addr.String()
}

// done waits for the network's job.
func (r *running) done() {
	r.t.Helper()
	select {
	case <-r.Done():
	case err := <-r.ended:
		r.t.Fatalf("the network ended before its job was done: %v", err)
	case <-time.After(patience):
		r.t.Fatalf("the job was not done in time: %+v", r.Progress())
	}
}

// eventually polls, since sockets have no fake clock.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// wiring is how two machines are connected: what the first says of its transport, and what the other says
// once the first is listening.
type wiring struct {
	first string
	other func(address string) (transport, peers string)
}

var wirings = map[string]wiring{
	"tcp": {
		"transport: tcp\nlisten: 127.0.0.1:0",
		func(address string) (string, string) { return "transport: tcp", fmt.Sprintf(", address: %q", address) },
	},
	"websocket": {
		"transport: websocket\nlisten: 127.0.0.1:0",
		func(address string) (string, string) {
			return "transport: websocket", fmt.Sprintf(", address: %q", "wss://"+address)
		},
	},
	"websocket by challenge": {
		"transport: websocket\nlisten: 127.0.0.1:0\nwebsocket: {proof: challenge}",
		func(address string) (string, string) {
			return "transport: websocket", fmt.Sprintf(", address: %q", "ws://"+address)
		},
	},
	"nats": {
		"transport: nats\nlisten: 127.0.0.1:0",
		func(address string) (string, string) { return "transport: nats://" + address, "" },
	},
	"nats, durable": {
		"transport: nats\nlisten: 127.0.0.1:0\ndata: DATA\nnats: {durable: true}",
		func(address string) (string, string) {
			return "transport: nats://" + address + "\nnats: {durable: true}", ""
		},
	},
	"nats with a login": {
		"transport: nats\nlisten: 127.0.0.1:0\nnats: {server: {users: [{name: agents, password: {env: NATS_PASSWORD}}]}}",
		func(address string) (string, string) {
			return "transport: nats://" + address + "\nnats: {user: agents, password: {env: NATS_PASSWORD}}", ""
		},
	},
}

// TestJobAcrossMachines: one machine has the tasks, two others the workers.
func TestJobAcrossMachines(t *testing.T) {
	t.Setenv("NATS_PASSWORD", "s3cret")
	for name, w := range wirings {
		signatures := []string{"batch"}
		if name == "tcp" { // the wires do not know the difference
			signatures = append(signatures, "single")
		}
		for _, signature := range signatures {
			t.Run(name+" "+signature, func(t *testing.T) {
				m := newMachines(t, "host", "coordinator", "east", "west")
				dir := t.TempDir()
				var names []string
				const files = 16
				for i := range files {
					names = append(names, fmt.Sprintf("file%02d", i))
				}
				write(t, dir, names...)
				log, text := newLog()
				first := run(t, m.first(dir, w.first+"\nsignature: "+signature, "east", "west"), network.Options{Logger: log})
				transport, peers := w.other(first.address())
				east := run(t, m.other("east", dir, transport+"\nsignature: "+signature, peers), network.Options{Logger: log})
				west := run(t, m.other("west", dir, transport, peers), network.Options{Logger: log})
				first.done()
				eventually(t, "the workers know that all is reported", func() bool { return east.reported()+west.reported() == files })
				r := first.end()
				if r.Tasks != (network.TaskReport{Submitted: files, Completed: files}) || r.Unfinished != 0 || len(r.Messages.Rejected) != 0 {
					t.Errorf("report %+v", r)
				}
				for i, line := range r.Table[1:] {
					if line[0] != names[i] || line[1] != names[i] || line[2] != "east" && line[2] != "west" {
						t.Errorf("line %q, want subject and result %s and a worker", line, names[i])
					}
				}
				if e := east.end(); e.Work.Reported != east.reported() || e.Tasks != (network.TaskReport{}) {
					t.Errorf("a worker's report is %+v, want %d tasks reported and none submitted", e, east.reported())
				}
				kind := strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == ',' })[0]
				if r.Transport.Name != kind || r.Transport.In == 0 || r.Transport.Out == 0 {
					t.Errorf("transport %+v", r.Transport)
				}
				if strings.Contains(text.String(), "level=ERROR") {
					t.Errorf("errors in a normal run:\n%s", text)
				}
			})
		}
	}
}

// freeAddress returns an address at which nobody listened just now. It is below the range from which this machine takes the
// ports of connections that others make meanwhile.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20000+rand.IntN(12000)))
		if err == nil {
			check(t, l.Close())
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

// TestWorkersFirst: workers dial again until the machine with the tasks is there, and the job is done.
func TestWorkersFirst(t *testing.T) {
	address := freeAddress(t)
	m := newMachines(t, "host", "coordinator", "east")
	dir := t.TempDir()
	write(t, dir, "a", "b", "c")
	log, text := newLog()
	east := run(t, m.other("east", dir, "transport: tcp", fmt.Sprintf(", address: %q", address)), network.Options{Logger: log})
	eventually(t, "a line about the peer that is not there", func() bool { return strings.Contains(text.String(), "cannot reach peer yet") })
	first := run(t, m.first(dir, "transport: tcp\nlisten: "+address, "east"), network.Options{})
	first.done()
	east.end()
	if r := first.end(); r.Tasks.Completed != 3 {
		t.Errorf("report %+v", r)
	}
	if said := text.String(); !strings.Contains(said, `msg="peer connected"`) || !strings.Contains(said, "peer=host") {
		t.Errorf("the log does not tell that the peer is connected:\n%s", said)
	}
}

// TestReadyOnceTheHostIsReached: a worker whose tasks are elsewhere is of no use before.
func TestReadyOnceTheHostIsReached(t *testing.T) {
	t.Setenv("NATS_PASSWORD", "s3cret")
	for name, w := range wirings {
		t.Run(name, func(t *testing.T) {
			m := newMachines(t, "host", "coordinator", "east")
			dir := t.TempDir() // without files: there is nothing that the worker could hold
			first := run(t, m.first(dir, w.first, "east"), network.Options{})
			transport, peers := w.other(first.address())
			east := run(t, m.other("east", dir, transport, peers), network.Options{})
			eventually(t, "ready", func() bool { return ready(east.Network) == `200 "tasks at host" true` })
			first.end()
			if !strings.HasPrefix(name, "websocket") { // the others do not tell who is connected: half a minute
				return
			}
			eventually(t, "not ready any more", func() bool { return ready(east.Network) == `503 "tasks at host" false` })
		})
	}
}

// TestAgentThatIsAPeerTooIsRefused: a machine would dial itself.
func TestAgentThatIsAPeerTooIsRefused(t *testing.T) {
	m := newMachines(t, "host", "coordinator", "east")
	text := m.first(t.TempDir(), "transport: tcp\nlisten: 127.0.0.1:0", "east")
	text = strings.Replace(text, m.key("coordinator"), m.key("east"), 1)
	_, err := network.New(t.Context(), parse(t, text), network.Options{})
	wantError(t, err, fmt.Sprintf(`agent "coordinator": its ID %s is that of peers[0] ("east") too`, m.ids["east"].ID()))
	wantHint(t, err, "leave this one's own out")
}

// TestOnlyNamedWorkersGetTasks: a peer that is no worker of the host gets no tasks.
func TestOnlyNamedWorkersGetTasks(t *testing.T) {
	m := newMachines(t, "host", "coordinator", "east", "west")
	dir := t.TempDir()
	write(t, dir, "a", "b", "c")
	text := m.first(dir, "transport: tcp\nlisten: 127.0.0.1:0", "east", "west")
	log, said := newLog()
	first := run(t, strings.Replace(text, "workers: [east, west]", "workers: [west]", 1), network.Options{})
	transport, peers := wirings["tcp"].other(first.address())
	east := run(t, m.other("east", dir, transport, peers), network.Options{Logger: log})
	eventually(t, "a line about what is not allowed", func() bool { return strings.Contains(said.String(), "does not allow") })
	run(t, m.other("west", dir, transport, peers), network.Options{})
	first.done()
	if r := first.end(); r.Tasks.Completed != 3 || slices.ContainsFunc(r.Table[1:], func(line []string) bool { return line[2] != "west" }) {
		t.Errorf("report %+v", r)
	}
	if r := east.end(); r.Work != (network.WorkReport{}) {
		t.Errorf("a worker that is not named has worked: %+v", r.Work)
	}
}

// ready returns what /readyz says of what is required.
func ready(n *network.Network) string {
	w := httptest.NewRecorder()
	n.Metrics().Handler().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	var body struct {
		Required []struct {
			Name string
			Met  bool
		}
	}
	err := json.NewDecoder(w.Body).Decode(&body)
	if err != nil || len(body.Required) != 2 || body.Required[1].Name != "audit" || !body.Required[1].Met {
		return w.Body.String()
	}
	return fmt.Sprintf("%d %q %t", w.Code, body.Required[0].Name, body.Required[0].Met)
}

// TestAddressInUseIsExplained: it is the most frequent of all mistakes.
func TestAddressInUseIsExplained(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	for _, transport := range []string{"tcp", "websocket"} {
		n := build(t, one+fmt.Sprintf("transport: %s\nlisten: %q\n", transport, taken.Addr()), network.Options{})
		err := n.Run(t.Context())
		wantError(t, err, "listen tcp "+taken.Addr().String())
		wantHint(t, err, "choose another address")
	}
}

// TestServersThatAreAwayAreExplained: agents start only once they are connected.
func TestServersThatAreAwayAreExplained(t *testing.T) {
	n := build(t, one+"transport: nats://127.0.0.1:1\n", network.Options{})
	err := n.Run(t.Context())
	wantError(t, err, "nats://127.0.0.1:1")
	wantHint(t, err, "have to be there when agents start")
}

// TestCoordinatorElsewhere has the tasks at a machine that neither submits nor works.
func TestCoordinatorElsewhere(t *testing.T) {
	m := newMachines(t, "host", "coordinator", "east")
	dir := t.TempDir()
	write(t, dir, "a", "b", "c")
	keeper := run(t, fmt.Sprintf(`
network: machines
transport: tcp
listen: 127.0.0.1:0
peers:
%s%s
agents: [{name: host, kind: host, key: %q, workers: [east], submitters: [coordinator]}]
`, m.peer("east", ""), m.peer("coordinator", ""), m.key("host")), network.Options{})
	at := fmt.Sprintf(", address: %q", keeper.address())
	boss := run(t, fmt.Sprintf(`
network: machines
transport: tcp
listen: 127.0.0.1:0
peers:
%s%s
tasks: {host: host}
agents:
  - name: coordinator
    kind: coordinator
    key: %q
    tasks: [{capability: cat, each: "**", in: %q, params: {file: "{path}"}}]
`, m.peer("host", at), m.peer("east", ""), m.key("coordinator"), dir), network.Options{})
	text := m.other("east", dir, "transport: tcp", at)
	text = strings.Replace(text, m.peer("coordinator", at), m.peer("coordinator", fmt.Sprintf(", address: %q", boss.address())), 1)
	east := run(t, text, network.Options{})
	boss.done()
	if r := boss.end(); r.Tasks != (network.TaskReport{Submitted: 3, Completed: 3}) || r.Table[1][2] != "east" {
		t.Errorf("report %+v", r)
	}
	if e := east.end(); e.Work.Claimed != 3 {
		t.Errorf("the worker reports %+v", e)
	}
	if k := keeper.end(); k.Tasks != (network.TaskReport{}) || k.Work != (network.WorkReport{}) {
		t.Errorf("the host reports %+v", k)
	}
}
