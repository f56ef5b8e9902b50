//go:build unix

package network_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

// withTool is a network with one tool that serves one task.
func withTool(tool, params string) string {
	return fmt.Sprintf(`
network: tools
tools:
  it: %s
agents:
  - {name: worker, kind: worker, capabilities: {it: it}, tools: [it]}
  - {name: coordinator, kind: coordinator, tasks: [{capability: it, params: %s, attempts: 1}]}
`, tool, params)
}

func TestStartSaysWhatCommandsAreKeptFrom(t *testing.T) {
	log, text := newLog()
	build(t, `
network: tools
tools:
  a: {command: [cat]}
  b: {command: [cat]}
  c: {command: [cat], network: true}
  free: {command: [cat], unsafe_no_sandbox: true}
`, network.Options{Logger: log})
	said := text.String()
	for _, want := range []string{"commands run in a sandbox", `tools="a b"`, "tools=c", "in_force=", "not_in_force=", "UNSAFE: commands run without a sandbox", "tools=free", "UnsafeNoSandbox"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log lacks %s:\n%s", want, said)
		}
	}
	if n := strings.Count(said, "commands run"); n != 3 {
		t.Errorf("%d lines for three sorts of tools:\n%s", n, said)
	}
}

func TestToolThatCanReadKeysIsWarnedOf(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	state := filepath.Join(inside, "state")
	check(t, os.MkdirAll(state, 0o700))
	const may, part, kept = "can read the keys", "part of the folder of state", "kept from the folder of state"
	const secret, from = "can read files with keys", "kept from files with keys"
	secrets := filepath.Join(dir, "secrets")
	check(t, os.Mkdir(secrets, 0o700))
	check(t, os.WriteFile(filepath.Join(secrets, "key"), []byte(strings.Repeat("s", 32)), 0o600))
	for name, c := range map[string]struct{ data, tool, says string }{
		"read":            {state, "command: [cat], read: [" + inside + "]", may},
		"dir":             {state, "command: [cat], dir: " + inside, may},
		"paths beside":    {filepath.Join(dir, "beside"), "command: [cat, --, '{f}'], paths: {f: " + inside + "}", ""},
		"paths around it": {state, "command: [cat, --, '{f}'], paths: {f: " + inside + "}", kept},
		"paths of it":     {state, "command: [cat, --, '{f}'], paths: {f: " + state + "}", may},
		"paths in it":     {inside, "command: [cat, --, '{f}'], paths: {f: " + state + "}", part},
		"a secret":        {state, "command: [cat], read: [" + filepath.Join(secrets, "key") + "]", secret},
		"secrets":         {state, "command: [cat], write: [" + secrets + "]", secret},
		"paths of them":   {state, "command: [cat, --, '{f}'], paths: {f: " + secrets + "}", from},
	} {
		log, text := newLog()
		check(t, build(t, fmt.Sprintf("network: tools\ndata: %s\npolicy: {key: {file: %s}}\ntools: {a: {%s}}\n", c.data, filepath.Join(secrets, "key"), c.tool), network.Options{Logger: log}).Close())
		for _, said := range []string{may, part, kept, secret, from} {
			if strings.Contains(text.String(), said) != (said == c.says) {
				t.Errorf("%s: want %q\n%s", name, c.says, text)
			}
		}
	}
}

// TestKeysAreKeptFromToolsWhoseFolderHoldsThem has a task name the keys of agents, in the folder of state and elsewhere, as
// somebody who can submit tasks, or a model, would. The tasks for each file are not about them either.
func TestKeysAreKeptFromToolsWhoseFolderHoldsThem(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write(t, dir, "a", "sub/b", "keys/other")
	id, err := identity.Generate()
	check(t, err)
	check(t, identity.WriteKeyFile("keys/own.pem", id, nil))
	const text = `
network: tools
data: data
tools:
  cat: {command: [cat, --, "{f}"], paths: {f: .}, output: word}
  list: {command: [ls, -a, --, "{f}"], paths: {f: .}}
  input: {command: [cat], stdin_file: "{f}", paths: {f: .}, output: word}
agents:
  - {name: worker, kind: worker, key: keys/own.pem, tools: [cat, list, input], capabilities: {cat: cat, list: list, input: input}}
  - name: boss
    kind: coordinator
    tasks: [%s]
`
	run := func(tasks string) network.Report {
		n := build(t, fmt.Sprintf(text, tasks), network.Options{})
		r := runJob(t, n)
		check(t, n.Close())
		return r
	}
	r := run(`{capability: cat, each: "**", in: ".", params: {f: "{path}"}}, {name: in, capability: input, each: "**", in: ".", params: {f: "{path}"}}`)
	wantRows(t, r, "a", "keys/other", "sub/b")
	if r.Tasks.Completed != 6 {
		t.Errorf("%+v", r)
	}
	var tasks []string
	for i, path := range []string{".", "data", "data/keys/boss.pem", "data/audit", "sub/../data/keys/boss.pem", "keys/own.pem", "keys"} {
		for _, tool := range []string{"cat", "list", "input"} {
			tasks = append(tasks, fmt.Sprintf("{name: %s-%d, capability: %s, attempts: 1, params: {f: %q}}", tool, i, tool, path))
		}
	}
	r = run(strings.Join(tasks, ", "))
	if r.Tasks.Completed != 0 || r.Tasks.Failed != len(tasks) {
		t.Errorf("%+v\n%v", r.Tasks, r.Table)
	}
	for _, line := range r.Errors {
		if !strings.Contains(line, "invalid params") {
			t.Errorf("%s", line)
		}
	}
}

// TestToolThatCouldAllowItsOwnCallsIsWarnedOf grants what leads to the key of approvals and to the control socket.
func TestToolThatCouldAllowItsOwnCallsIsWarnedOf(t *testing.T) {
	const tools, socket = "network: t\ntools: {a: {command: [cat], %s}}\n", "to the control socket"
	server := func(grants string) string {
		text, _ := serving(t, "")
		return strings.Replace(text, "write: [", grants+", write: [", 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"inside":          {fmt.Sprintf(tools, "write: [DATA/approval.key]"), "part of the folder of state"},
		"link":            {fmt.Sprintf(tools, "read: [LINK]"), "can read the keys"},
		"socket":          {fmt.Sprintf(tools, "unix_sockets: true"), socket},
		"server":          {server("read: [DATA]"), "can read the keys"},
		"server's socket": {server("unix_sockets: true"), socket},
		"none":            {fmt.Sprintf(tools, "network: true"), ""},
	} {
		dir := t.TempDir()
		data, link := filepath.Join(dir, "data"), filepath.Join(dir, "link")
		check(t, os.Mkdir(data, 0o700))
		check(t, os.Symlink(dir, link))
		check(t, os.WriteFile(filepath.Join(data, "approval.key"), []byte(strings.Repeat("0", 64)), 0o600))
		log, text := newLog()
		build(t, strings.NewReplacer("DATA", data, "LINK", link).Replace(c.text)+"data: "+data+"\n", network.Options{Logger: log})
		said := text.String()
		if c.want != "" && !strings.Contains(said, c.want) || c.want == "" && (strings.Contains(said, "keys") || strings.Contains(said, socket)) {
			t.Errorf("%s: want %q\n%s", name, c.want, said)
		}
	}
}

func TestHTTPToolServesTasks(t *testing.T) {
	var auth string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Authorization")
		fmt.Fprint(w, r.URL.Path)
	}))
	defer server.Close()
	t.Setenv("HTTP_TOOL_TOKEN", "hunter2-hunter2")
	log, text := newLog()
	tool := fmt.Sprintf(`{http: {url: '%s/{id}', unsafe_http: true, private_addresses: [127.0.0.1], secret_headers: {authorization: {env: HTTP_TOOL_TOKEN, prefix: "Bearer "}}}}`, server.URL)
	r := runJob(t, build(t, withTool(tool, "{id: a/b}"), network.Options{Logger: log}))
	if r.Tasks.Completed != 1 || auth != "Bearer hunter2-hunter2" {
		t.Errorf("report %+v, authorization %q", r.Tasks, auth)
	}
	if said := text.String(); strings.Contains(said, "hunter2") || !strings.Contains(said, "UNSAFE: calls of a tool may go without TLS") {
		t.Errorf("log:\n%s", said)
	}
}

// TestPrivateAddressIsNotReachedByDefault: a server of this machine is none of a tool's business.
func TestPrivateAddressIsNotReachedByDefault(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	r := runJob(t, build(t, withTool(fmt.Sprintf("{http: {url: '%s', unsafe_http: true}}", server.URL), "{}"), network.Options{}))
	if r.Tasks.Failed != 1 || asked {
		t.Errorf("report %+v, asked %t", r.Tasks, asked)
	}
}

// nothing is a module that returns at once.
const nothing = "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x05\x03\x01\x00\x01\x07\x13\x02\x06_start\x00\x00\x06memory\x02\x00\x0a\x04\x01\x02\x00\x0b"

func TestModuleServesTasks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nothing.wasm")
	if err := os.WriteFile(file, []byte(nothing), 0o600); err != nil {
		t.Fatal(err)
	}
	schema := "schema: {type: object, required: [a]}"
	for params, want := range map[string]int{"{a: 1}": 1, "{b: 1}": 0} {
		r := runJob(t, build(t, withTool(fmt.Sprintf("{wasm: {module: %s, %s}}", file, schema), params), network.Options{}))
		if int(r.Tasks.Completed) != want {
			t.Errorf("%s: report %+v", params, r.Tasks)
		}
	}
	wrong := withTool(fmt.Sprintf("{wasm: {module: %s, sha256: '%s'}}", file, strings.Repeat("0", 64)), "{}")
	if _, err := network.New(context.Background(), parse(t, wrong), network.Options{}); err == nil || !strings.Contains(err.Error(), "not the module that was meant") {
		t.Errorf("another module: %v", err)
	}
}

// TestDestructiveToolAsksFirst: when nobody approves it does not run.
func TestDestructiveToolAsksFirst(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	r := runJob(t, build(t, withTool(fmt.Sprintf("{command: [touch, %s], write: [%s], destructive: true}", mark, filepath.Dir(mark)), "{}")+"policy: {timeout: 1s}\n", network.Options{}))
	if _, err := os.Stat(mark); r.Tasks.Failed != 1 || err == nil {
		t.Errorf("report %+v, mark %v", r.Tasks, err)
	}
}

func TestErrorsOfToolsNameTheirKey(t *testing.T) {
	for tool, want := range map[string]string{
		"{command: [cat], read: [/none]}":                                               `tools.it.read[0]: "/none": no such file`,
		"{command: [cat], write: [/none]}":                                              `tools.it.write[0]: "/none": no such file`,
		"{wasm: {module: /none}}":                                                       `tools.it: wasm tool "it": field File "/none": no such file`,
		"{wasm: {module: /none, schema: {type: 1}}}":                                    "tools.it.wasm.schema: not a JSON schema",
		"{wasm: {module: x, mounts: [{dir: /none, at: /d}]}}":                           `tools.it.wasm.mounts[0].dir: folder "/none"`,
		"{http: {url: https://x.example, secret_headers: {A: {env: HTTP_TOOL_UNSET}}}}": "variable HTTP_TOOL_UNSET is empty",
	} {
		c, err := config.Parse("c.yaml", []byte(withTool(tool, "{}")), config.Options{})
		check(t, err)
		_, err = network.New(t.Context(), c, network.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v; want %s", tool, err, want)
		}
	}
}

// TestSecretFilesAreKeptFromToolsWhoseFolderHoldsThem has a task name the files of a configuration's secrets, with which a call
// could be allowed, or a pool joined.
func TestSecretFilesAreKeptFromToolsWhoseFolderHoldsThem(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, ".", "a")
	for _, name := range []string{"approvals.key", "pool.token", "model.key", "header.key"} {
		check(t, os.WriteFile(name, []byte(strings.Repeat("s", 32)), 0o600))
	}
	log, text := newLog()
	n := build(t, `
network: tools
data: `+t.TempDir()+`
policy: {key: {file: approvals.key}}
pools: [{name: crew, token: {file: pool.token}}]
models: {m: {provider: openai, model: m, base_url: "https://models.example/v1", api_key: {file: model.key}}}
tools:
  cat: {command: [cat, --, "{f}"], paths: {f: .}}
  input: {command: [cat], stdin_file: "{f}", paths: {f: .}}
  get: {http: {url: "https://tools.example/", secret_headers: {Authorization: {file: header.key}}}}
agents:
  - {name: worker, kind: worker, tools: [cat, input], capabilities: {cat: cat, input: input}}
  - name: boss
    kind: coordinator
    tasks:
      - {capability: cat, each: "*", in: ., params: {f: "{path}"}}
      - {name: cat-key, capability: cat, attempts: 1, params: {f: approvals.key}}
      - {name: input-key, capability: input, attempts: 1, params: {f: approvals.key}}
      - {name: token, capability: cat, attempts: 1, params: {f: pool.token}}
      - {name: model, capability: cat, attempts: 1, params: {f: model.key}}
      - {name: header, capability: input, attempts: 1, params: {f: ./header.key}}
`, network.Options{Logger: log})
	if n := strings.Count(text.String(), "kept from files with keys or secrets"); n != 2 {
		t.Errorf("%d tools are said to be kept from them", n)
	}
	r := runJob(t, n)
	check(t, n.Close())
	if r.Tasks.Completed != 1 || r.Tasks.Failed != 5 {
		t.Errorf("%+v\n%v", r.Tasks, r.Table)
	}
	for _, line := range r.Errors {
		if !strings.Contains(line, "invalid params") {
			t.Errorf("%s", line)
		}
	}
}
