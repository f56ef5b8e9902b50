//go:build unix

package network_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

// shipped says how each configuration that is shipped is started, besides as it stands.
var shipped = map[string]struct {
	vars    map[string]string
	alone   bool   // without the servers that it shares with others
	refused string // why it is not to start here
}{
	"examples/quickstart/converge.yaml": {},
	"examples/durable/converge.yaml":    {vars: map[string]string{"data": "examples/durable/state"}},
	"examples/cluster/coordinator.yaml": {alone: true},
	"examples/cluster/worker.yaml":      {alone: true},
	"examples/llm/converge.yaml":        {vars: map[string]string{"base_url": "http://127.0.0.1:1/v1"}},
	"examples/mcp/converge.yaml":        {refused: `start mcp server "fs"`}, // there is no such program; it would be asked once all is checked
	"examples/mcp/refused.yaml":         {refused: `start mcp server "fs"`},
	"examples/mcp/denied.yaml":          {refused: `tool "fs.write_file" is not on this agent's allowlist`},
	"examples/two-machines/coordinator.yaml": {vars: map[string]string{
		"worker_a": strings.Repeat("a", 64), "worker_b": strings.Repeat("b", 64),
	}},
	"examples/two-machines/worker.yaml": {vars: map[string]string{
		"host": strings.Repeat("a", 64), "coordinator": strings.Repeat("b", 64),
	}},
	"converge.yaml": {}, // what `converge init` writes
}

// shared is what a configuration says of servers that others have to be there for.
var shared = regexp.MustCompile(`(?m)^(transport|listen|store): .*\n|^nats:\n(  .*\n)+`)

// tree copies the configurations that are shipped, with what they are about, and goes there.
func tree(t *testing.T) {
	t.Helper()
	root, err := filepath.Abs("..")
	check(t, err)
	dir := t.TempDir()
	check(t, fs.WalkDir(os.DirFS(root), "examples", func(path string, d fs.DirEntry, err error) error {
		switch filepath.Ext(path) {
		case ".yaml", ".txt", ".go", ".md":
			text, err := os.ReadFile(filepath.Join(root, path))
			check(t, err)
			write(t, dir, path)
			return os.WriteFile(filepath.Join(dir, path), text, 0o644)
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "data") {
			return fs.SkipDir
		}
		return err
	}))
	t.Chdir(dir)
	write(t, dir, "README.md", "docs/decisions/001.md", "examples/mcp/node_modules/server.js", "bin/node")
	check(t, os.WriteFile("converge.yaml", config.Template("demo"), 0o644))
	check(t, os.WriteFile("bin/node", []byte("#!/bin/sh\nexit 1\n"), 0o755))
	check(t, os.WriteFile("examples/cluster/pool.token", []byte(strings.Repeat("t", 32)), 0o600))
	check(t, os.Mkdir("examples/two-machines/keys", 0o700))
	for _, name := range []string{"host", "coordinator", "worker-a"} {
		id, err := identity.Generate()
		check(t, err)
		check(t, identity.WriteKeyFile("examples/two-machines/keys/"+name+".pem", id, nil))
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("OPENAI_API_KEY", "sk-of-nobody")
}

// unsafe is said of a configuration that lets tools get at keys, or allow their own calls.
var unsafe = regexp.MustCompile(`level=WARN.*(keys|folder of state|control socket)`)

// TestShippedConfigurationsLetNoToolGetAtKeys starts every configuration that is shipped as a user would, in a folder that
// holds all of them, keys and state included.
func TestShippedConfigurationsLetNoToolGetAtKeys(t *testing.T) {
	tree(t)
	found := []string{"converge.yaml"}
	check(t, filepath.WalkDir("examples", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".yaml" {
			found = append(found, path)
		}
		return err
	}))
	if len(found) != len(shipped) {
		t.Errorf("%d configurations are shipped, and %d are tested", len(found), len(shipped))
	}
	for _, path := range found {
		t.Run(path, func(t *testing.T) { startShipped(t, path) })
	}
}

func startShipped(t *testing.T, path string) {
	how, known := shipped[path]
	if !known {
		t.Fatal("say how it is started")
	}
	text, err := os.ReadFile(path)
	check(t, err)
	if how.alone {
		text = shared.ReplaceAll(text, nil)
	}
	c, err := config.Parse(path, text, config.Options{Vars: how.vars})
	if err == nil {
		log, said := newLog()
		var n *network.Network
		if n, err = network.New(t.Context(), c, network.Options{Logger: log}); err == nil {
			defer n.Close()
		}
		if line := unsafe.FindString(said.String()); line != "" {
			t.Error(line)
		}
	}
	if how.refused == "" {
		check(t, err)
	} else {
		wantError(t, err, how.refused)
	}
}

// TestQuickstartDoesItsWorkBesideItsKeys runs what the README runs, and what `converge init` writes, in the folder that holds the state
// too.
func TestQuickstartDoesItsWorkBesideItsKeys(t *testing.T) {
	tree(t)
	for path, rows := range map[string]string{"examples/quickstart/converge.yaml": "README.md", "converge.yaml": "converge.yaml"} {
		c, err := config.Load(path, config.Options{})
		check(t, err)
		log, text := newLog()
		n, err := network.New(t.Context(), c, network.Options{Logger: log})
		check(t, err)
		defer n.Close()
		r := runJob(t, n)
		if r.Tasks.Failed > 0 || r.Tasks.Completed == 0 || !strings.Contains(strings.Join(rowsOf(r), " "), rows) {
			t.Errorf("%s: %+v %v\n%s", path, r.Tasks, r.Table, text)
		}
		if line := unsafe.FindString(text.String()); line != "" {
			t.Error(line)
		}
	}
}
