package config_test

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
)

func TestErrorsOfServersNameKeyAndRemedy(t *testing.T) {
	const good = "name: fs, command: [cat], tools: [read]"
	for _, c := range []struct{ server, want, hint string }{
		{"command: [cat], tools: [read]", "mcp[0].name: required", "its tools are called NAME.TOOL"},
		{"name: f.s, command: [cat], tools: [read]", `mcp[0].name: not a server's name: "f.s"`, "use 1 to 64 letters, digits, '_' and '-'"},
		{"name: fs, tools: [read]", "mcp[0]: want a command or a url", "command: [PROGRAM, …] starts one, url: https://… is one elsewhere"},
		{good + ", url: https://x", "mcp[0].url: not together with command", ""},
		{`name: fs, command: [""], tools: [read]`, "mcp[0].command[0]: the program has no name", ""},
		{good + ", token: {env: X}", "mcp[0].token: not together with command", ""},
		{good + ", token: x", "mcp[0].token: a secret does not stand in a configuration", "say where it is: {file: PATH} or {env: VARIABLE}"},
		{"name: fs, url: https://x, tools: [read], dir: .", "mcp[0].dir: not together with url", ""},
		{"name: fs, url: 'ftp://x', tools: [read]", "mcp[0].url: not a URL of a server", `write it such as "https://mcp.example/mcp"`},
		{"name: fs, url: 'https://u:secret@x', tools: [read]", "mcp[0].url: no name and password in a URL", "use token or headers"},
		{"name: fs, url: 'http://x.example', tools: [read]", "mcp[0].url: http to another machine shows all to whoever is on the way", "use https"},
		{"name: fs, url: https://x, tools: [read], headers: {'a b': {env: X}}", `mcp[0].headers."a b": not a header's name`, ""},
		{"name: fs, url: https://x, tools: [read], headers: {X-A: {}}", "mcp[0].headers.X-A: required", "say where it is: {file: PATH} or {env: VARIABLE}"},
		{"name: fs, url: https://x, tools: [read], token: {env: X}, headers: {authorization: {env: Y}}", "mcp[0].headers.authorization: not together with token", ""},
		{"name: fs, command: [cat]", "mcp[0].tools: required", "name those that agents may be allowed; `converge mcp inspect` lists what the server offers"},
		{"name: fs, command: [cat], tools: [a b]", `mcp[0].tools[0]: not a tool's name together with the server's: "a b"`, "use 1 to 128 letters, digits, '_', '-' and '.'"},
		{"name: fs, command: [cat], tools: [read, read]", `mcp[0].tools[1]: "read" is given twice`, ""},
		{"name: fs, command: [cat], tools: [taken]", `mcp[0].tools[0]: "fs.taken" is also one of tools`, "give one of them another name"},
		{good + ", pins: {raed: x}", `mcp[0].pins.raed: not one of the tools of "fs": "raed"`, `did you mean "read"?`},
		{good + ", pins: {read: x}", "mcp[0].pins.read: want 64 lower-case hexadecimal digits", "`converge mcp inspect` prints it"},
		{good + ", destructive: {raed: true}", `mcp[0].destructive.raed: not one of the tools of "fs": "raed"`, `did you mean "read"?`},
		{good + ", concurrency: -1", "mcp[0].concurrency: want at least 0, not -1", ""},
		{good + ", max_output: 17MiB", "mcp[0].max_output: want at most 16MiB, not 17MiB", ""},
		{good + ", env: {'a=b': c}", `mcp[0].env."a=b": not an environment variable's name`, ""},
		{good + `, read: [""]`, "mcp[0].read[0]: want a file or a folder", `"." is the current directory`},
		{good + ", network: true, unsafe_no_sandbox: true", "mcp[0].network: not together with unsafe_no_sandbox", ""},
		{"name: fs, url: https://x, tools: [read], network: true", "mcp[0].network: not together with url", ""},
		{good + "}, {" + good, `mcp[1].name: "fs" is given twice`, ""},
	} {
		text := "network: n\ntools: {fs.taken: {command: [cat]}}\nmcp: [{" + c.server + "}]\n"
		_, err := config.Parse("c.yaml", []byte(text), config.Options{})
		list := problems(t, err)
		if len(list) == 0 {
			t.Errorf("%s is accepted", c.server)
			continue
		}
		_, got, _ := strings.Cut(list[0].Error(), ": ")
		if got != c.want || list[0].Hint != c.hint || list[0].Line != 3 {
			t.Errorf("%s\ngot  %s", c.server, describe(list))
		}
	}
}

func TestToolsOfServersMayBeAllowed(t *testing.T) {
	const text = `network: n
mcp: [{name: fs, command: [cat], tools: [read]}]
agents: [{name: w, kind: worker, tools: [fs.%s], capabilities: {reading: fs.%[1]s}}]
`
	c, err := config.Parse("c.yaml", []byte(strings.ReplaceAll(strings.ReplaceAll(text, "%s", "read"), "%[1]s", "read")), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if server, name, ok := c.MCPTool("fs.read"); !ok || server.Name != "fs" || name != "read" {
		t.Errorf("%v, %q, %v", server, name, ok)
	}
	_, err = config.Parse("c.yaml", []byte(strings.ReplaceAll(strings.ReplaceAll(text, "%s", "write"), "%[1]s", "write")), config.Options{})
	if list := problems(t, err); len(list) != 2 || list[0].Msg != `unknown tool "fs.write"` || list[0].Hint != `did you mean "fs.read"?` {
		t.Errorf("got %s", describe(list))
	}
}
