package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

func TestErrorsOfToolsNamePlaceKeyAndHint(t *testing.T) {
	const kinds = "a tool is one of command, wasm and http"
	sum := "`sha256sum FILE` prints it"
	for _, c := range []struct{ tool, at, want, hint string }{
		{"{command: [x], wasm: {module: x}}", "2:27", "tools.t.wasm: not together with command", kinds},
		{"{command: [x], http: {url: x}}", "2:27", "tools.t.http: not together with command or wasm", kinds},
		{"{wasm: {module: x}, http: {}}", "2:32", "tools.t.http: not together with command or wasm", kinds},
		{"{wasm: {module: x}, stdin: y}", "2:39", "tools.t.stdin: only for a tool with command", ""},
		{"{http: {url: https://x.example}, network: true}", "2:54", "tools.t.network: only for a tool with command", ""},
		{"{http: {url: https://x.example}, destructive: maybe}", "2:58", `tools.t.destructive: want true or false, not "maybe"`, ""},

		{"{command: [x], read: [a, \"\"]}", "2:37", "tools.t.read[1]: want a file or a folder", `"." is the current directory`},
		{"{command: [x], write: [\"\"]}", "2:35", "tools.t.write[0]: want a file or a folder", `"." is the current directory`},
		{"{command: [x], limits: {open_files: -1}}", "2:48", "tools.t.limits.open_files: want at least 0, not -1", ""},
		{"{command: [x], limits: {memroy: 1MiB}}", "2:36", "tools.t.limits.memroy: unknown key", `did you mean "memory"?`},
		{"{command: [x], limits: {cpu: 5}}", "2:41", `tools.t.limits.cpu: want a duration such as "30s" or "1h30m", not "5"`, `write "5s" for seconds`},
		{"{command: [x], unsafe_no_sandbox: true, read: [a]}", "2:52", "tools.t.read: not together with unsafe_no_sandbox", "leave one of them out"},

		{"{wasm: {}}", "2:13", "tools.t.wasm.module: required", "name the file, such as tools/count.wasm"},
		{"{wasm: {module: x, sha256: abc}}", "2:39", `tools.t.wasm.sha256: want 64 hex digits, not "abc"`, sum},
		{"{wasm: {module: x, memory: 1KiB}}", "2:39", "tools.t.wasm.memory: want 64KiB to 4GiB, not 1KiB", ""},
		{"{wasm: {module: x, output: word}}", "2:39", `tools.t.wasm.output: unknown value "word"`, "known values: text, json, bytes"},
		{"{wasm: {module: x, mounts: [{at: /d}]}}", "2:40", "tools.t.wasm.mounts[0].dir: required", `"." is the current directory`},
		{"{wasm: {module: x, mounts: [{dir: d}]}}", "2:40", "tools.t.wasm.mounts[0].at: required", "say where the module finds it, such as /data"},
		{"{wasm: {module: x, mounts: [{dir: d, at: d}]}}", "2:53", `tools.t.wasm.mounts[0].at: want an absolute path, not "d"`, "write it such as /data"},
		{"{wasm: {module: x, mounts: [{dir: d, at: /d}, {dir: e, at: /d}]}}", "2:71", `tools.t.wasm.mounts[1].at: "/d" is given twice`, ""},

		{"{http: {}}", "2:13", "tools.t.http.url: required", ""},
		{"{http: {url: http://x.example}}", "2:25", "tools.t.http.url: http is not allowed", "use https, or set unsafe_http to send all in the clear"},
		{"{http: {url: x.example}}", "2:25", `tools.t.http.url: want an https address, not "x.example"`, "write it such as https://api.example.com/v1/{id}"},
		{"{http: {url: \"https://{host}/\"}}", "2:25", "tools.t.http.url: placeholder in the host", "a parameter may not choose where the call goes: write a tool for each host"},
		{"{http: {url: https://x.example, method: TRACE}}", "2:52", `tools.t.http.method: unknown value "TRACE"`, "known values: GET, HEAD, POST, PUT, PATCH, DELETE"},
		{"{http: {url: https://x.example, json: {a: 1}, body: b}}", "2:64", "tools.t.http.body: not together with json", ""},
		{"{http: {url: https://x.example, secret_headers: {A: hunter2}}}", "2:64", "tools.t.http.secret_headers.A: a secret does not stand in a configuration", "say where it is: {file: PATH} or {env: VARIABLE}"},
		{"{http: {url: https://x.example, secret_headers: {A: {prefix: b}}}}", "2:61", "tools.t.http.secret_headers.A: want a secret", "say where it is: {file: PATH} or {env: VARIABLE}"},
		{"{http: {url: https://x.example, private_addresses: [10.0.0.0/33]}}", "2:64", `tools.t.http.private_addresses[0]: not a network or address: "10.0.0.0/33"`, "write it such as 10.1.0.0/16 or 127.0.0.1"},
	} {
		t.Run(c.tool, func(t *testing.T) {
			expectOne(t, "converge.yaml", lines("network: n", "tools: {t: "+c.tool+"}"), "converge.yaml:"+c.at+": "+c.want, c.hint)
		})
	}
}

func TestToolsOfAllKinds(t *testing.T) {
	yaml := `network: n
vars: {dir: data}
tools:
  count:
    command: [wc, -l, --, "{f}"]
    paths: {f: "${dir}"}
    read: [/opt/words]
    write: [out]
    network: true
    unix_sockets: true
    limits: {cpu: 10s, memory: 512MiB, address_space: 8GiB, file_size: 1MiB, open_files: 64, processes: 100}
    require_sandbox: true
  free: {command: [ls], unsafe_no_sandbox: true, destructive: true}
  module:
    wasm:
      module: tools/m.wasm
      args: [a]
      env: {A: b}
      schema: {type: object, required: [x]}
      memory: 1MiB
      mounts: [{dir: "${dir}", at: /data, write: true}]
      clock: true
      random: true
      output: json
  call:
    http:
      url: https://api.example.com/{id}
      headers: {Accept: text/plain}
      secret_headers: {Authorization: {file: token, prefix: "Bearer "}}
      json: {a: ["{id}", 1]}
      hosts: [cdn.example.com]
      private_addresses: [10.0.0.0/8]
`
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(file, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]config.Tool{
		"count": {Command: []string{"wc", "-l", "--", "{f}"}, Paths: map[string]string{"f": "data"}, Output: "text", Sandbox: config.Sandbox{
			Read: []string{"/opt/words"}, Write: []string{"out"}, Network: true, UnixSockets: true, RequireSandbox: true, Limits: config.ToolLimits{
				CPU: config.Duration(10 * time.Second), Memory: 512 << 20, AddressSpace: 8 << 30, FileSize: 1 << 20, OpenFiles: 64, Processes: 100}}},
		"free": {Command: []string{"ls"}, Output: "text", Destructive: true, Sandbox: config.Sandbox{UnsafeNoSandbox: true}},
		"module": {Output: "text", WASM: config.WASM{Module: filepath.Join(dir, "tools", "m.wasm"), Args: []string{"a"}, Env: map[string]string{"A": "b"},
			Schema: map[string]any{"type": "object", "required": []any{"x"}}, Memory: 1 << 20, Mounts: []config.Mount{{Dir: "data", At: "/data", Write: true}},
			Clock: true, Random: true, Output: "json"}},
		"call": {Output: "text", HTTP: config.HTTP{URL: "https://api.example.com/{id}", Headers: map[string]string{"Accept": "text/plain"},
			SecretHeaders: map[string]config.SecretHeader{"Authorization": {Secret: config.Secret{File: filepath.Join(dir, "token")}, Prefix: "Bearer "}},
			JSON:          map[string]any{"a": []any{"{id}", int64(1)}}, Hosts: []string{"cdn.example.com"}, PrivateAddresses: []string{"10.0.0.0/8"}}},
	}
	for name, tool := range want {
		if !reflect.DeepEqual(got.Tools[name], tool) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got.Tools[name], tool)
		}
	}
}
