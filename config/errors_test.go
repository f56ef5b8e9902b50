package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
)

// problems returns the errors that err joins.
func problems(t *testing.T, err error) []*config.Error {
	t.Helper()
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var list []*config.Error
	for _, err := range all {
		e, ok := err.(*config.Error)
		if !ok {
			t.Fatalf("%T is no *config.Error: %v", err, err)
		}
		list = append(list, e)
	}
	return list
}

// lines holds a text's lines together without a raw string's indentation.
func lines(l ...string) string { return strings.Join(l, "\n") + "\n" }

func TestErrorsNamePlaceKeyAndHint(t *testing.T) {
	cases := []struct {
		name         string
		yaml, yamlAt string
		toml, tomlAt string
		want, hint   string
	}{
		// Keys
		{
			"unknown key, near a known one",
			lines("network: n", "agents:", "  - name: w", "    capabilites: {}"), "4:5",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, "capabilites = {}"), "4:1",
			"agents[0].capabilites: unknown key", `did you mean "capabilities"?`,
		},
		{
			"unknown key, near none",
			lines("network: n", "log: {zzzzzz: 1}"), "2:7",
			lines(`network = "n"`, "log = {zzzzzz = 1}"), "2:8",
			"log.zzzzzz: unknown key", "known keys: level, format",
		},
		{
			"unknown section",
			lines("network: n", "Agent: []"), "2:1",
			lines(`network = "n"`, "Agent = []"), "2:1",
			"Agent: unknown key", `did you mean "agents"?`,
		},
		{
			"hyphen for underscore",
			lines("network: n", "limits: {message-size: 1KiB}"), "2:10",
			lines(`network = "n"`, "[limits]", `message-size = "1KiB"`), "3:1",
			"limits.message-size: unknown key", `did you mean "message_size"?`,
		},
		{
			"quoted part of a key",
			lines("network: n", "tools: {a.b: {comand: [x]}}"), "2:15",
			lines(`network = "n"`, `tools."a.b".comand = ["x"]`), "2:13",
			`tools."a.b".comand: unknown key`, `did you mean "command"?`,
		},
		{
			"places count characters",
			lines("network: n", "tools: {é: {comand: [x]}}"), "2:13",
			lines(`network = "n"`, `tools."é".comand = ["x"]`), "2:11",
			`tools."é".comand: unknown key`, `did you mean "command"?`,
		},
		// Types
		{
			"number for a string",
			lines("network: 3"), "1:10",
			lines("network = 3"), "1:11",
			"network: want a string, not 3", `write it in quotes: "3"`,
		},
		{
			"number in a list of strings",
			lines("network: n", "tools: {t: {command: [head, -n, 3]}}"), "2:33",
			lines(`network = "n"`, `tools.t.command = ["head", "-n", 3]`), "2:34",
			"tools.t.command[2]: want a string, not 3", `write it in quotes: "3"`,
		},
		{
			"string for a number",
			lines("network: n", "agents:", "- count: many"), "3:10",
			lines(`network = "n"`, "[[agents]]", `count = "many"`), "3:9",
			`agents[0].count: want a whole number, not "many"`, "",
		},
		{
			"quoted number for a number",
			lines("network: n", "agents:", `- count: "3"`), "3:10",
			lines(`network = "n"`, "[[agents]]", `count = "3"`), "3:9",
			`agents[0].count: want a whole number, not "3"`, "",
		},
		{
			"fraction for a whole number",
			lines("network: n", "agents:", "- count: 1.50"), "3:10",
			lines(`network = "n"`, "[[agents]]", "count = 1.50"), "3:9",
			"agents[0].count: want a whole number, not 1.50", "",
		},
		{
			"string for true or false",
			lines("network: n", "unsafe: {receive_unverified: yes}"), "2:30",
			lines(`network = "n"`, `unsafe = {receive_unverified = "yes"}`), "2:32",
			`unsafe.receive_unverified: want true or false, not "yes"`, "",
		},
		{
			"string for a list",
			lines("network: n", "tools: {t: {command: ls}}"), "2:22",
			lines(`network = "n"`, `tools.t.command = "ls"`), "2:19",
			`tools.t.command: want a list, not "ls"`, `write it in brackets: ["ls"]`,
		},
		{
			"list for a map",
			lines("network: n", "tools:", "  - ls"), "2:1",
			lines(`network = "n"`, `tools = ["ls"]`), "2:1",
			"tools: want a map, not a list", "",
		},
		{
			"map for a string",
			lines("network: n", "data:", "  dir: x"), "2:1",
			lines(`network = "n"`, `data.dir = "x"`), "2:1",
			"data: want a string, not a map", "",
		},
		{
			"list for a single value",
			lines("network: n", "limits: {message_size: [1]}"), "2:10",
			lines(`network = "n"`, `limits.message_size = [1]`), "2:8",
			"limits.message_size: want a single value, not a list", "",
		},
		// Scalars
		{
			"bad duration",
			lines("network: n", "agents:", "- tool_timeout: soon"), "3:17",
			lines(`network = "n"`, "[[agents]]", `tool_timeout = "soon"`), "3:16",
			`agents[0].tool_timeout: want a duration such as "30s" or "1h30m", not "soon"`, "",
		},
		{
			"duration without a unit",
			lines("network: n", "agents:", "- tool_timeout: 30"), "3:17",
			lines(`network = "n"`, "[[agents]]", `tool_timeout = 30`), "3:16",
			`agents[0].tool_timeout: want a duration such as "30s" or "1h30m", not "30"`, `write "30s" for seconds`,
		},
		{
			"negative duration",
			lines("network: n", "agents:", "- tool_timeout: -1s"), "3:17",
			lines(`network = "n"`, "[[agents]]", `tool_timeout = "-1s"`), "3:16",
			`agents[0].tool_timeout: want a duration such as "30s" or "1h30m", not "-1s"`, "",
		},
		{
			"bad size",
			lines("network: n", "limits: {message_size: 1MB}"), "2:24",
			lines(`network = "n"`, `limits.message_size = "1MB"`), "2:23",
			`limits.message_size: want a size such as 4096 or "64KiB", not "1MB"`, "the units are B, KiB, MiB and GiB",
		},
		{
			"size beyond what fits",
			lines("network: n", "limits: {message_size: 9999999999GiB}"), "2:24",
			lines(`network = "n"`, `limits.message_size = "9999999999GiB"`), "2:23",
			`limits.message_size: want a size such as 4096 or "64KiB", not "9999999999GiB"`, "the units are B, KiB, MiB and GiB",
		},
		{
			"bad rate",
			lines("network: n", "limits: {egress: {topic: {rate: lots}}}"), "2:33",
			lines(`network = "n"`, `limits.egress.topic.rate = "lots"`), "2:28",
			`limits.egress.topic.rate: want messages a second such as 500, 0.5 or "1/60", not "lots"`, `a rate is above 0 and at most 1e9, or "unlimited"`,
		},
		{
			"rate of nothing",
			lines("network: n", "limits: {egress: {topic: {rate: 0}}}"), "2:33",
			lines(`network = "n"`, `limits.egress.topic.rate = 0`), "2:28",
			`limits.egress.topic.rate: want messages a second such as 500, 0.5 or "1/60", not "0"`, `a rate is above 0 and at most 1e9, or "unlimited"`,
		},
		{
			"rate divided by nothing",
			lines("network: n", "limits: {egress: {topic: {rate: 0/0}}}"), "2:33",
			lines(`network = "n"`, `limits.egress.topic.rate = "0/0"`), "2:28",
			`limits.egress.topic.rate: want messages a second such as 500, 0.5 or "1/60", not "0/0"`, `a rate is above 0 and at most 1e9, or "unlimited"`,
		},
		{
			"rate that is not a number",
			lines("network: n", "limits: {egress: {topic: {rate: nan}}}"), "2:33",
			lines(`network = "n"`, `limits.egress.topic.rate = nan`), "2:28",
			`limits.egress.topic.rate: want messages a second such as 500, 0.5 or "1/60", not "nan"`, `a rate is above 0 and at most 1e9, or "unlimited"`,
		},
		// Variables
		{
			"unknown variable, near a known one",
			lines("network: n", "vars: {dir: x}", "data: a/${dri}"), "3:7",
			lines(`network = "n"`, `vars = {dir = "x"}`, `data = "a/${dri}"`), "3:8",
			"data: unknown variable ${dri}", `did you mean "dir"?; write $${ for a literal ${`,
		},
		{
			"variables where there are none",
			lines("network: n", `tools: {t: {command: [sh, -c, "echo ${HOME}"]}}`), "2:31",
			lines(`network = "n"`, `tools.t.command = ["sh", "-c", "echo ${HOME}"]`), "2:32",
			"tools.t.command[2]: unknown variable ${HOME}", "there are no variables; write $${ for a literal ${",
		},
		{
			"variable that does not end",
			lines("network: n", `data: "${x"`), "2:7",
			lines(`network = "n"`, `data = "${x"`), "2:8",
			"data: ${ without }", "write $${ for a literal ${",
		},
		{
			"variable in a variable",
			lines("network: n", `vars: {a: x, b: "${a}"}`), "2:17",
			lines(`network = "n"`, `vars = {a = "x", b = "${a}"}`), "2:22",
			"vars.b: a variable's value cannot hold another variable", "write $${ for a literal ${",
		},
		{
			"variable that is not a number where one is wanted",
			lines("network: n", `vars: {n: x}`, "agents:", "- count: ${n}"), "4:10",
			lines(`network = "n"`, `vars = {n = "x"}`, "[[agents]]", `count = "${n}"`), "4:9",
			`agents[0].count: want a whole number, not "x"`, "",
		},
		{
			"variable's name",
			lines("network: n", "vars:", "  Dir: x"), "3:8",
			lines(`network = "n"`, "[vars]", `Dir = "x"`), "3:7",
			"vars.Dir: not a variable's name", "use lower-case letters, digits and '_', a letter first",
		},
		// Rules: the network
		{
			"no network",
			lines("data: x"), "1:1",
			lines(`data = "x"`), "1:1",
			"network: required", "name the network, such as quickstart",
		},
		{
			"bad network",
			lines("network: A b"), "1:10",
			lines(`network = "A b"`), "1:11",
			`network: network name "A b": use 1 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit`, "",
		},
		{
			"unknown store",
			lines("network: n", "store: memroy"), "2:8",
			lines(`network = "n"`, `store = "memroy"`), "2:9",
			`store: unknown value "memroy"`, `did you mean "memory"?`,
		},
		{
			"SQLite without a folder",
			lines("network: n", "store: sqlite"), "2:8",
			lines(`network = "n"`, `store = "sqlite"`), "2:9",
			"store: the file would be in a temporary folder, since data is empty", "give data a folder, or name a file: sqlite:FILE",
		},
		{
			"SQLite without a file",
			lines("network: n", "store: 'sqlite:'"), "2:8",
			lines(`network = "n"`, `store = "sqlite:"`), "2:9",
			"store: want a file after sqlite:", "it is memory, sqlite, sqlite:FILE, postgres://USER@HOST/DATABASE or nats",
		},
		{
			"a password in a store's address",
			lines("network: n", "store: postgres://me:geheim@db/x"), "2:8",
			lines(`network = "n"`, `store = "postgres://me:geheim@db/x"`), "2:9",
			"store: no password in an address", "leave it out, and use postgres.password",
		},
		{
			"a password in a mistyped address",
			lines("network: n", "store: postgras://me:geheim@db/x"), "2:8",
			lines(`network = "n"`, `store = "postgras://me:geheim@db/x"`), "2:9",
			`store: unknown value "postgras"`, `did you mean "postgres"?`,
		},
		{
			"a database without host",
			lines("network: n", "store: postgres"), "2:8",
			lines(`network = "n"`, `store = "postgres"`), "2:9",
			"store: not the URL of a PostgreSQL database", "it is memory, sqlite, sqlite:FILE, postgres://USER@HOST/DATABASE or nats",
		},
		{
			"a store of NATS without NATS",
			lines("network: n", "store: nats"), "2:8",
			lines(`network = "n"`, `store = "nats"`), "2:9",
			"store: only with the transport nats", "choose it with transport: nats, or another store",
		},
		{
			"a section for another store",
			lines("network: n", "postgres: {schema: x}"), "2:1",
			lines(`network = "n"`, `postgres.schema = "x"`), "2:1",
			"postgres: only with a store postgres://…", "leave it out",
		},
		{
			"discovery that has no way",
			lines("network: n", "discovery: {via: messages}"), "2:18",
			lines(`network = "n"`, `discovery.via = "messages"`), "2:17",
			"discovery.via: the transport local reaches no other process", "choose a transport that does, or leave this out",
		},
		{
			"introductions without messages",
			lines("network: n", "discovery: {admit: any}"), "2:20",
			lines(`network = "n"`, `discovery.admit = "any"`), "2:19",
			"discovery.admit: only with via: messages", "choose via: messages, or leave this out",
		},
		{
			"an address that nobody can dial",
			lines("network: n", "transport: tcp", "discovery: {advertise: here}"), "3:24",
			lines(`network = "n"`, `transport = "tcp"`, `discovery.advertise = "here"`), "3:23",
			`discovery.advertise: want host:port, not "here"`, `write it such as "10.0.0.1:7946"`,
		},
		{
			"descriptors that live too short",
			lines("network: n", "discovery: {ttl: 1ms}"), "2:18",
			lines(`network = "n"`, `discovery.ttl = "1ms"`), "2:17",
			"discovery.ttl: want at least 1s, not 1ms", "",
		},
		{
			"unknown seal",
			lines("network: n", "seal: yes"), "2:7",
			lines(`network = "n"`, `seal = "yes"`), "2:8",
			`seal: unknown value "yes"`, "known values: off, allowed, required",
		},
		{
			"a pool of nobody's",
			lines("network: n", "pools: [{name: p, owner: boss}]"), "2:26",
			lines(`network = "n"`, `pools = [{name = "p", owner = "boss"}]`), "2:31",
			`pools[0].owner: unknown agent "boss"`, "it is an agent of this file",
		},
		{
			"a pool without its token",
			lines("network: n", "agents: [{name: boss, kind: worker}]", "pools: [{name: p, owner: boss, admission: token}]"), "3:9",
			lines(`network = "n"`, `agents = [{name = "boss", kind = "worker"}]`, `pools = [{name = "p", owner = "boss", admission = "token"}]`), "3:1",
			"pools[0].token: required with admission: token, and only there", "",
		},
		{
			"a rule for another's pool",
			lines("network: n", "pools: [{name: p, topics: [t]}]"), "2:19",
			lines(`network = "n"`, `pools = [{name = "p", topics = ["t"]}]`), "2:23",
			"pools[0].topics: only with an owner", "name the owner, or leave it to the process that has it",
		},
		{
			"an unknown pool",
			lines("network: n", "pools: [{name: painters}]", "agents: [{name: w, kind: worker, pools: [paniters]}]"), "3:42",
			lines(`network = "n"`, `pools = [{name = "painters"}]`, `agents = [{name = "w", kind = "worker", pools = ["paniters"]}]`), "3:50",
			`agents[0].pools[0]: unknown pool "paniters"`, `did you mean "painters"?`,
		},
		{
			"unknown level",
			lines("network: n", "log: {level: loud}"), "2:14",
			lines(`network = "n"`, `log.level = "loud"`), "2:13",
			`log.level: unknown value "loud"`, "known values: debug, info, warn, error",
		},
		{
			"empty level",
			lines("network: n", `log: {level: ""}`), "2:14",
			lines(`network = "n"`, `log.level = ""`), "2:13",
			`log.level: unknown value ""`, "known values: debug, info, warn, error",
		},
		{
			"metrics without a port",
			lines("network: n", "metrics: {listen: localhost}"), "2:19",
			lines(`network = "n"`, `metrics.listen = "localhost"`), "2:18",
			`metrics.listen: want host:port, not "localhost"`, `write it such as "localhost:9090" or ":9090"`,
		},
		{
			"message size too small",
			lines("network: n", "limits: {message_size: 10}"), "2:24",
			lines(`network = "n"`, "limits.message_size = 10"), "2:23",
			"limits.message_size: want 1KiB to 1GiB, not 10B", "",
		},
		{
			"negative burst",
			lines("network: n", "limits: {ingress: {sender: {burst: -1}}}"), "2:36",
			lines(`network = "n"`, "limits.ingress.sender.burst = -1"), "2:31",
			"limits.ingress.sender.burst: want 1 to 1000000000, not -1", "",
		},
		{
			"bucket that never fills",
			lines("network: n", "limits: {ingress: {topic: {rate: 1e-3, burst: 2000000}}}"), "2:47",
			lines(`network = "n"`, "limits.ingress.topic = {rate = 1e-3, burst = 2000000}"), "2:46",
			"limits.ingress.topic.burst: at 0.001 a second, 2000000 take longer than 36 years", "raise the rate or lower the burst",
		},
		// Rules: tools
		{
			"tool without a command",
			lines("network: n", "tools:", "  t: {output: word}"), "3:3",
			lines(`network = "n"`, "[tools.t]", `output = "word"`), "2:8",
			"tools.t.command: required", "name the program and its arguments, such as [wc, -l]; or give wasm or http instead",
		},
		{
			"tool without a program",
			lines("network: n", "tools:", `  t: {command: ["", x]}`), "3:17",
			lines(`network = "n"`, "[tools.t]", `command = ["", "x"]`), "3:12",
			"tools.t.command[0]: the program has no name", "",
		},
		{
			"tool's name",
			lines("network: n", "tools:", "  a/b: {command: [x]}"), "3:3",
			lines(`network = "n"`, `[tools."a/b"]`, `command = ["x"]`), "2:8",
			`tools."a/b": not a tool's name`, "use 1 to 128 letters, digits, '_', '-' and '.'",
		},
		{
			"two inputs",
			lines("network: n", "tools:", "  t: {command: [x], stdin: a, stdin_file: b}"), "3:43",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `stdin = "a"`, `stdin_file = "b"`), "5:14",
			"tools.t.stdin_file: not together with stdin", "",
		},
		{
			"environment variable's name",
			lines("network: n", "tools:", "  t: {command: [x], env: {a=b: c}}"), "3:32",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `env."a=b" = "c"`), "4:13",
			`tools.t.env."a=b": not an environment variable's name`, "",
		},
		{
			"passed variable with a value",
			lines("network: n", "tools:", "  t: {command: [x], pass_env: [a=b]}"), "3:32",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `pass_env = ["a=b"]`), "4:13",
			"tools.t.pass_env[0]: not an environment variable's name", "to set a value, use env",
		},
		{
			"path without a folder",
			lines("network: n", "tools:", `  t: {command: [x], paths: {file: ""}}`), "3:35",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `paths.file = ""`), "4:14",
			"tools.t.paths.file: want a folder", `"." is the current directory`,
		},
		{
			"unknown output",
			lines("network: n", "tools:", "  t: {command: [x], output: wrd}"), "3:29",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `output = "wrd"`), "4:10",
			`tools.t.output: unknown value "wrd"`, `did you mean "word"?`,
		},
		{
			"negative concurrency",
			lines("network: n", "tools:", "  t: {command: [x], concurrency: -1}"), "3:34",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `concurrency = -1`), "4:15",
			"tools.t.concurrency: want at least 0, not -1", "",
		},
		{
			"output too large",
			lines("network: n", "tools:", "  t: {command: [x], max_output: 2GiB}"), "3:33",
			lines(`network = "n"`, "[tools.t]", `command = ["x"]`, `max_output = "2GiB"`), "4:14",
			"tools.t.max_output: want at most 1GiB, not 2GiB", "",
		},
		// Rules: agents
		{
			"agent without a name",
			lines("network: n", "agents:", "- kind: worker"), "3:3",
			lines(`network = "n"`, "[[agents]]", `kind = "worker"`), "2:3",
			"agents[0].name: required", "",
		},
		{
			"agent's name",
			lines("network: n", "agents:", "- {name: W_1, kind: worker}"), "3:10",
			lines(`network = "n"`, "[[agents]]", `name = "W_1"`, `kind = "worker"`), "3:8",
			`agents[0].name: not an agent's name: "W_1"`, "use 1 to 63 lower-case letters, digits and '-'",
		},
		{
			"agent without a kind",
			lines("network: n", "agents:", "- name: w"), "3:3",
			lines(`network = "n"`, "[[agents]]", `name = "w"`), "2:3",
			"agents[0].kind: required", "known values: worker, coordinator, host, llm",
		},
		{
			"unknown kind",
			lines("network: n", "agents:", "- {name: w, kind: wroker}"), "3:19",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "wroker"`), "4:8",
			`agents[0].kind: unknown value "wroker"`, `did you mean "worker"?`,
		},
		{
			"name given twice",
			lines("network: n", "agents:", "- {name: w, kind: worker}", "- {name: w, kind: worker}"), "4:10",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, "[[agents]]", `name = "w"`, `kind = "worker"`), "6:8",
			`agents[1].name: "w" is also a name of agents[0]`, "",
		},
		{
			"name that another's count makes",
			lines("network: n", "agents:", "- {name: w, kind: worker, count: 3}", "- {name: w-2, kind: worker}"), "4:10",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, "count = 3", "[[agents]]", `name = "w-2"`, `kind = "worker"`), "7:8",
			`agents[1].name: "w-2" is also a name of agents[0]`, "",
		},
		{
			"count of none",
			lines("network: n", "agents:", "- {name: w, kind: worker, count: 0}"), "3:34",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, "count = 0"), "5:9",
			"agents[0].count: want at least 1, not 0", "",
		},
		{
			"too many agents",
			lines("network: n", "agents:", "- {name: w, kind: worker, count: 9999}", "- {name: v, kind: worker, count: 2}"), "4:34",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, "count = 9999", "[[agents]]", `name = "v"`, `kind = "worker"`, "count = 2"), "9:9",
			"agents[1].count: more than 10000 agents in all", "",
		},
		{
			"key and count",
			lines("network: n", "agents:", "- {name: w, kind: worker, count: 2, key: k}"), "3:42",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, "count = 2", `key = "k"`), "6:7",
			"agents[0].key: not together with a count above 1", "leave it out: each agent gets a key of its own",
		},
		{
			"key given twice",
			lines("network: n", "agents:", "- {name: w, kind: worker, key: k}", "- {name: v, kind: worker, key: ./k}"), "4:32",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, `key = "k"`, "[[agents]]", `name = "v"`, `kind = "worker"`, `key = "./k"`), "9:7",
			"agents[1].key: also the key of agents[0]", "each agent needs a key of its own",
		},
		{
			"bad pattern of topics",
			lines("network: n", "agents:", `- {name: w, kind: worker, topics: [a, "b..c"]}`), "3:39",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, `topics = ["a", "b..c"]`), "5:16",
			`agents[0].topics[1]: invalid topic "b..c": segment 2 is ""; a segment is made of letters, digits, '_' and '-'`, "",
		},
		{
			"job of a worker",
			lines("network: n", "agents:", "- {name: w, kind: worker, deadline: 1s}"), "3:37",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, `deadline = "1s"`), "5:12",
			"agents[0].deadline: not for a worker", "",
		},
		{
			"no time for tools",
			lines("network: n", "agents:", "- {name: w, kind: worker, tool_timeout: 0s}"), "3:41",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tool_timeout = "0s"`), "5:16",
			"agents[0].tool_timeout: want a duration above 0, not 0s", "",
		},
		{
			"tool that does not exist",
			lines("network: n", "tools: {lines: {command: [wc]}}", "agents:", "- {name: w, kind: worker, tools: [line]}"), "4:35",
			lines(`network = "n"`, `tools.lines.command = ["wc"]`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tools = ["line"]`), "6:10",
			`agents[0].tools[0]: unknown tool "line"`, `did you mean "lines"?`,
		},
		{
			"tool where there are none",
			lines("network: n", "agents:", "- {name: w, kind: worker, tools: [line]}"), "3:35",
			lines(`network = "n"`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tools = ["line"]`), "5:10",
			`agents[0].tools[0]: unknown tool "line"`, "there are no tools",
		},
		{
			"tool allowed twice",
			lines("network: n", "tools: {t: {command: [wc]}}", "agents:", "- {name: w, kind: worker, tools: [t, t]}"), "4:38",
			lines(`network = "n"`, `tools.t.command = ["wc"]`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tools = ["t", "t"]`), "6:15",
			`agents[0].tools[1]: "t" is given twice`, "",
		},
		{
			"capability of a tool that does not exist",
			lines("network: n", "tools: {lines: {command: [wc]}}", "agents:", "- {name: w, kind: worker, tools: [lines], capabilities: {lines: line}}"), "4:65",
			lines(`network = "n"`, `tools.lines.command = ["wc"]`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tools = ["lines"]`, `capabilities.lines = "line"`), "7:22",
			`agents[0].capabilities.lines: unknown tool "line"`, `did you mean "lines"?`,
		},
		{
			"capability of a tool that is not allowed",
			lines("network: n", "tools: {lines: {command: [wc]}}", "agents:", "- {name: w, kind: worker, capabilities: {lines: lines}}"), "4:49",
			lines(`network = "n"`, `tools.lines.command = ["wc"]`, "[[agents]]", `name = "w"`, `kind = "worker"`, `capabilities.lines = "lines"`), "6:22",
			`agents[0].capabilities.lines: tool "lines" is not on this agent's allowlist`, `add "lines" to agents[0].tools`,
		},
		{
			"capability's name",
			lines("network: n", "tools: {t: {command: [wc]}}", "agents:", "- {name: w, kind: worker, tools: [t], capabilities: {a b: t}}"), "4:59",
			lines(`network = "n"`, `tools.t.command = ["wc"]`, "[[agents]]", `name = "w"`, `kind = "worker"`, `tools = ["t"]`, `capabilities."a b" = "t"`), "7:22",
			`agents[0].capabilities."a b": not a capability's name`, "use 1 to 128 letters, digits, '_', '-' and '.'",
		},
		// Rules: tasks
		{
			"coordinator without tasks",
			lines("network: n", "agents:", "- {name: c, kind: coordinator}"), "3:3",
			lines(`network = "n"`, "[[agents]]", `name = "c"`, `kind = "coordinator"`), "2:3",
			"agents[0].tasks: required", "",
		},
		{
			"tools of a coordinator",
			withWorker("- {name: c, kind: coordinator, tools: [], tasks: [{capability: lines}]}"), "5:32",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "tools = []", `tasks = [{capability = "lines"}]`), "11:1",
			"agents[1].tools: not for a coordinator", "",
		},
		{
			"task without a capability",
			withWorker("- {name: c, kind: coordinator, tasks: [{name: x}]}"), "5:40",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `name = "x"`), "11:10",
			"agents[1].tasks[0].capability: required", "",
		},
		{
			"task that no worker could do",
			withWorker("- {name: c, kind: coordinator, tasks: [{capability: line}]}"), "5:53",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "line"`), "12:14",
			`agents[1].tasks[0].capability: no worker has the capability "line"`, `did you mean "lines"?`,
		},
		{
			"task's name",
			withWorker("- {name: c, kind: coordinator, tasks: [{name: a b, capability: lines}]}"), "5:47",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `name = "a b"`, `capability = "lines"`), "12:8",
			`agents[1].tasks[0].name: not a task's name: "a b"`, "use 1 to 128 letters, digits, '_', '-' and '.'",
		},
		{
			"task's name given twice",
			withWorker("- {name: c, kind: coordinator, tasks: [{capability: lines}, {capability: lines}]}"), "5:61",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, "[[agents.tasks]]", `capability = "lines"`), "13:10",
			`agents[1].tasks[1].name: "lines" is given twice`, "give each task a name of its own",
		},
		{
			"files of no folder",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, each: "*"}]}`), "5:40",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `each = "*"`), "11:10",
			"agents[1].tasks[0].in: required with each", `name the folder that each searches, such as "."`,
		},
		{
			"folder without files",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, in: .}]}`), "5:64",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `in = "."`), "13:6",
			"agents[1].tasks[0].in: only together with each", `each: "**" takes every file`,
		},
		{
			"exclusion without files",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, exclude: [x]}]}`), "5:60",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `exclude = ["x"]`), "13:1",
			"agents[1].tasks[0].exclude: only together with each", "",
		},
		{
			"pattern that does not end",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, in: ., each: "{a,b"}]}`), "5:73",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `in = "."`, `each = "{a,b"`), "14:8",
			`agents[1].tasks[0].each: not a pattern of files: "{a,b"`, `patterns are such as "**/*.go", below the folder in`,
		},
		{
			"pattern that leaves the folder",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, in: ., each: "../*"}]}`), "5:73",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `in = "."`, `each = "../*"`), "14:8",
			`agents[1].tasks[0].each: not a pattern of files: "../*"`, `patterns are such as "**/*.go", below the folder in`,
		},
		{
			"a count of files",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, in: ., each: "*", count: 2}]}`), "5:85",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `in = "."`, `each = "*"`, `count = 2`), "15:9",
			"agents[1].tasks[0].count: not together with each", "",
		},
		{
			"no count",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, count: 0}]}`), "5:67",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `count = 0`), "13:9",
			"agents[1].tasks[0].count: want 1 to 1000000, not 0", "",
		},
		{
			"path of no file",
			withWorker(`- {name: c, kind: coordinator, tasks: [{capability: lines, params: {a: [1, "{path}"]}}]}`), "5:76",
			withWorkerTOML(`name = "c"`, `kind = "coordinator"`, "[[agents.tasks]]", `capability = "lines"`, `params.a = [1, "{path}"]`), "13:16",
			"agents[1].tasks[0].params.a[1]: {path} needs each", "",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			expectOne(t, "converge.yaml", c.yaml, "converge.yaml:"+c.yamlAt+": "+c.want, c.hint)
			expectOne(t, "converge.toml", c.toml, "converge.toml:"+c.tomlAt+": "+c.want, c.hint)
		})
	}
}

// withWorker adds lines to a list of agents that has one worker, with the capability lines.
func withWorker(more ...string) string {
	return lines(append([]string{
		"network: n", "tools: {lines: {command: [wc]}}", "agents:",
		"- {name: w, kind: worker, capabilities: {lines: lines}, tools: [lines]}",
	}, more...)...)
}

func withWorkerTOML(more ...string) string {
	return lines(append([]string{
		`network = "n"`, `tools.lines.command = ["wc"]`,
		"[[agents]]", `name = "w"`, `kind = "worker"`, `capabilities.lines = "lines"`, `tools = ["lines"]`,
		"[[agents]]",
	}, more...)...)
}

func expectOne(t *testing.T, name, text, want, hint string) {
	t.Helper()
	_, err := config.Parse(name, []byte(text), config.Options{})
	list := problems(t, err)
	if len(list) != 1 || list[0].Error() != want || list[0].Hint != hint {
		t.Errorf("%.400s\ngot  %v\nwant %s", text, describe(list), describe([]*config.Error{{Msg: want, Hint: hint}}))
	}
}

func describe(list []*config.Error) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString(e.Error() + "\n     hint: " + e.Hint + "\n     ")
	}
	return b.String()
}

func TestSyntaxErrorsOfEachFormat(t *testing.T) {
	many := func(head, each string, n int) string { return head + strings.Repeat(each, n) }
	cases := []struct{ name, file, text, want, hint string }{
		{"tab", "c.yaml", "a:\n\t- x\n", "c.yaml:2:1: found character '\t' that cannot start any token", ""},
		{"string without end", "c.yaml", "a: \"x\n", "c.yaml:1:4: could not find end character of double-quoted text", ""},
		{"map without end", "c.yaml", "a: {b: c\n", "c.yaml:1:4: could not find flow mapping end token '}'", ""},
		{"variable without quotes in a map", "c.yaml", "a: {b: ${c}}\n", "c.yaml:1:9: ',' or '}' must be specified", "inside of [] and {}, a string with ${…} needs quotes"},
		{"template without quotes", "c.yaml", "network: n\ntools: {t: {command: [wc, {file}]}}\n", "c.yaml:2:27: tools.t.command[1]: want a string, not a map", `write it in quotes: "{file}"`},
		{"key twice", "c.yaml", "network: n\nlog:\n  level: info\n  level: warn\n", "c.yaml:4:3: log.level: key given twice", "it is also in line 3"},
		{"key twice, quoted", "c.yaml", "network: n\n\"network\": m\n", "c.yaml:2:1: network: key given twice", "it is also in line 1"},
		{"key twice, in braces", "c.yaml", "network: n\nlog: {level: info, level: warn}\n", "c.yaml:2:20: log.level: key given twice", "it is also in line 2"},
		{"two documents", "c.yaml", "network: n\n---\nnetwork: m\n", "c.yaml:2:1: a second document", "a configuration is one YAML document"},
		{"two documents, the first empty", "c.yaml", "---\n---\nnetwork: m\n", "c.yaml:2:1: a second document", "a configuration is one YAML document"},
		{"two documents, after an end", "c.yaml", "network: n\n...\nlog: {}\n", "c.yaml:3:1: a second document", "a configuration is one YAML document"},
		{"directive", "c.yaml", "%YAML 1.2\n---\nnetwork: m\n", "c.yaml:1:1: YAML directives are not supported", "leave the line out"},
		{"tag", "c.yaml", "network: !!binary aGk=\n", "c.yaml:1:10: network: YAML of a kind that is not supported here: tag", ""},
		{"merge key", "c.yaml", "network: n\nlog:\n  <<: {level: info}\n", "c.yaml:3:3: <<: merge keys are not supported", "write the keys out"},
		{"key that is a list", "c.yaml", "? [a, b]\n: c\n", "c.yaml:2:1: found an invalid key for this map", ""},
		{"unknown anchor", "c.yaml", "network: *x\n", "c.yaml:1:10: network: unknown anchor *x", "an anchor has to be complete before it is used"},
		{"anchor of itself", "c.yaml", "vars: &x {a: *x}\n", "c.yaml:1:14: vars.a: unknown anchor *x", "an anchor has to be complete before it is used"},
		{"only a string", "c.yaml", "hello\n", `c.yaml:1:1: want a map, not "hello"`, ""},
		{"end without a beginning", "c.yaml", "network: n\ndata:\n]\nlog: {level: info}\n", "c.yaml:3:1: ] without its beginning", ""},
		{"only an end", "c.yaml", "...", "c.yaml:1:1: network: required", "name the network, such as quickstart"},
		{"empty file", "c.yaml", "", "c.yaml:1:1: network: required", "name the network, such as quickstart"},
		{"nothing in a list", "c.yaml", "network: n\nagents:\n- ~\n", "c.yaml:3:3: agents[0]: want a map, not an empty value", ""},
		{"number beyond JSON", "c.yaml", "network: n\nagents: [{tasks: [{params: {a: .inf}}]}]\n", "c.yaml:2:32: agents[0].tasks[0].params.a: want a number that JSON can hold, not .inf", ""},
		{"deep brackets", "c.yaml", many("a: ", "[", 20_000), "c.yaml:1:68: nested too deeply", "at most 64 levels"},
		{"deep dashes", "c.yaml", many("", "- ", 20_000), "c.yaml:1:129: nested too deeply", "at most 64 levels"},
		{"deep lists", "c.yaml", many("", "- ", 64) + "[a]", "c.yaml:1:129: nested too deeply", "at most 64 levels"},
		{"many values", "c.yaml", many("a:\n", "- b\n", 30_000), "c.yaml:25001:1: more than 50000 YAML tokens", ""},
		{"not UTF-8", "c.yaml", "network: n\ndata: é\xff\n", "c.yaml:2:8: the text is not UTF-8", ""},

		{"no value", "c.toml", "network = \n", "c.toml:1:11: unexpected character U+000A at start of value", ""},
		{"key twice", "c.toml", "network = \"n\"\nnetwork = \"m\"\n", "c.toml:2:1: network: key network is already defined", ""},
		{"table twice", "c.toml", "[log]\n[log]\n", "c.toml:2:2: log: table log already exists", ""},
		{"table over a value", "c.toml", "log = 1\n[log.x]\n", "c.toml:2:2: log.x: key log already exists as a value", ""},
		{"table within a list", "c.toml", "log = [1]\n[log.x]\n", "c.toml:2:2: log.x: key log already exists as a value", ""},
		{"header without end", "c.toml", "[log\n", "c.toml:1:5: expected ']' to close table name", ""},
		{"place in characters", "c.toml", "data = \"éé\" x\n", "c.toml:1:13: expected newline but got U+0078 'x'", ""},
		{"number beyond JSON", "c.toml", "network = \"n\"\n[[agents]]\ntasks = [{params = {a = inf}}]\n", "c.toml:3:25: agents[0].tasks[0].params.a: want a number that JSON can hold, not inf", ""},
		{"deep brackets", "c.toml", many("a = ", "[", 9_000) + strings.Repeat("]", 9_000), "c.toml:1:1: nested too deeply", "at most 64 levels"},
		{"deep dots", "c.toml", many("a", ".a", 9_000) + " = 1", "c.toml:1:127: nested too deeply", "at most 64 levels"},
		{"many values", "c.toml", "a = [" + strings.Repeat("1,", 60_000) + "]", "c.toml:1:100004: more than 50000 values", ""},
		{"empty file", "c.toml", "", "c.toml:1:1: network: required", "name the network, such as quickstart"},

		{"format", "converge.json", "{}", `converge.json: unknown format ".json"`, "name the file .yaml, .yml or .toml"},
		{"no format", "converge", "{}", `converge: unknown format ""`, "name the file .yaml, .yml or .toml"},
		{"large", "c.yaml", strings.Repeat("#", 1<<20+1), "c.yaml: larger than 1048576 bytes", ""},
	}
	for _, c := range cases {
		t.Run(c.file+"/"+c.name, func(t *testing.T) { expectOne(t, c.file, c.text, c.want, c.hint) })
	}
}

func TestBillionLaughsAreRefused(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		prev, next := string(rune('0'+i)), string(rune('1'+i))
		bomb += "a" + next + ": &a" + next + " [" + strings.Repeat("*a"+prev+", ", 9) + "*a" + prev + "]\n"
	}
	expectOne(t, "c.yaml", bomb, "c.yaml:5:25: more than 50000 values once aliases are replaced", "")

	vars := "network: n\nvars: {v: " + strings.Repeat("x", 100_000) + "}\ndata: " + strings.Repeat("${v}", 100)
	expectOne(t, "c.yaml", vars, "c.yaml:3:7: data: too much text once variables are replaced", "the limit is 4194304 bytes")
}

func TestIndependentProblemsAreToldTogether(t *testing.T) {
	_, err := config.Parse("c.yaml", []byte(lines(
		"network: n", "store: x", "log: {level: loud}", "agents:", "- {name: w, kind: worker, tools: [t]}",
	)), config.Options{})
	var got []string
	for _, e := range problems(t, err) {
		got = append(got, e.Error())
	}
	want := []string{
		`c.yaml:2:8: store: unknown value "x"`,
		`c.yaml:3:14: log.level: unknown value "loud"`,
		`c.yaml:5:35: agents[0].tools[0]: unknown tool "t"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestAtMostTenProblemsAreTold(t *testing.T) {
	_, err := config.Parse("c.yaml", []byte("network: n\n"+manyKeys(17)), config.Options{})
	list := problems(t, err)
	if len(list) != 11 || list[10].Error() != "c.yaml: and 7 more" {
		t.Errorf("got %s", describe(list))
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("key" + string(rune('a'+i)) + ": 1\n")
	}
	return b.String()
}

func TestErrorUnwrapsItsCause(t *testing.T) {
	cause := errors.New("cause")
	if !errors.Is(&config.Error{Msg: "m", Err: cause}, cause) {
		t.Error("the cause is lost")
	}
}
