package config

// tool checks a tool, which is a command, a WASI module or an HTTP call.
func (k checker) tool(name string, t Tool) {
	key := child("tools", name)
	if !isName(name) {
		k.bad(key, nameHint, "not a tool's name")
	}
	k.notNegative(child(key, "timeout"), t.Timeout)
	k.atLeast(child(key, "concurrency"), t.Concurrency, 0)
	if t.MaxOutput < 0 || t.MaxOutput > 1<<30 {
		k.bad(child(key, "max_output"), "", "want at most 1GiB, not %s", t.MaxOutput)
	}
	isCommand := len(t.Command) > 0
	isWASM := t.isWASM() || k.origin.given(child(key, "wasm"))
	isHTTP := t.isHTTP() || k.origin.given(child(key, "http"))
	switch {
	case isCommand && isWASM:
		k.bad(child(key, "wasm"), oneKind, "not together with command")
	case (isCommand || isWASM) && isHTTP:
		k.bad(child(key, "http"), oneKind, "not together with command or wasm")
	case isWASM:
		k.onlyCommand(key)
		k.wasm(child(key, "wasm"), t.WASM)
	case isHTTP:
		k.onlyCommand(key)
		k.http(child(key, "http"), t.HTTP)
	case !isCommand:
		k.bad(child(key, "command"), "name the program and its arguments, such as [wc, -l]; or give wasm or http instead", "required")
	default:
		k.command(key, t)
	}
}

const oneKind = "a tool is one of command, wasm and http"

// onlyCommand refuses keys that say something about commands.
func (k checker) onlyCommand(key string) {
	for _, name := range []string{"stdin", "stdin_file", "env", "pass_env", "dir", "paths", "output", "log_stderr",
		"read", "write", "network", "unix_sockets", "limits", "require_sandbox", "unsafe_no_sandbox"} {
		if k.origin.given(child(key, name)) {
			k.bad(child(key, name), "", "only for a tool with command")
		}
	}
}

// completeTools makes paths of the file whole.
func (c *Config) completeTools() {
	for name, t := range c.Tools {
		at := child("tools", name)
		t.WASM.Module = c.origin.path(child(child(at, "wasm"), "module"), t.WASM.Module)
		for header, s := range t.HTTP.SecretHeaders {
			s.File = c.origin.path(child(child(child(child(at, "http"), "secret_headers"), header), "file"), s.File)
			t.HTTP.SecretHeaders[header] = s
		}
		c.Tools[name] = t
	}
}
