package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
)

// An identity that stands for any: the ID is that of the key.
const (
	peerID  = "34750f98bd59fcfc946da45aaabe933be154a4b5094e1c4abf42866505f3c97e"
	peerKey = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
	otherID = "a000000000000000000000000000000000000000000000000000000000000001"
)

func TestTransportsInBothFormats(t *testing.T) {
	for name, c := range map[string]struct {
		yaml, toml []string
		check      func(*config.Config) bool
	}{
		"listen and dial": {
			[]string{"transport: tcp", "listen: :7946", "peers:", "- {name: a, id: " + peerID + ", address: '[::1]:1', key: " + peerKey + "}"},
			[]string{`transport = "tcp"`, `listen = ":7946"`, "[[peers]]", `name = "a"`, `id = "` + peerID + `"`, `address = "[::1]:1"`, `key = "` + peerKey + `"`},
			func(c *config.Config) bool {
				return c.TransportKind() == config.TransportTCP && c.Listen == ":7946" && len(c.Peers) == 1 &&
					c.Peers[0] == config.Peer{Name: "a", ID: peerID, Address: "[::1]:1", Key: peerKey}
			},
		},
		"websocket": {
			[]string{"transport: websocket", "listen: localhost:80", "websocket: {queue: 1MiB, when_full: drop}", "peers: [{name: a, id: " + peerID + "}]"},
			[]string{`transport = "websocket"`, `listen = "localhost:80"`, `peers = [{name = "a", id = "` + peerID + `"}]`, "[websocket]", `queue = "1MiB"`, `when_full = "drop"`},
			func(c *config.Config) bool {
				return c.TransportKind() == config.TransportWebSocket && c.WebSocket.Queue == 1<<20 && c.WebSocket.WhenFull == config.WhenFullDrop
			},
		},
		"servers of others": {
			[]string{"transport: nats://a,b:4333", "peers: [{name: a, id: " + peerID + ", key: " + peerKey + "}]", "tasks: {host: a}"},
			[]string{`transport = "nats://a,b:4333"`, "tasks.host = \"a\"", "[[peers]]", `name = "a"`, `id = "` + peerID + `"`, `key = "` + peerKey + `"`},
			func(c *config.Config) bool {
				servers, err := c.Servers()
				return c.TransportKind() == config.TransportNATS && err == nil && slices.Equal(servers, []string{"nats://a", "nats://b:4333"}) && c.Tasks.Host == "a"
			},
		},
		"server of one's own": {
			[]string{"transport: nats", "listen: localhost:4222"},
			[]string{`transport = "nats"`, `listen = "localhost:4222"`},
			func(c *config.Config) bool {
				servers, err := c.Servers()
				return c.TransportKind() == config.TransportNATS && err == nil && servers == nil
			},
		},
		"host": {
			[]string{"transport: tcp", "listen: :1", "peers: [{name: a, id: " + peerID + "}]", "agents:", "- {name: h, kind: host, workers: [a], submitters: [a]}", "- {name: c, kind: coordinator, tasks: [{capability: of-others}]}"},
			[]string{`transport = "tcp"`, `listen = ":1"`, `peers = [{name = "a", id = "` + peerID + `"}]`, "[[agents]]", `name = "h"`, `kind = "host"`, `workers = ["a"]`, `submitters = ["a"]`, "[[agents]]", `name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "of-others"`},
			func(c *config.Config) bool { return c.Agents[0].Kind == config.KindHost },
		},
	} {
		t.Run(name, func(t *testing.T) {
			for file, text := range map[string][]string{"c.yaml": append([]string{"network: n"}, c.yaml...), "c.toml": append([]string{`network = "n"`}, c.toml...)} {
				got, err := config.Parse(file, []byte(lines(text...)), config.Options{})
				if err != nil {
					t.Fatalf("%s: %s", file, describe(problems(t, err)))
				}
				if !c.check(got) {
					t.Errorf("%s: got %+v", file, got)
				}
			}
		})
	}
}

func TestTransportErrorsNamePlaceKeyAndHint(t *testing.T) {
	peer := func(rest string) string { return "- {name: a, id: " + peerID + rest + "}" }
	const keysShow = "`converge keys show FILE` prints it"
	for _, c := range []struct {
		name, at, want, hint string
		yaml                 []string
	}{
		// The transport
		{"unknown transport", "2:12", `transport: unknown value "tpc"`, `did you mean "tcp"?`, []string{"transport: tpc"}},
		{"transport that others have", "2:12", `transport: unknown value "http://a"`, "known values: local, tcp, websocket, nats, nats://HOST:PORT", []string{"transport: http://a"}},
		{"no server", "2:12", `transport: not the address of a NATS server: ""`, `write it such as "nats://a.example:4222,b.example:4222"`, []string{"transport: nats://"}},
		{"second server missing", "2:12", `transport: not the address of a NATS server: ""`, `write it such as "nats://a.example:4222,b.example:4222"`, []string{"transport: nats://a,"}},
		{"server with a path", "2:12", `transport: not the address of a NATS server: "a/b"`, `write it such as "nats://a.example:4222,b.example:4222"`, []string{"transport: nats://a/b"}},
		{"server of two schemes", "2:12", `transport: not the address of a NATS server: "tls://b"`, `write it such as "nats://a.example:4222,b.example:4222"`, []string{"transport: nats://a,tls://b"}},
		{"unknown signature", "2:12", `signature: unknown value "unsigned"`, "known values: batch, single", []string{"signature: unsigned"}},
		// Listening
		{"nothing to listen for", "2:9", "listen: the transport local has no address", "choose one with transport: tcp, websocket or nats", []string{"listen: :1"}},
		{"listening for others' servers", "3:9", "listen: the NATS servers are elsewhere", "leave it out; transport: nats alone runs a server here", []string{"transport: nats://a", "listen: :1"}},
		{"address without a port", "3:9", `listen: want host:port, not "localhost"`, `write it such as "10.0.0.1:7946" or ":7946"`, []string{"transport: tcp", "listen: localhost"}},
		// Sections
		{"section of another transport", "3:1", "tcp: only with the transport tcp", "choose it with transport: tcp, or leave this out", []string{"transport: nats", "tcp: {queue: 1MiB}"}},
		{"empty section of another transport", "2:1", "websocket: only with the transport websocket", "choose it with transport: websocket, or leave this out", []string{"websocket: {}"}},
		{"nats for none", "2:1", "nats: only with the transport nats", "choose it with transport: nats, or leave this out", []string{"nats: {durable: true}"}},
		{"small queue", "3:14", "tcp.queue: want 64KiB to 1GiB, not 1KiB", "", []string{"transport: tcp", "tcp: {queue: 1KiB}"}},
		{"queue of less than a message", "3:14", "tcp.queue: 512KiB have no room for one message of 1MiB", "raise it, or lower limits.message_size", []string{"transport: tcp", "tcp: {queue: 512KiB}"}},
		{"large rate", "3:18", "tcp.byte_rate: want at most 1GiB, not 2GiB", "", []string{"transport: tcp", "tcp: {byte_rate: 2GiB}"}},
		{"unknown policy", "3:18", `tcp.when_full: unknown value "dorp"`, `did you mean "drop"?`, []string{"transport: tcp", "tcp: {when_full: dorp}"}},
		{"negative cap", "3:24", "tcp.max_connections: want at least 0, not -1", "", []string{"transport: tcp", "tcp: {max_connections: -1}"}},
		{"unknown key near one that all have", "3:7", "tcp.quue: unknown key", `did you mean "queue"?`, []string{"transport: tcp", "tcp: {quue: 1MiB}"}},
		// Peers
		{"peers that nothing reaches", "2:1", "peers: the transport local reaches no other process", "choose one with transport: tcp, websocket or nats", []string{"peers:", peer("")}},
		{"peer without a name", "5:3", "peers[0].name: required", "", []string{"transport: tcp", "listen: :1", "peers:", "- {id: " + peerID + "}"}},
		{"peer's name", "5:10", `peers[0].name: not a peer's name: "A b"`, "use 1 to 63 lower-case letters, digits and '-'", []string{"transport: tcp", "listen: :1", "peers:", "- {name: A b, id: " + peerID + "}"}},
		{"peer's name given twice", "6:10", `peers[1].name: "a" is also a name of peers[0]`, "give each agent and each peer a name of its own", []string{"transport: tcp", "listen: :1", "peers:", peer(""), "- {name: a, id: " + otherID + "}"}},
		{"name of an agent", "5:10", `peers[0].name: "a" is also a name of agents[0]`, "give each agent and each peer a name of its own", []string{"transport: tcp", "listen: :1", "peers:", peer(""), "agents: [{name: a, kind: worker}]"}},
		{"peer without an ID", "5:3", "peers[0].id: required", keysShow, []string{"transport: tcp", "listen: :1", "peers:", "- {name: a}"}},
		{"ID cut short", "5:19", `peers[0].id: want 64 hexadecimal digits in lower case, not "34750f98"`, keysShow, []string{"transport: tcp", "listen: :1", "peers:", "- {name: abc, id: 34750f98}"}},
		{"ID in upper case", "5:17", fmt.Sprintf("peers[0].id: want 64 hexadecimal digits in lower case, not %q", strings.ToUpper(peerID)), keysShow, []string{"transport: tcp", "listen: :1", "peers:", "- {name: a, id: " + strings.ToUpper(peerID) + "}"}},
		{"ID given twice", "6:17", "peers[1].id: also the ID of peers[0]", "name each peer once", []string{"transport: tcp", "listen: :1", "peers:", peer(""), "- {name: b, id: " + peerID + "}"}},
		{"nobody could dial", "4:3", "peers[0].address: required, since this process does not listen", "give the peer's address, or let the peer dial this process: listen: HOST:PORT", []string{"transport: tcp", "peers:", peer("")}},
		{"address without a host", "4:92", `peers[0].address: want host:port, not ":1"`, `write it such as "10.0.0.1:7946"`, []string{"transport: tcp", "peers:", peer(`, address: ":1"`)}},
		{"address without a port", "4:92", `peers[0].address: want host:port, not "a.example"`, `write it such as "10.0.0.1:7946"`, []string{"transport: tcp", "peers:", peer(`, address: a.example`)}},
		{"address that is none", "4:92", `peers[0].address: want host:port, not "a.example:0"`, `write it such as "10.0.0.1:7946"`, []string{"transport: tcp", "peers:", peer(`, address: "a.example:0"`)}},
		{"address where a URL is due", "4:92", "peers[0].address: want the URL of a websocket", `write it such as "wss://converge.example/agents"`, []string{"transport: websocket", "peers:", peer(`, address: "http://a.example"`)}},
		{"address with nats", "4:92", "peers[0].address: with nats, peers meet at the servers", "leave it out", []string{"transport: nats", "peers:", peer(`, address: "a:1", key: ` + peerKey)}},
		{"no key with nats", "4:3", "peers[0].key: required with nats", "give the peer's public key; " + keysShow, []string{"transport: nats", "peers:", peer("")}},
		{"key that is none", "4:88", `peers[0].key: want a public key of 64 hexadecimal digits, not "8a88"`, keysShow, []string{"transport: nats", "peers:", peer(", key: 8a88")}},
		{"key of another", "4:88", "peers[0].key: key does not hash to the ID: it hashes to " + peerID, "`converge keys show FILE` prints ID and key, which belong together", []string{"transport: nats", "peers:", strings.Replace(peer(", key: "+peerKey), peerID, otherID, 1)}},
		{"key under which anybody can sign", "4:88", "peers[0].key: weak or malformed key: a point of low order", "`converge keys show FILE` prints ID and key, which belong together", []string{"transport: nats", "peers:", peer(", key: '" + lowOrderKey + "'")}},
		// WebSocket
		{"unknown proof", "3:20", `websocket.proof: unknown value "word"`, "known values: certificate, challenge", []string{"transport: websocket", "websocket: {proof: word}"}},
		{"relative path", "3:19", `websocket.path: want an absolute path, not "a"`, `write it such as "/converge"`, []string{"transport: websocket", "websocket: {path: a}"}},
		{"path that is not clean", "3:19", `websocket.path: want an absolute path, not "/a/../b"`, `write it such as "/converge"`, []string{"transport: websocket", "websocket: {path: /a/../b}"}},
		{"URL for a host", "3:24", `websocket.hosts[1]: want a host, not "https://b"`, `write it as in URLs, such as "converge.example" or "converge.example:8443"`, []string{"transport: websocket", "websocket: {hosts: [a, https://b]}"}},
		{"pattern of origins", "3:23", `websocket.origins[0]: not a pattern of origins: "[a"`, `write it such as "*.example.com"`, []string{"transport: websocket", "websocket: {origins: ['[a']}"}},
		{"name of a proxy", "3:31", `websocket.trusted_proxies[0]: want an address or a network, not "proxy"`, `write it such as "127.0.0.1" or "10.0.0.0/8"`, []string{"transport: websocket", "websocket: {trusted_proxies: [proxy]}"}},
		{"plain HTTP for all", "3:9", `listen: with websocket.proof: challenge, ":80" would be plain HTTP for all`, "listen on this machine only, or set unsafe.plaintext: whoever is on the way would read all of it", []string{"transport: websocket", "listen: :80", "websocket: {proof: challenge}"}},
		{"ws to elsewhere", "4:92", `peers[0].address: ws:// to "a.example" has no TLS`, "use wss://; ws:// is on this machine only, or set unsafe.plaintext: whoever is on the way would read all of it", []string{"transport: websocket", "peers:", peer(`, address: "ws://a.example"`)}},
		{"URL with a query", "4:92", "peers[0].address: the URL has more than a host and a path", `write it such as "wss://converge.example/agents"`, []string{"transport: websocket", "peers:", peer(`, address: "wss://a?b"`)}},
		{"plaintext of another transport", "3:21", "unsafe.plaintext: only with the transport websocket", "leave it out", []string{"transport: tcp", "unsafe: {plaintext: true}"}},
		{"proof of another transport", "4:106", "peers[0].proof: only with the transport websocket", "leave it out", []string{"transport: tcp", "peers:", peer(`, address: "a:1", proof: challenge`)}},
		{"proof of one who dials", "5:90", "peers[0].proof: only together with address", "leave it out; websocket.proof says it for those who dial", []string{"transport: websocket", "listen: :1", "peers:", peer(`, proof: challenge`)}},
		{"certificate without TLS", "4:117", "peers[0].proof: without TLS there is no certificate", "leave it out, or use wss://", []string{"transport: websocket", "peers:", peer(`, address: "ws://localhost", proof: certificate`)}},
		// NATS
		{"two ways to log in", "3:30", "nats.nkey: not together with credentials", "give one of them", []string{"transport: nats://a", "nats: {credentials: a, nkey: b}"}},
		{"login at one's own server", "3:14", "nats.nkey: the server of this process knows its agents", "name servers with transport: nats://HOST:PORT, or see nats.server.users", []string{"transport: nats", "nats: {nkey: b}"}},
		{"user without a password", "3:1", "nats.password: required with user", "say where it is: {file: PATH} or {env: VARIABLE}", []string{"transport: nats://a", "nats: {user: b}"}},
		{"password of nobody", "3:1", "nats.user: required with password", "", []string{"transport: nats://a", "nats: {password: {file: x}}"}},
		{"password in the file", "3:18", "nats.password: a secret does not stand in a configuration", "say where it is: {file: PATH} or {env: VARIABLE}", []string{"transport: nats://a", "nats: {password: hunter2}"}},
		{"secret at two places", "3:30", "nats.token.env: not together with file", "", []string{"transport: nats://a", "nats: {token: {file: a, env: b}}"}},
		{"certificate without its key", "3:8", "nats.tls.key: required with certificate", "", []string{"transport: nats://a", "nats: {tls: {certificate: a}}"}},
		{"TLS within the process", "3:8", "nats.tls: the agents of this process reach its server without a wire; see nats.server.tls", "leave it out", []string{"transport: nats", "nats: {tls: {ca: a}}"}},
		{"server of one's own and of others", "3:8", "nats.server: the servers are elsewhere, says transport", "leave it out", []string{"transport: nats://a", "nats: {server: {name: a}}"}},
		{"stream that is not kept", "3:8", "nats.stream: only with durable: true", "leave it out", []string{"transport: nats://a", "nats: {stream: {replicas: 3}}"}},
		{"many replicas", "3:42", "nats.stream.replicas: want 1 to 5, not 7", "", []string{"transport: nats://a", "nats: {durable: true, stream: {replicas: 7}}"}},
		{"short life", "3:41", "nats.stream.max_age: want 1s at least, not 1ms", "", []string{"transport: nats://a", "nats: {durable: true, stream: {max_age: 1ms}}"}},
		{"durable and temporary", "3:17", "nats.durable: messages cannot be kept in a temporary folder", "name a folder that stays: data: FOLDER", []string{"transport: nats", "nats: {durable: true}"}},
		{"open to all", "3:9", `listen: anybody could connect to ":4222"`, "name who may connect: users, nkeys or tls.client_ca in nats.server; or listen on this machine only, or set unsafe.open_broker", []string{"transport: nats", "listen: :4222"}},
		{"users of nothing", "1:1", "listen: required with users, nkeys and tls of nats.server", "give it, such as 10.0.0.1:4222, or leave out what nats.server says about those who connect", []string{"transport: nats", "nats: {server: {users: [{name: a, password: {env: A}}]}}"}},
		{"user given twice", "5:58", `nats.server.users[1].name: "a" is given twice`, "", []string{"transport: nats", "listen: :1", "nats:", "  server: {users: [{name: a, password: {env: A}}, {name: a, password: {env: A}}]}"}},
		{"seed for a key", "5:20", "nats.server.nkeys[0]: not a public nkey of a user", "a user's public nkey has 56 characters, of which the first is U; never give the seed", []string{"transport: nats", "listen: :1", "nats:", "  server: {nkeys: [SUAB]}"}},
		{"client CA without a certificate", "5:12", "nats.server.tls.certificate: required with client_ca", "", []string{"transport: nats", "listen: :1", "nats:", "  server: {tls: {client_ca: a}}"}},
		{"cluster that clients cannot reach", "1:1", "listen: required in a cluster", `give it; "127.0.0.1:0" is enough if all agents are at servers of the cluster`, []string{"transport: nats", "nats:", "  server: {name: a, cluster: {listen: 'localhost:6222'}}"}},
		{"cluster without an address", "5:21", "nats.server.cluster.listen: required in a cluster", "give the address at which the other servers connect, such as 10.0.0.1:6222", []string{"transport: nats", "listen: localhost:1", "nats:", "  server: {name: a, cluster: {routes: ['b:1']}}"}},
		{"cluster for all", "5:39", `nats.server.cluster.listen: any server could join at ":6222"`, "say what servers show each other: user and password, or tls.client_ca; or listen on this machine only", []string{"transport: nats", "listen: localhost:1", "nats:", "  server: {name: a, cluster: {listen: ':6222'}}"}},
		{"server without a name", "5:3", "nats.server.name: required in a cluster", "give each server of the cluster a name of its own", []string{"transport: nats", "listen: localhost:1", "nats:", "  server: {cluster: {listen: 'localhost:6222'}}"}},
		{"route without a port", "5:66", `nats.server.cluster.routes[0]: want host:port, not "b"`, `write it such as "10.0.0.2:6222"`, []string{"transport: nats", "listen: localhost:1", "nats:", "  server: {name: a, cluster: {listen: 'localhost:6222', routes: [b]}}"}},
		{"broker of another transport", "3:23", "unsafe.open_broker: only with the transport nats", "leave it out", []string{"transport: tcp", "unsafe: {open_broker: true}"}},
		// Tasks
		{"small messages for tasks", "4:24", "limits.message_size: want at least 64KiB with tasks.host and with a host, not 4KiB", "tasks go between processes as messages", []string{"transport: tcp", "tasks: {host: a}", "limits: {message_size: 4KiB}", "peers:", peer(", address: 'a:1'")}},
		{"unknown host", "5:15", `tasks.host: unknown peer "b"`, "known peers: a", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "tasks: {host: b}"}},
		{"host of no peers", "2:15", `tasks.host: unknown peer "b"`, "there are no peers", []string{"tasks: {host: b}"}},
		{"host for nobody", "3:19", "agents[0].kind: the transport local reaches nobody that a host could serve", "choose one with transport: tcp, websocket or nats", []string{"agents:", "- {name: h, kind: host}"}},
		{"host of tasks that are elsewhere", "7:19", `agents[0].kind: the tasks are at "a", says tasks.host`, "a process either keeps its tasks or names who does", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "tasks: {host: a}", "agents:", "- {name: h, kind: host}"}},
		{"two hosts", "7:19", "agents[1].kind: a second host", "a process has one host at most", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "agents:", "- {name: h, kind: host, workers: [a]}", "- {name: i, kind: host, workers: [a]}"}},
		{"two hosts of one entry", "4:19", "agents[0].kind: a second host", "a process has one host at most", []string{"transport: tcp", "agents:", "- {name: h, kind: host, count: 2}"}},
		{"host without anybody to serve", "4:3", "agents[0].workers: required: a host serves nobody else", "name the peers that may work on this process's tasks, or those that may submit some: submitters", []string{"transport: tcp", "agents:", "- {name: h, kind: host}"}},
		{"host for a stranger", "6:38", `agents[0].workers[1]: unknown peer "b"`, "known peers: a", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "agents:", "- {name: h, kind: host, workers: [a, b]}"}},
		{"host that is told twice", "6:41", `agents[0].submitters[1]: "a" is given twice`, "", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "agents:", "- {name: h, kind: host, submitters: [a, a]}"}},
		{"work of a host", "6:42", "agents[0].tools: not for a host", "", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "agents:", "- {name: h, kind: host, submitters: [a], tools: []}"}},
		{"peers of a worker", "3:27", "agents[0].workers: not for a worker", "", []string{"agents:", "- {name: w, kind: worker, workers: []}"}},
		{"task of no capability", "7:40", "agents[1].tasks[0].capability: required", "", []string{"transport: tcp", "peers:", peer(", address: 'a:1'"), "agents:", "- {name: h, kind: host, workers: [a]}", "- {name: c, kind: coordinator, tasks: [{name: x}]}"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			expectOne(t, "c.yaml", lines(append([]string{"network: n"}, c.yaml...)...), "c.yaml:"+c.at+": "+c.want, c.hint)
		})
	}
}

// lowOrderKey is the neutral element.
const lowOrderKey = "0100000000000000000000000000000000000000000000000000000000000000"

// TestPasswordsInAddressesAreRefusedAndNotRepeated: files are read by many.
func TestPasswordsInAddressesAreRefusedAndNotRepeated(t *testing.T) {
	refused := func(text string) {
		t.Helper()
		_, err := config.Parse("c.yaml", []byte("network: n\n"+text), config.Options{})
		if list := problems(t, err); len(list) != 1 || strings.Contains(describe(list), "hunter2") {
			t.Errorf("%s: got %s", text, describe(list))
		}
	}
	for _, address := range []string{"nats://user:hunter2@a", "nats://a,user:hunter2@b", "nats://hunter2@a", "nats://user:hunter2@a/b", "nats://user:hunter2@a b", "natss://user:hunter2@a"} {
		refused("transport: " + address)
	}
	for _, address := range []string{"wss://user:hunter2@a", "http://user:hunter2@a", "wss://user:hunter2@a:b", "wss://a/?token=hunter2"} {
		refused("transport: websocket\npeers: [{name: a, id: " + peerID + ", address: \"" + address + "\"}]")
	}
}

// TestSettingsOfTransportsFromOutside: what a container sets by environment, a person by flags.
func TestSettingsOfTransportsFromOutside(t *testing.T) {
	const file = "network: n\nvars: {id: \"\", at: \"\"}\npeers: [{name: a, id: \"${id}\", address: \"${at}\"}]"
	c, err := config.Parse("c.yaml", []byte(file), config.Options{
		Environ: []string{"CONVERGE_TRANSPORT=nats", "CONVERGE_SIGNATURE=single", "CONVERGE_TASKS_HOST=a", "CONVERGE_TCP_QUEUE=1MiB", "CONVERGE_TCP_MAX_CONNECTIONS=7"},
		Set:     map[string]string{"transport": "tcp", "listen": "localhost:0"},
		Vars:    map[string]string{"id": peerID, "at": "a.example:1"},
	})
	if err != nil {
		t.Fatal(describe(problems(t, err)))
	}
	want := config.Peer{Name: "a", ID: peerID, Address: "a.example:1"}
	if c.Transport != "tcp" || c.Listen != "localhost:0" || c.Signature != "single" || c.Tasks.Host != "a" || c.Peers[0] != want || c.TCP.Queue != 1<<20 || c.TCP.MaxConnections != 7 {
		t.Errorf("got %+v", c)
	}

	_, err = config.Parse("c.yaml", []byte("network: n\nvars: {id: x}"), config.Options{Environ: []string{"CONVERGE_TCP_QUEUE=1MiB"}})
	list := problems(t, err)
	if len(list) != 1 || list[0].Error() != "CONVERGE_TCP_QUEUE: tcp: only with the transport tcp" {
		t.Errorf("got %s", describe(list))
	}
}

func TestTooManyPeersAreRefused(t *testing.T) {
	c, err := config.Parse("c.yaml", []byte("network: n\ntransport: tcp\nlisten: :1"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Peers = make([]config.Peer, config.MaxPeers+1)
	list := problems(t, c.Validate())
	if len(list) != 1 || list[0].Key != "peers" || list[0].Msg != "more than 10000" {
		t.Errorf("got %s", describe(list))
	}
}

// TestSectionsOfAConfigMadeInGoAreCheckedToo: where there is no file, there are values.
func TestSectionsOfAConfigMadeInGoAreCheckedToo(t *testing.T) {
	c, err := config.Parse("c.yaml", []byte("network: n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.TCP.Grace = -1
	list := problems(t, c.Validate())
	if len(list) != 2 || list[0].Key != "tcp" || list[1].Key != "tcp.grace" {
		t.Errorf("got %s", describe(list))
	}
}
