package config

import (
	"bytes"
	_ "embed" // for the template
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/converge-agents/converge/internal/ondisk"
)

// Options are what beats a file.
type Options struct {
	// Vars are values for ${name}, from flags "--var name=value". The file has to know the names.
	Vars map[string]string
	// Set are values by key, from flags: "log.level" to "debug". It reaches the single values outside
	// of lists, tools and agents. Errors call the flag "--log-level".
	Set map[string]string
	// Environ are the environment variables, each "NAME=value"; nil are none. Those that begin with
	// CONVERGE_ have to be known, except for CONVERGE_PASSPHRASE, CONVERGE_REQUIRE_SERVICES, and what
	// Kubernetes sets for a service named converge.
	Environ []string
}

// Load reads the file, whose name ends in .yaml, .yml or .toml, and applies the options. Its errors are
// one or several [*Error]; that of a missing file wraps [fs.ErrNotExist].
func Load(path string, opts Options) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, opts)
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err == nil {
		defer file.Close()
		var data []byte
		data, err = io.ReadAll(io.LimitReader(file, maxFile+1)) // Parse refuses what is longer
		if err == nil {
			return data, nil
		}
	}
	e := &Error{File: path, Msg: ondisk.WithoutPath(err).Error(), Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		e.Msg, e.Hint = "there is no such file", "`converge init` writes one to begin with"
	}
	return nil, e
}

// Parse is [Load] for a file that was read already: data is its content of at most 1 MiB, and name says
// its format, where it lies, and what errors call it.
func Parse(name string, data []byte, opts Options) (*Config, error) {
	p := &problems{file: name}
	root, e := parse(name, data)
	if e != nil {
		p.add(place{line: e.Line, column: e.Column}, e.Key, e)
		return nil, p.err()
	}
	for _, s := range opts.settings(varNames(root), p) {
		s.apply(root)
	}
	expandTree(root, p)
	c := &Config{origin: origin{name, map[string]*node{}}}
	d := &decoder{p, c.origin.nodes}
	d.decode(root, reflect.ValueOf(c).Elem(), "")
	if err := p.err(); err != nil {
		return nil, err // what is checked below would be half of it
	}
	c.complete()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// parse reads the tree of a file.
func parse(name string, data []byte) (*node, *Error) {
	if len(data) > maxFile {
		return nil, &Error{Msg: fmt.Sprintf("larger than %d bytes", maxFile)}
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if err := checkUTF8(text); err != nil {
		return nil, err
	}
	switch ext := strings.ToLower(filepath.Ext(name)); ext {
	case ".yaml", ".yml":
		return parseYAML(text)
	case ".toml":
		return parseTOML(text)
	default:
		return nil, &Error{Msg: fmt.Sprintf("unknown format %q", ext), Hint: "name the file .yaml, .yml or .toml"}
	}
}

func checkUTF8(text string) *Error {
	for offset := 0; offset < len(text); {
		c, size := utf8.DecodeRuneInString(text[offset:])
		if c == utf8.RuneError && size == 1 {
			place := (&cursor{data: text, line: 1}).at(offset)
			return at(place, &Error{Msg: "the text is not UTF-8"})
		}
		offset += size
	}
	return nil
}

func varNames(root *node) []string {
	var names []string
	if vars := root.table.get("vars"); vars != nil {
		for _, f := range vars.table.fields {
			names = append(names, f.key)
		}
	}
	return names
}

// origin is where the keys of a Config were read.
type origin struct {
	file  string
	nodes map[string]*node
}

// place returns where the key stands, or what it would stand in.
func (o origin) place(key string) place {
	for {
		if n := o.nodes[key]; n != nil {
			return n.place
		}
		if key == "" {
			return place{}
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
}

// given reports whether the key was given a value.
func (o origin) given(key string) bool { return o.nodes[key] != nil }

// path returns a path of the file relative to the current directory; see the package's comment.
func (o origin) path(key, path string) string {
	if path == "" || filepath.IsAbs(path) || o.nodes[key] == nil || o.nodes[key].outside {
		return path
	}
	return filepath.Join(filepath.Dir(o.file), path)
}

// complete fills in the defaults that depend on other values, and makes paths of the file whole.
func (c *Config) complete() {
	c.Policy.complete(c.origin)
	for _, b := range []*Buckets{&c.Limits.Ingress, &c.Limits.Egress} {
		for _, l := range []*Limit{&b.Global, &b.Sender, &b.Topic} {
			if l.Burst == 0 && !l.Rate.IsUnlimited() {
				l.Burst = max(1, int(math.Ceil(float64(l.Rate))))
			}
		}
	}
	files := c.NATS.files()
	files["data"], files["websocket.ca"] = &c.Data, &c.WebSocket.CA
	files["statements"], files["postgres.password.file"] = &c.Statements, &c.Postgres.Password.File
	files["policy.key.file"] = &c.Policy.Key.File
	files["audit.dir"] = &c.Audit.Dir
	for i := range c.Pools {
		files[item("pools", i)+".token.file"] = &c.Pools[i].Token.File
	}
	c.completeTools()
	for key, path := range files {
		*path = c.origin.path(key, *path)
	}
	for name, m := range c.Models {
		c.Models[name] = m.complete(c.origin, child("models", name))
	}
	for i := range c.MCP {
		c.MCP[i].complete(c.origin, item("mcp", i))
	}
	for i := range c.Agents {
		c.Agents[i].complete(c.origin, item("agents", i))
	}
}

func (a *Agent) complete(o origin, key string) {
	a.Key = o.path(child(key, "key"), a.Key)
	a.InstructionsFile = o.path(child(key, "instructions_file"), a.InstructionsFile)
	for i := range a.Tasks {
		if a.Tasks[i].Name == "" {
			a.Tasks[i].Name = a.Tasks[i].Capability
		}
	}
}

//go:embed template.yaml
var template []byte

// Template returns a commented file for a first network of that name (see message.CheckNetwork): a
// coordinator and two workers that count the lines of the files in a folder.
func Template(network string) []byte {
	return bytes.Replace(template, []byte(`"quickstart"`), []byte(strconv.Quote(network)), 1)
}
