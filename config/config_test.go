package config_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

// full sets every key.
const fullYAML = `
network: full
vars: {dir: src, n: "4", wait: 2s, size: 2KiB, rate: 1/60, port: "9090", off: "false", west: 0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b}
data: state
store: sqlite:state/all.db
transport: tcp
listen: ":7946"
signature: single
peers:
  - {name: east, id: 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a, address: "east.example:7946"}
  - {name: west, id: "${west}"}
tcp: {queue: 1MiB, when_full: drop, grace: 3s, handshake_timeout: 1s, idle_timeout: 1m, max_connections: 100, max_per_address: 10, frame_rate: 9000, byte_rate: 8MiB}
log: {level: debug, format: json}
metrics: {listen: "localhost:${port}"}
limits:
  message_size: ${size}
  ingress: {global: {rate: 0.5}, sender: {rate: "${rate}", burst: 3}, topic: {rate: 0x10, burst: 1_000}}
  egress: {global: {rate: 1000}, sender: {rate: unlimited}, topic: {burst: 7}}
tools:
  sum:
    description: |
      A sum
      of a file
    command: [sha256sum, "--", "{file}", "$${HOME}"]
    stdin: "{text}"
    env: &env {LC_ALL: C, WHERE: "${dir}/x"}
    pass_env: [PATH]
    dir: ${dir}
    paths: {file: "${dir}"}
    output: json
    timeout: ${wait}
    concurrency: ${n}
    max_output: 64KiB
    log_stderr: true
  lines: {command: [wc], stdin_file: "{file}", env: *env}
mcp:
  - name: fs
    command: [node, server.js, "${dir}"]
    tools: [read_text_file, write_file]
    env: *env
    pass_env: [PATH]
    dir: ${dir}
    pins: {read_text_file: 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a}
    destructive: {write_file: false}
    read_only: {read_text_file: true}
    open_world: {write_file: true}
    timeout: ${wait}
    start_timeout: 5s
    concurrency: ${n}
    max_output: 64KiB
    log_stderr: true
    read: [lib]
    write: ["${dir}"]
    network: true
    unix_sockets: true
  - {name: web, url: "https://mcp.example/mcp", tools: [search], token: {file: web.token}, headers: {X-Tenant: {env: TENANT}, X-Key: {file: web.key}}}
agents:
  - name: worker
    kind: worker
    count: 2
    topics: ["orders.>", "orders.*@2"]
    capabilities: {sum: sum, lines: lines}
    tools: [sum, lines]
    concurrency: ${n}
    tool_timeout: 1m30s
    pools: [painters]
  - name: boss
    kind: coordinator
    key: keys/boss.pem
    deadline: 10m
    tasks:
      - name: all
        capability: sum
        each: "**/*.{go,md}"
        in: ${dir}
        exclude: ["vendor/**"]
        params: {file: "{path}", deep: [1, -2.5, true, null, {n: "${n}"}], big: 18446744073709551615}
        claim_ttl: 1m
        attempts: 3
        priority: -2
        pool: painters
      - {capability: lines, count: 3}
unsafe: {receive_unverified: "${off}"}
discovery: {via: messages, ttl: 30s, admit: any, advertise: "10.0.0.1:7946"}
statements: rotations
seal: allowed
pools:
  - {name: painters, owner: boss, admission: token, token: {file: painters.token}, topics: [paint.wet], max_members: 7}
  - {name: sculptors}
`

const fullTOML = `
network = "full"
vars = {dir = "src", n = "4", wait = "2s", size = "2KiB", rate = "1/60", port = "9090", off = "false", west = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"}
data = "state"
store = "sqlite:state/all.db"
discovery = {via = "messages", ttl = "30s", admit = "any", advertise = "10.0.0.1:7946"}
statements = "rotations"
seal = "allowed"
pools = [
  {name = "painters", owner = "boss", admission = "token", token = {file = "painters.token"}, topics = ["paint.wet"], max_members = 7},
  {name = "sculptors"},
]
transport = "tcp"
listen = ":7946"
signature = "single"
peers = [
  {name = "east", id = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a", address = "east.example:7946"},
  {name = "west", id = "${west}"},
]
tcp = {queue = "1MiB", when_full = "drop", grace = "3s", handshake_timeout = "1s", idle_timeout = "1m", max_connections = 100, max_per_address = 10, frame_rate = 9000, byte_rate = "8MiB"}
log = {level = "debug", format = "json"}
metrics.listen = "localhost:${port}"
unsafe.receive_unverified = "${off}"

[limits]
message_size = "${size}"
ingress = {global = {rate = 0.5}, sender = {rate = "${rate}", burst = 3}, topic = {rate = 0x10, burst = 1_000}}
[limits.egress]
global.rate = 1_000
sender.rate = "unlimited"
topic.burst = 7

[tools.sum]
description = """
A sum
of a file
"""
command = [
  "sha256sum", '--', # a comment
  "{file}", "$${HOME}",
]
stdin = "{text}"
env = {LC_ALL = "C", WHERE = "${dir}/x"}
pass_env = ["PATH"]
dir = "${dir}"
paths.file = "${dir}"
output = "json"
timeout = "${wait}"
concurrency = "${n}"
max_output = "64KiB"
log_stderr = true

[tools.lines]
command = ["wc"]
stdin_file = "{file}"
env.LC_ALL = "C"
env.WHERE = "${dir}/x"

[[mcp]]
name = "fs"
command = ["node", "server.js", "${dir}"]
tools = ["read_text_file", "write_file"]
env = {LC_ALL = "C", WHERE = "${dir}/x"}
pass_env = ["PATH"]
dir = "${dir}"
pins.read_text_file = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
destructive.write_file = false
read_only.read_text_file = true
open_world.write_file = true
timeout = "${wait}"
start_timeout = "5s"
concurrency = "${n}"
max_output = "64KiB"
log_stderr = true
read = ["lib"]
write = ["${dir}"]
network = true
unix_sockets = true

[[mcp]]
name = "web"
url = "https://mcp.example/mcp"
tools = ["search"]
token.file = "web.token"
headers = {X-Tenant = {env = "TENANT"}, X-Key = {file = "web.key"}}

[[agents]]
name = "worker"
kind = "worker"
count = 2
topics = ["orders.>", "orders.*@2"]
capabilities = {sum = "sum", lines = "lines"}
tools = ["sum", "lines"]
concurrency = "${n}"
tool_timeout = "1m30s"
pools = ["painters"]

[[agents]]
name = "boss"
kind = "coordinator"
key = "keys/boss.pem"
deadline = "10m"
  [[agents.tasks]]
  name = "all"
  capability = "sum"
  each = "**/*.{go,md}"
  in = "${dir}"
  exclude = ["vendor/**"]
  claim_ttl = "1m"
  attempts = 3
  priority = -2
  pool = "painters"
  [agents.tasks.params]
  file = "{path}"
  deep = [1, -2.5, true, {n = "${n}"}]
  [[agents.tasks]]
  capability = "lines"
  count = 3
`

func fullConfig() config.Config {
	env := map[string]string{"LC_ALL": "C", "WHERE": "src/x"}
	return config.Config{
		Network:    "full",
		Vars:       map[string]string{"dir": "src", "n": "4", "wait": "2s", "size": "2KiB", "rate": "1/60", "port": "9090", "off": "false", "west": strings.Repeat("0b", 32)},
		Data:       filepath.FromSlash("etc/state"),
		Store:      "sqlite:state/all.db",
		Discovery:  config.Discovery{Via: config.DiscoveryMessages, TTL: config.Duration(30 * time.Second), Admit: config.AdmitAny, Advertise: "10.0.0.1:7946"},
		Statements: filepath.FromSlash("etc/rotations"), Seal: config.SealAllowed,
		Pools: []config.Pool{
			{
				Name: "painters", Owner: "boss", Admission: config.AdmissionToken,
				Token: config.Secret{File: filepath.FromSlash("etc/painters.token")}, Topics: []string{"paint.wet"}, MaxMembers: 7,
			},
			{Name: "sculptors", Admission: config.AdmissionAllowlist},
		},
		Transport: config.TransportTCP, Listen: ":7946", Signature: config.SignatureSingle,
		Peers: []config.Peer{
			{Name: "east", ID: strings.Repeat("0a", 32), Address: "east.example:7946"},
			{Name: "west", ID: strings.Repeat("0b", 32)},
		},
		TCP: config.TCP{Links: config.Links{
			Queue: 1 << 20, WhenFull: config.WhenFullDrop, Grace: config.Duration(3 * time.Second),
			HandshakeTimeout: config.Duration(time.Second), IdleTimeout: config.Duration(time.Minute),
			MaxConnections: 100, MaxPerAddress: 10, FrameRate: 9000, ByteRate: 8 << 20,
		}},
		Log:     config.Log{Level: "debug", Format: "json"},
		Metrics: config.Metrics{Listen: "localhost:9090"},
		Limits: config.Limits{
			MessageSize: 2048,
			Ingress:     config.Buckets{Global: config.Limit{Rate: 0.5, Burst: 1}, Sender: config.Limit{Rate: 1.0 / 60, Burst: 3}, Topic: config.Limit{Rate: 16, Burst: 1000}},
			Egress:      config.Buckets{Global: config.Limit{Rate: 1000, Burst: 1000}, Sender: config.Limit{Rate: config.Unlimited, Burst: 1000}, Topic: config.Limit{Rate: config.Unlimited, Burst: 7}},
		},
		Tools: map[string]config.Tool{
			"sum": {
				Description: "A sum\nof a file\n",
				Command:     []string{"sha256sum", "--", "{file}", "${HOME}"},
				Stdin:       "{text}",
				Env:         env, PassEnv: []string{"PATH"},
				Dir: "src", Paths: map[string]string{"file": "src"},
				Output: "json", Timeout: config.Duration(2 * time.Second), Concurrency: 4, MaxOutput: 64 << 10, LogStderr: true,
			},
			"lines": {Command: []string{"wc"}, StdinFile: "{file}", Env: env, Output: "text"},
		},
		Audit: defaultAudit,
		MCP: []config.MCP{
			{
				Name: "fs", Command: []string{"node", "server.js", "src"}, Tools: []string{"read_text_file", "write_file"},
				Env: env, PassEnv: []string{"PATH"}, Dir: "src",
				Pins:        map[string]string{"read_text_file": strings.Repeat("0a", 32)},
				Destructive: map[string]bool{"write_file": false}, ReadOnly: map[string]bool{"read_text_file": true},
				OpenWorld: map[string]bool{"write_file": true},
				Timeout:   config.Duration(2 * time.Second), StartTimeout: config.Duration(5 * time.Second),
				Concurrency: 4, MaxOutput: 64 << 10, LogStderr: true,
				Read: []string{"lib"}, Write: []string{"src"}, Network: true, UnixSockets: true,
			},
			{
				Name: "web", URL: "https://mcp.example/mcp", Tools: []string{"search"},
				Token:   config.Secret{File: filepath.FromSlash("etc/web.token")},
				Headers: map[string]config.Secret{"X-Tenant": {Env: "TENANT"}, "X-Key": {File: filepath.FromSlash("etc/web.key")}},
			},
		},
		Agents: []config.Agent{
			{
				Name: "worker", Kind: config.KindWorker, Count: 2,
				Topics:       []string{"orders.>", "orders.*@2"},
				Capabilities: map[string]string{"sum": "sum", "lines": "lines"},
				Tools:        []string{"sum", "lines"},
				Concurrency:  4, ToolTimeout: config.Duration(90 * time.Second), Pools: []string{"painters"},
			},
			{
				Name: "boss", Kind: config.KindCoordinator, Count: 1,
				Key:         filepath.FromSlash("etc/keys/boss.pem"),
				Concurrency: 1, ToolTimeout: config.Duration(30 * time.Second),
				Deadline: config.Duration(10 * time.Minute),
				Tasks: []config.Task{
					{
						Name: "all", Capability: "sum",
						Each: "**/*.{go,md}", Count: 1, In: "src", Exclude: []string{"vendor/**"},
						Params:   map[string]any{"file": "{path}", "deep": []any{int64(1), -2.5, true, map[string]any{"n": "4"}}},
						ClaimTTL: config.Duration(time.Minute), Attempts: 3, Priority: -2, Pool: "painters",
					},
					{Name: "lines", Capability: "lines", Count: 3},
				},
			},
		},
	}
}

// defaultAudit is what a file without that section means.
var defaultAudit = config.Audit{
	Enabled: true, Sync: config.SyncInterval, Interval: config.Duration(time.Second), MaxSize: 64 << 20, Keep: 4 << 30,
}

func TestBothFormatsSayTheSame(t *testing.T) {
	inYAML := fullConfig()
	inYAML.Agents[1].Tasks[0].Params["deep"] = []any{int64(1), -2.5, true, nil, map[string]any{"n": "4"}} // TOML has no null
	inYAML.Agents[1].Tasks[0].Params["big"] = uint64(math.MaxUint64)                                      // nor numbers of 64 bits
	expectConfig(t, "etc/converge.yaml", fullYAML, inYAML)
	expectConfig(t, "etc/converge.toml", fullTOML, fullConfig())
	expectConfig(t, "etc/converge.YML", "\ufeff"+strings.ReplaceAll(fullYAML, "\n", "\r\n"), inYAML)
}

func expectConfig(t *testing.T, name, text string, want config.Config) {
	t.Helper()
	got, err := config.Parse(name, []byte(text), config.Options{})
	if err != nil {
		t.Fatal(describe(problems(t, err)))
	}
	gotValue, wantValue := reflect.ValueOf(*got), reflect.ValueOf(want)
	for i := range wantValue.NumField() {
		field := wantValue.Type().Field(i)
		if field.IsExported() && !reflect.DeepEqual(gotValue.Field(i).Interface(), wantValue.Field(i).Interface()) {
			t.Errorf("%s: %s\ngot  %+v\nwant %+v", name, field.Name, gotValue.Field(i), wantValue.Field(i))
		}
	}
}

func TestDefaults(t *testing.T) {
	buckets := config.Buckets{
		Global: config.Limit{Rate: config.Unlimited},
		Sender: config.Limit{Rate: 500, Burst: 1000},
		Topic:  config.Limit{Rate: config.Unlimited},
	}
	expectConfig(t, "c.yaml", "network: n\nlog:\ntools:\nagents: [{name: w, kind: worker}]\n", config.Config{
		Network:   "n",
		Store:     "memory",
		Discovery: config.Discovery{Via: config.DiscoveryStore, TTL: config.Duration(2 * time.Minute), Admit: config.AdmitKnown},
		Seal:      config.SealOff,
		Transport: config.TransportLocal,
		Signature: config.SignatureBatch,
		Log:       config.Log{Level: "info", Format: "text"},
		Audit:     defaultAudit,
		Limits:    config.Limits{MessageSize: 1 << 20, Ingress: buckets, Egress: buckets},
		Agents:    []config.Agent{{Name: "w", Kind: config.KindWorker, Count: 1, Concurrency: 1, ToolTimeout: config.Duration(30 * time.Second)}},
	})
}

func TestFlagBeatsVariableBeatsFile(t *testing.T) {
	const text = "network: n\nvars: {dir: of-file}\nlog: {level: warn}\nmetrics: {listen: \"${dir}:1\"}\nlimits: {ingress: {sender: {rate: 1, burst: 2}}}"
	environ := []string{
		"PATH=/bin", "CONVERGE_LOG_LEVEL=debug", "CONVERGE_VAR_DIR=of-environ",
		"CONVERGE_LIMITS_INGRESS_SENDER_RATE=unlimited", "CONVERGE_LIMITS_INGRESS_SENDER_BURST=9",
		"CONVERGE_UNSAFE_RECEIVE_UNVERIFIED=true",
		"CONVERGE_PASSPHRASE=secret", "CONVERGE_REQUIRE_SERVICES=1", "CONVERGE_SERVICE_HOST=10.0.0.1", "CONVERGE_PORT=tcp://10.0.0.1:80", "CONVERGE_PORT_80_TCP=x",
	}
	cases := []struct {
		name                string
		opts                config.Options
		level, listen, rate string
		burst               int
		unverified          bool
	}{
		{"file", config.Options{}, "warn", "of-file:1", "1", 2, false},
		{"variable", config.Options{Environ: environ}, "debug", "of-environ:1", "unlimited", 9, true},
		{"flag", config.Options{
			Environ: environ,
			Vars:    map[string]string{"dir": "of-flag"},
			Set:     map[string]string{"log.level": "error", "limits.ingress.sender.rate": "1/4", "unsafe.receive_unverified": "false"},
		}, "error", "of-flag:1", "0.25", 9, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := config.Parse("c.yaml", []byte(text), c.opts)
			if err != nil {
				t.Fatal(describe(problems(t, err)))
			}
			sender := got.Limits.Ingress.Sender
			if got.Log.Level != c.level || got.Metrics.Listen != c.listen || sender.Rate.String() != c.rate || sender.Burst != c.burst || got.Unsafe.ReceiveUnverified != c.unverified {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestErrorsOutsideOfTheFileNameTheirSource(t *testing.T) {
	const vars = "network: n\nvars: {dir: x, count: \"1\"}\nagents: [{name: w, kind: worker, count: \"${count}\"}]"
	cases := []struct {
		name, text string
		opts       config.Options
		want, hint string
	}{
		{"bad value in a variable", vars, config.Options{Environ: []string{"CONVERGE_LOG_LEVEL=loud"}}, `CONVERGE_LOG_LEVEL: log.level: unknown value "loud"`, "known values: debug, info, warn, error"},
		{"bad value in a flag", vars, config.Options{Set: map[string]string{"limits.message_size": "x"}}, `--limits-message-size: limits.message_size: want a size such as 4096 or "64KiB", not "x"`, "the units are B, KiB, MiB and GiB"},
		{"number that is none", vars, config.Options{Environ: []string{"CONVERGE_LIMITS_EGRESS_TOPIC_BURST=0x1"}}, `CONVERGE_LIMITS_EGRESS_TOPIC_BURST: limits.egress.topic.burst: want a whole number, not "0x1"`, ""},
		{"truth that is none", vars, config.Options{Environ: []string{"CONVERGE_UNSAFE_RECEIVE_UNVERIFIED=1"}}, `CONVERGE_UNSAFE_RECEIVE_UNVERIFIED: unsafe.receive_unverified: want true or false, not "1"`, ""},
		{"unknown variable, near a known one", vars, config.Options{Environ: []string{"CONVERGE_LOGLEVEL=info"}}, "CONVERGE_LOGLEVEL: unknown environment variable", "did you mean CONVERGE_LOG_LEVEL?"},
		{"lists are for the file", vars, config.Options{Environ: []string{"CONVERGE_VARS=x"}}, "CONVERGE_VARS: unknown environment variable", ""},
		{"undeclared variable of the file", vars, config.Options{Environ: []string{"CONVERGE_VAR_DIRS=x"}}, "CONVERGE_VAR_DIRS: unknown environment variable", "did you mean CONVERGE_VAR_DIR?"},
		{"undeclared --var", vars, config.Options{Vars: map[string]string{"dri": "x"}}, "--var dri: vars.dri: unknown variable", `did you mean "dir"?`},
		{"--var without vars", "network: n", config.Options{Vars: map[string]string{"dir": "x"}}, "--var dir: vars.dir: unknown variable", "there are no variables"},
		{"unknown flag", vars, config.Options{Set: map[string]string{"log.levle": "x"}}, "--log-levle: log.levle: unknown setting", `did you mean "log.level"?`},
		{"flag for a list", vars, config.Options{Set: map[string]string{"agents": "x"}}, "--agents: agents: unknown setting", ""},
		{"--var in a value of the file", vars, config.Options{Vars: map[string]string{"count": "many"}}, `c.yaml:3:41: agents[0].count: want a whole number, not "many"`, ""},
		{"section of another type", "network: n\nlog: 3", config.Options{Environ: []string{"CONVERGE_LOG_LEVEL=info"}}, "c.yaml:2:6: log: want a map, not 3", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse("c.yaml", []byte(c.text), c.opts)
			list := problems(t, err)
			if len(list) != 1 || list[0].Error() != c.want || c.hint != "" && list[0].Hint != c.hint {
				t.Errorf("got  %v\nwant %s (%s)", describe(list), c.want, c.hint)
			}
		})
	}
}

func TestVariablesCannotInjectStructure(t *testing.T) {
	attacks := []string{
		"x\nunsafe: {receive_unverified: true}\n",
		"\", \"--evil",
		"], unsafe: {receive_unverified: true}, x: [",
		"x # comment",
		"*alias", "&anchor", "!!binary x", "{a: b}", "[a, b]", "- a", "null", "~", "",
		"\"\nunsafe.receive_unverified = true\n",
		"$${dir}", "${dir}", "${other}", "$", "${",
	}
	for _, attack := range attacks {
		opts := config.Options{Vars: map[string]string{"dir": attack}}
		yaml := "network: n\nvars: {dir: x, other: y}\ntools: {t: {command: [ls, \"<${dir}>\", \"${other}\"], description: \"${dir}\"}}\n"
		toml := "network = \"n\"\nvars = {dir = \"x\", other = \"y\"}\n[tools.t]\ncommand = [\"ls\", \"<${dir}>\", \"${other}\"]\ndescription = \"${dir}\"\n"
		for name, text := range map[string]string{"c.yaml": yaml, "c.toml": toml} {
			got, err := config.Parse(name, []byte(text), opts)
			if err != nil {
				t.Fatalf("%q: %v", attack, err)
			}
			want := []string{"ls", "<" + attack + ">", "y"}
			if tool := got.Tools["t"]; !slices.Equal(tool.Command, want) || tool.Description != attack || got.Unsafe.ReceiveUnverified {
				t.Errorf("%s, %q: got %q, %q", name, attack, tool.Command, tool.Description)
			}
		}
	}
}

func TestSettingsAreTakenAsTheyAre(t *testing.T) {
	got, err := config.Parse("c.yaml", []byte("network: n\nvars: {dir: x}"), config.Options{
		Set: map[string]string{"data": "${dir}/$${y}"},
	})
	if err != nil || got.Data != "${dir}/$${y}" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAliasesAreExpandedOnce(t *testing.T) {
	got, err := config.Parse("c.yaml", []byte("network: n\nvars: {a: x}\ntools:\n  t: {command: &c [\"$${a}\", \"${a}\"]}\n  u: {command: *c}\n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"t", "u"} {
		if !slices.Equal(got.Tools[name].Command, []string{"${a}", "x"}) {
			t.Errorf("%s: got %q", name, got.Tools[name].Command)
		}
	}
}

func TestPathsAreRelativeToWhereTheyWereWritten(t *testing.T) {
	abs := filepath.Join(t.TempDir(), "abs")
	cases := []struct {
		name, data string
		opts       config.Options
		want       string
	}{
		{"file", "state", config.Options{}, filepath.FromSlash("etc/state")},
		{"file, absolute", abs, config.Options{}, abs},
		{"file, none", `""`, config.Options{}, ""},
		{"variable of the file", "${d}/x", config.Options{}, filepath.FromSlash("etc/of-file/x")},
		{"--var", "${d}/x", config.Options{Vars: map[string]string{"d": "here"}}, "here/x"},
		{"CONVERGE_VAR_", "${d}/x", config.Options{Environ: []string{"CONVERGE_VAR_D=here"}}, "here/x"},
		{"CONVERGE_DATA", "state", config.Options{Environ: []string{"CONVERGE_DATA=here"}}, "here"},
		{"--data", "state", config.Options{Set: map[string]string{"data": "here"}}, "here"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := "network: n\nvars: {d: of-file}\ndata: " + c.data + "\nagents: [{name: w, kind: worker, key: k.pem}]\n"
			got, err := config.Parse("etc/c.yaml", []byte(text), c.opts)
			if err != nil || got.Data != c.want || got.Agents[0].Key != filepath.FromSlash("etc/k.pem") {
				t.Errorf("got %+v, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "converge.toml")
	if err := os.WriteFile(path, []byte("network = \"n\"\ndata = \"d\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path, config.Options{})
	if err != nil || got.Network != "n" || got.Data != filepath.Join(dir, "d") {
		t.Errorf("got %+v, %v", got, err)
	}

	missing := filepath.Join(dir, "missing.yaml")
	_, err = config.Load(missing, config.Options{})
	list := problems(t, err)
	if !errors.Is(err, fs.ErrNotExist) || list[0].Error() != missing+": there is no such file" || list[0].Hint != "`converge init` writes one to begin with" {
		t.Errorf("got %s", describe(list))
	}

	_, err = config.Load(dir, config.Options{})
	if list := problems(t, err); len(list) != 1 || list[0].Error() != dir+": is a directory" {
		t.Errorf("got %s", describe(list))
	}

	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = config.Load(large, config.Options{})
	if list := problems(t, err); len(list) != 1 || list[0].Error() != large+": larger than 1048576 bytes" {
		t.Errorf("got %s", describe(list))
	}
}

func TestTemplateLoads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "converge.yaml")
	for _, network := range []string{"quickstart", "my-net.2", "1e3", "null"} {
		if err := os.WriteFile(path, config.Template(network), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path, config.Options{Vars: map[string]string{"dir": "docs"}})
		if err != nil {
			t.Fatal(describe(problems(t, err)))
		}
		if c.Network != network || len(c.Agents) != 2 || c.Agents[0].Count != 2 || c.Agents[1].Tasks[0].In != "docs" || c.Tools["lines"].Paths["file"] != "docs" {
			t.Errorf("got %+v", c)
		}
	}
}

func TestAgentNames(t *testing.T) {
	one, three := config.Agent{Name: "w", Count: 1}, config.Agent{Name: "w", Count: 3}
	if !slices.Equal(one.Names(), []string{"w"}) || !slices.Equal(three.Names(), []string{"w-1", "w-2", "w-3"}) {
		t.Errorf("got %q and %q", one.Names(), three.Names())
	}
}

func TestValidateChecksAConfigMadeInGo(t *testing.T) {
	c, err := config.Parse("c.yaml", []byte("network: n\nagents: [{name: w, kind: worker}]"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Limits.Ingress.Sender = config.Limit{Rate: config.Rate(math.NaN())}
	c.Agents[0].ToolTimeout = -1
	c.Agents[0].Deadline = -1
	c.Tools = map[string]config.Tool{"t": {Command: []string{"x"}, Output: "text", Timeout: -1}}
	var got []string
	for _, e := range problems(t, c.Validate()) {
		got = append(got, e.Error())
	}
	want := []string{
		"c.yaml:1:1: limits.ingress.sender.rate: want above 0 and at most 1e9, or unlimited, not NaN",
		"c.yaml:1:1: limits.ingress.sender.burst: want 1 to 1000000000, not 0",
		"c.yaml:1:1: tools.t.timeout: want a duration that is not negative, not -1ns",
		"c.yaml:2:10: agents[0].deadline: want a duration that is not negative, not -1ns",
		"c.yaml:2:10: agents[0].tool_timeout: want a duration above 0, not -1ns",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if err := new(config.Config).Validate(); !strings.HasPrefix(err.Error(), "network: required\n") || !strings.Contains(err.Error(), "\nstore: ") {
		t.Errorf("got %v", err)
	}
}
