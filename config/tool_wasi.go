package config

import (
	"encoding/hex"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
)

// WASM is a WASI module (preview 1) as a tool. A call's params are its standard input, a JSON object, and its standard
// output is the result. It has nothing of this machine but what is granted here.
type WASM struct {
	// Module is the file, at most 64 MiB; required.
	Module string `key:"module"`
	// SHA256 is what the file's hash has to be, as 64 hex digits. Default "", which takes any.
	SHA256 string `key:"sha256"`
	// Args are the module's arguments, and Env its environment, as they stand.
	Args []string          `key:"args"`
	Env  map[string]string `key:"env"`
	// Schema is the JSON schema of the params. Default: any object.
	Schema map[string]any `key:"schema"`
	// Memory bounds the memory of a call, 64KiB to 4GiB. Default 64MiB.
	Memory Size `key:"memory"`
	// Mounts are the folders that the module sees. Default none.
	Mounts []Mount `key:"mounts"`
	// Clock shows the module what time it is, and lets it sleep. Default false: time stands almost still.
	Clock bool `key:"clock"`
	// Random gives the module randomness. Default false: its random numbers are the same in each call.
	Random bool `key:"random"`
	// Output says what the standard output is: text, json or bytes. Default text.
	Output string `key:"output"`
}

// Mount is a folder that a module sees.
type Mount struct {
	// Dir is the folder, relative to the current directory; required.
	Dir string `key:"dir"`
	// At is the absolute path by which the module knows it; required, and once in a module.
	At string `key:"at"`
	// Write lets the module change what is in it. Default false.
	Write bool `key:"write"`
}

func (t Tool) isWASM() bool { return !reflect.ValueOf(t.WASM).IsZero() }

func (k checker) wasm(key string, w WASM) {
	if w.Module == "" {
		k.bad(child(key, "module"), "name the file, such as tools/count.wasm", "required")
	}
	if sum, err := hex.DecodeString(w.SHA256); w.SHA256 != "" && (err != nil || len(sum) != 32) {
		k.bad(child(key, "sha256"), "`sha256sum FILE` prints it", "want 64 hex digits, not %q", clip(w.SHA256))
	}
	for _, name := range slices.Sorted(maps.Keys(w.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			k.bad(child(child(key, "env"), name), "", "not an environment variable's name")
		}
	}
	if w.Memory != 0 && (w.Memory < 64<<10 || w.Memory > 4<<30) {
		k.bad(child(key, "memory"), "", "want 64KiB to 4GiB, not %s", w.Memory)
	}
	if w.Output != "" {
		k.oneOf(child(key, "output"), w.Output, "text", "json", "bytes")
	}
	places := map[string]bool{}
	for i, m := range w.Mounts {
		k.mount(item(child(key, "mounts"), i), m, places)
	}
}

func (k checker) mount(key string, m Mount, places map[string]bool) {
	if m.Dir == "" {
		k.bad(child(key, "dir"), `"." is the current directory`, "required")
	}
	switch {
	case m.At == "":
		k.bad(child(key, "at"), "say where the module finds it, such as /data", "required")
	case !path.IsAbs(m.At) || path.Clean(m.At) != m.At:
		k.bad(child(key, "at"), "write it such as /data", "want an absolute path, not %q", clip(m.At))
	case places[m.At]:
		k.bad(child(key, "at"), "", "%q is given twice", clip(m.At))
	}
	places[m.At] = true
}
