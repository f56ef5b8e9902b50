// Package config reads the description of a network (its agents, tools, limits and peers) from a YAML or TOML
// file, environment variables and command-line flags. A flag beats a variable, a variable beats the
// file, and the file beats the default.
//
// Reading fails closed. A key that is not known, a value of the wrong type, a key given twice, a
// reference to a tool that is not there, a CONVERGE_ variable that means nothing: each is an [*Error]
// that says where it stands (file:line:column, or the name of the variable or flag), which key it is
// about, and what was probably meant.
//
// # Variables
//
// ${name} stands for a variable of the section vars, in every string value of the file outside of
// vars. It is replaced after the file was decoded and only once, so that a variable's value can neither
// add keys nor bring in other variables. A value that holds ${name} may be given wherever a number, a
// duration, a size or a rate is wanted. $${ is a literal ${. Values that come from flags and
// CONVERGE_ variables are taken as they are.
//
// # Environment
//
// A single value is set by the variable of its key: log.level by CONVERGE_LOG_LEVEL,
// limits.ingress.sender.rate by CONVERGE_LIMITS_INGRESS_SENDER_RATE, and the variable dir of the section
// vars by CONVERGE_VAR_DIR. Lists, tools and agents come from the file alone.
//
// # Paths
//
// Keys, certificates and state (data, agents[].key, the files of websocket and nats) lie relative to the
// folder of the file, as do WASI modules (tools.*.wasm.module), unless a flag or an environment variable gave them, also by way of ${name}: then
// they are relative to the current directory. The places that agents work in (tools.*.paths, tools.*.dir, tools.*.stdin_file,
// tools.*.read, tools.*.write, tools.*.wasm.mounts[].dir, agents[].tasks[].in) are always relative to the current directory.
package config

// Config describes a network. [Load] and [Parse] return it complete: defaults are filled in and every
// rule that the fields' comments state has been checked.
type Config struct {
	// Network names the network; required, see message.CheckNetwork.
	Network string `key:"network"`
	// Vars are the values for ${name}, by name: lower-case letters, digits and '_', a letter first.
	Vars map[string]string `key:"vars"`
	// Data is the folder for keys and state; "" is a temporary one. Default "".
	Data string `key:"data"`
	// Store keeps tasks, pools, descriptors, replay marks and checkpoints: memory, sqlite or sqlite:FILE,
	// postgres://USER@HOST/DATABASE, or nats; see [StoreMemory]. Default memory.
	Store string `key:"store"`
	// Postgres sets up the store of that name, and is for no other.
	Postgres Postgres `key:"postgres"`
	// Discovery says how agents find each other.
	Discovery Discovery `key:"discovery"`
	// Statements is a folder of key statements, which `converge keys` writes: rotations and revocations in
	// it are in force within a second. Default "", which is the folder statements in Data.
	Statements string `key:"statements"`
	// Seal says whether bodies of direct messages are sealed: off, allowed or required; see [SealOff].
	// Default off.
	Seal string `key:"seal"`
	// Pools are the groups that agents of this process make and join.
	Pools []Pool `key:"pools"`
	// Transport says how agents reach each other: local (only those of this process), tcp, websocket,
	// nats, or the addresses of NATS servers; see [TransportLocal]. Default local.
	Transport string `key:"transport"`
	// Listen is the host:port at which others reach this process; port 0 is any free one. Default "",
	// which is nowhere. Only with tcp, websocket and nats, there for the server of this process.
	Listen string `key:"listen"`
	// Peers are the agents of other processes that this one's agents hear and that may connect, at
	// most [MaxPeers]. Not with local.
	Peers []Peer `key:"peers"`
	// Signature is batch or single; see [SignatureBatch]. Receivers take both. Default batch.
	Signature string `key:"signature"`
	// Tasks says where the tasks are.
	Tasks TaskPlace `key:"tasks"`
	// TCP, WebSocket and NATS set up the transport of that name, and are for no other.
	TCP       TCP       `key:"tcp"`
	WebSocket WebSocket `key:"websocket"`
	NATS      NATS      `key:"nats"`
	// Log says what is logged and how.
	Log Log `key:"log"`
	// Metrics says where metrics are served.
	Metrics Metrics `key:"metrics"`
	// Limits bound the messages.
	Limits Limits `key:"limits"`
	// Tools are what agents may be allowed to run, by name: 1 to 128 letters, digits,
	// '_', '-' and '.'.
	Tools map[string]Tool `key:"tools"`
	// MCP are servers whose tools agents may be allowed to run.
	MCP []MCP `key:"mcp"`
	// Policy says which tool calls are allowed, denied, or asked about.
	Policy Policy `key:"policy"`
	// Models are the language models that agents of the kind llm ask, by name: formed like a tool's name.
	Models map[string]Model `key:"models"`
	// Agents are the members of the network, at most [MaxAgents] once counts are expanded.
	Agents []Agent `key:"agents"`
	// Audit says what is recorded.
	Audit Audit `key:"audit"`
	// Unsafe switches protections off.
	Unsafe Unsafe `key:"unsafe"`

	origin origin // where each key was read; the zero value for a Config that was not read
}

// MaxCount is the largest Count of a [Task].
const MaxCount = 1_000_000

// MaxAgents is the largest number of agents that one Config may describe.
const MaxAgents = 10_000

// Log configures the log.
type Log struct {
	// Level is the least level that is logged: debug, info, warn or error. Default info.
	Level string `key:"level"`
	// Format is text or json. Default text.
	Format string `key:"format"`
}

// Metrics configures the metrics endpoint.
type Metrics struct {
	// Listen is the host:port to serve on; port 0 is any free one. Default "", which is off.
	Listen string `key:"listen"`
}

// Limits bound the messages of every agent.
type Limits struct {
	// MessageSize is the largest envelope, 1KiB to 1GiB. Default 1MiB.
	MessageSize Size `key:"message_size"`
	// Ingress limits what an agent takes in.
	Ingress Buckets `key:"ingress"`
	// Egress limits what an agent sends.
	Egress Buckets `key:"egress"`
}

// Buckets are the token buckets that one message takes from: all three or none.
type Buckets struct {
	// Global is one bucket for all messages. Default unlimited.
	Global Limit `key:"global"`
	// Sender is one bucket for each sender. Default 500 a second, bursts of 1000.
	Sender Limit `key:"sender"`
	// Topic is one bucket for each topic. Default unlimited.
	Topic Limit `key:"topic"`
}

// Limit is one token bucket.
type Limit struct {
	// Rate is the messages a second that it admits in the long run.
	Rate Rate `key:"rate"`
	// Burst is the messages that it admits at once. 0 in the file is a second's worth; a Config that
	// was read holds the number.
	Burst int `key:"burst"`
}

// Tool is something that agents may run: a command, a WASI module or an HTTP call, of which exactly one is given. In
// templates, {name} stands for the call's parameter of that name; see package tool/command. The keys from Stdin to
// Output, LogStderr and those of Sandbox are for commands only.
type Tool struct {
	// Description says what the tool does.
	Description string `key:"description"`
	// Destructive says that the tool may delete or overwrite something. Such a tool runs only if somebody approves
	// the call. Default false.
	Destructive bool `key:"destructive"`
	// WASM is a WASI module.
	WASM WASM `key:"wasm"`
	// HTTP is an HTTP call.
	HTTP HTTP `key:"http"`
	// Command is the program and the templates of its arguments. There is no shell.
	Command []string `key:"command"`
	// Stdin is the template of the standard input.
	Stdin string `key:"stdin"`
	// StdinFile is the template of a path whose file is the standard input; not together with Stdin.
	StdinFile string `key:"stdin_file"`
	// Env are variables of the command's environment, which is empty otherwise. They are no templates.
	Env map[string]string `key:"env"`
	// PassEnv names variables of this process that the command gets too.
	PassEnv []string `key:"pass_env"`
	// Dir is the folder that the command runs in, relative to the current directory. Default "", a
	// new and empty one for each call.
	Dir string `key:"dir"`
	// Paths are the parameters that are paths, with the folder that each has to lie within, relative
	// to the current directory.
	Paths map[string]string `key:"paths"`
	// Output says what becomes of the standard output: text, word (the first word), json or bytes.
	// Default text.
	Output string `key:"output"`
	// Timeout bounds a call. Default 0, which leaves it to the agent's ToolTimeout; where both are
	// given, the shorter holds.
	Timeout Duration `key:"timeout"`
	// Concurrency bounds the calls that run at once for one agent. Default 0, which is the guard's
	// (tool.DefaultMaxConcurrent).
	Concurrency int `key:"concurrency"`
	// MaxOutput bounds the output of a call. Default 0, which is the guard's (tool.DefaultMaxOutput).
	MaxOutput Size `key:"max_output"`
	// LogStderr logs what the command writes on standard error, up to 4 KiB of it, when it fails. It
	// may hold what is in the parameters, secrets included. Default false.
	LogStderr bool `key:"log_stderr"`
	Sandbox
}

// The kinds of agents.
const (
	KindWorker      = "worker"      // claims tasks and serves them with tools
	KindCoordinator = "coordinator" // submits tasks and gathers their results
	KindHost        = "host"        // keeps this process's tasks for agents of other processes
	KindLLM         = "llm"         // has a language model claim tasks, work on them and answer messages
)

// Agent describes one agent, or Count like ones.
type Agent struct {
	// Name is made of 1 to 63 lower-case letters, digits and '-'; required, and once in a Config.
	Name string `key:"name"`
	// Kind is [KindWorker], [KindCoordinator], [KindHost] or [KindLLM]; required.
	Kind string `key:"kind"`
	// Count is how many there are, from 1; see [Agent.Names]. Default 1.
	Count int `key:"count"`
	// Key is the key file. Default "", which is DATA/keys/NAME.pem, made if it is missing. Not with
	// a Count above 1, and no file twice.
	Key string `key:"key"`
	// Topics are the patterns (see message.Pattern) of the topics that the agent hears.
	Topics []string `key:"topics"`
	// Pools are the names of those of Config.Pools that the agent joins. Not for a host.
	Pools []string `key:"pools"`

	// Capabilities are what a worker offers, each with the tool that serves it, which has to be one
	// of Tools: a tool of the Config, or SERVER.TOOL for one of an MCP server. For an agent with a model, see [LLM].
	Capabilities map[string]string `key:"capabilities"`
	// Tools is the allowlist of a worker or an agent with a model. Empty allows none.
	Tools []string `key:"tools"`
	// Concurrency is how many tasks a worker or an agent with a model works on at a time, from 1. Default 1.
	Concurrency int `key:"concurrency"`
	// ToolTimeout bounds each tool call of a worker or an agent with a model, above 0. Default 30s.
	ToolTimeout Duration `key:"tool_timeout"`

	// Deadline bounds the whole job of a coordinator. Default 0, which is none.
	Deadline Duration `key:"deadline"`
	// Tasks are the job of a coordinator; at least one.
	Tasks []Task `key:"tasks"`

	// Workers are the peers that may work on a host's tasks: see those that their capabilities match,
	// claim them, and end what they hold. Submitters are the peers that may submit tasks to it, and
	// cancel their own. A host serves nobody else; one peer at least.
	Workers    []string `key:"workers"`
	Submitters []string `key:"submitters"`

	LLM
}

// Task describes the tasks of one sort that a coordinator submits: one, or one for each file that Each
// selects.
type Task struct {
	// Name is the column of the report, formed like a tool's name and once in a coordinator. Default:
	// the capability.
	Name string `key:"name"`
	// Capability is what a worker must have to see the task; required. Some worker must have it: one
	// of this Config, unless workers of other processes can see the tasks.
	Capability string `key:"capability"`
	// Each selects files below In by a doublestar pattern ("**/*.go"). Default "", which is one task.
	Each string `key:"each"`
	// In is the folder that Each searches, relative to the current directory; required with Each.
	In string `key:"in"`
	// Count is how many alike there are, up to [MaxCount]; {n} in a string of Params is the number of
	// each, from 1. Not with Each. Default 1, also for 0 in a Config made in Go.
	Count int `key:"count"`
	// Exclude are doublestar patterns of files that Each leaves out.
	Exclude []string `key:"exclude"`
	// Params are the parameters of the tool, of the types of JSON: string, bool, int64, uint64 above
	// that, float64, []any, map[string]any and nil. With Each, {path} in a string is the file's path
	// relative to In, with slashes.
	Params map[string]any `key:"params"`
	// ClaimTTL is how long a claim holds without a heartbeat. Default 0, which is the task manager's.
	ClaimTTL Duration `key:"claim_ttl"`
	// Attempts is how often the task is tried before it counts as failed, from 1. Default 0, which is the
	// task manager's.
	Attempts int `key:"attempts"`
	// Priority puts tasks with a higher one first. Default 0.
	Priority int `key:"priority"`
	// Pool is the one of Config.Pools whose members alone see the task. Default "", which is everybody.
	Pool string `key:"pool"`
}

// Unsafe switches protections off. Leave it alone outside of experiments.
type Unsafe struct {
	// ReceiveUnverified takes messages in without checking who sent them. Default false.
	ReceiveUnverified bool `key:"receive_unverified"`
	// Plaintext lets websockets without TLS leave this machine: whoever is on the way reads all, and can
	// break connections. Messages stay signed. Only with websocket. Default false.
	Plaintext bool `key:"plaintext"`
	// OpenBroker lets everybody connect who reaches the NATS server of this process: they can read what
	// is not sealed, and drop and repeat messages. Messages stay signed. Only with nats. Default false.
	OpenBroker bool `key:"open_broker"`
}

func (c *Config) setDefaults() {
	c.Store = StoreMemory
	c.Discovery.setDefaults()
	c.Seal = SealOff
	c.Transport = TransportLocal
	c.Signature = SignatureBatch
	c.Audit.setDefaults()
	c.Log = Log{Level: "info", Format: "text"}
	buckets := Buckets{Global: Limit{Rate: Unlimited}, Sender: Limit{Rate: 500, Burst: 1000}, Topic: Limit{Rate: Unlimited}}
	c.Limits = Limits{MessageSize: 1 << 20, Ingress: buckets, Egress: buckets}
}

func (t *Tool) setDefaults() { t.Output = "text" }

func (t *Task) setDefaults() { t.Count = 1 }

func (a *Agent) setDefaults() {
	a.Count = 1
	a.Concurrency = 1
	a.ToolTimeout = Duration(defaultToolTimeout)
}
