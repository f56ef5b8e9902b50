package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/nearest"
)

// envPrefix begins the names of the environment variables that are configuration, with exceptions.
const envPrefix = "CONVERGE_"

// isForeign reports whether a variable is none of ours although it has the prefix: the secret and the
// switch of the tests, and what Kubernetes sets for a service named converge.
func isForeign(name string) bool {
	return name == "CONVERGE_PASSPHRASE" || name == "CONVERGE_REQUIRE_SERVICES" ||
		strings.HasPrefix(name, "CONVERGE_SERVICE_") ||
		name == "CONVERGE_PORT" || strings.HasPrefix(name, "CONVERGE_PORT_")
}

// setting is one value that a variable or a flag gives.
type setting struct {
	source string   // CONVERGE_LOG_LEVEL, --log-level
	path   []string // log, level
	value  string
}

// settings returns the settings of o, those later in the slice to beat the earlier ones. vars are the
// names of the section vars.
func (o Options) settings(vars []string, p *problems) []setting {
	keys := scalarKeys(reflect.TypeFor[Config](), "")
	all := fromEnviron(o.Environ, keys, vars, p)
	for _, name := range slices.Sorted(maps.Keys(o.Vars)) {
		source := "--var " + clip(name)
		if !slices.Contains(vars, name) {
			p.add(place{source: source}, child("vars", name), &Error{Msg: "unknown variable", Hint: suggest(name, "variables", vars)})
			continue
		}
		all = append(all, setting{source, []string{"vars", name}, o.Vars[name]})
	}
	for _, key := range slices.Sorted(maps.Keys(o.Set)) {
		source := "--" + strings.NewReplacer(".", "-", "_", "-").Replace(clip(key))
		if !slices.Contains(keys, key) {
			p.add(place{source: source}, key, &Error{Msg: "unknown setting", Hint: suggest(key, "settings", keys)})
			continue
		}
		all = append(all, setting{source, strings.Split(key, "."), o.Set[key]})
	}
	return all
}

func fromEnviron(environ, keys, vars []string, p *problems) []setting {
	known := map[string][]string{} // paths
	for _, key := range keys {
		path := strings.Split(key, ".")
		known[envName(path...)] = path
	}
	for _, name := range vars {
		known[envName("var", name)] = []string{"vars", name}
	}
	var all []setting
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || isForeign(name) {
			continue
		}
		path, ok := known[name]
		if !ok {
			p.add(place{source: clip(name)}, "", &Error{Msg: "unknown environment variable", Hint: suggestEnv(name, known)})
			continue
		}
		all = append(all, setting{name, path, value})
	}
	return all
}

// envName returns the environment variable of a path.
func envName(path ...string) string { return envPrefix + strings.ToUpper(strings.Join(path, "_")) }

// suggestEnv compares names without the prefix that they share.
func suggestEnv(name string, known map[string][]string) string {
	var bare []string
	for _, name := range slices.Sorted(maps.Keys(known)) {
		bare = append(bare, strings.TrimPrefix(name, envPrefix))
	}
	if near := nearest.Name(strings.TrimPrefix(name, envPrefix), bare); near != "" {
		return fmt.Sprintf("did you mean %s%s?", envPrefix, near)
	}
	return "known are " + envPrefix + " with one of: " + strings.Join(bare, ", ")
}

// apply puts a setting into the tree of the file. Where the file has something else than a map on the
// way, that is left for the decoder to refuse.
func (s setting) apply(root *node) {
	at := place{source: s.source}
	value := &node{kind: isText, place: at, text: s.value, loose: true, outside: true}
	last := len(s.path) - 1
	for _, name := range s.path[:last] {
		next := root.table.get(name)
		if next == nil || next.kind == isNull {
			next = &node{kind: isTable, place: at}
			root.table.set(name, at, next)
		}
		if next.kind != isTable {
			return
		}
		root = next
	}
	root.table.set(s.path[last], at, value)
}

// expander replaces the variables in the strings of a tree.
type expander struct {
	problems *problems
	vars     table
	left     int // bytes that may still be put in
}

const literalHint = "write $${ for a literal ${"

// expandTree replaces ${name} in all strings of the file: those of the section vars first, which may
// hold no variables, then the others.
func expandTree(root *node, p *problems) {
	x := &expander{problems: p, left: maxExpanded}
	vars := root.table.get("vars")
	if vars != nil && vars.kind == isTable {
		x.walk(vars, "vars", refuse)
		x.vars = vars.table
	}
	for _, f := range root.table.fields {
		if f.key != "vars" {
			x.walk(f.value, child("", f.key), x.lookup)
		}
	}
}

type lookup func(name string) (*node, *Error)

func refuse(string) (*node, *Error) {
	return nil, &Error{Msg: "a variable's value cannot hold another variable", Hint: literalHint}
}

func (x *expander) lookup(name string) (*node, *Error) {
	v := x.vars.get(name)
	if v == nil {
		var known []string
		for _, f := range x.vars.fields {
			known = append(known, f.key)
		}
		return nil, &Error{
			Msg:  fmt.Sprintf("unknown variable ${%s}", clip(name)),
			Hint: suggest(name, "variables", known) + "; " + literalHint,
		}
	}
	if x.left -= len(v.text); x.left < 0 {
		return nil, &Error{Msg: "too much text once variables are replaced", Hint: fmt.Sprintf("the limit is %d bytes", maxExpanded)}
	}
	return v, nil
}

func (x *expander) walk(n *node, key string, find lookup) {
	for i, element := range n.items {
		x.walk(element, item(key, i), find)
	}
	for _, f := range n.table.fields {
		x.walk(f.value, child(key, f.key), find)
	}
	if n.kind != isText || n.outside {
		return
	}
	if err := n.expand(find); err != nil {
		x.problems.add(n.place, key, err)
	}
}

// expand replaces each ${name} of n's text, from left to right. What it puts in is not looked at again.
func (n *node) expand(find lookup) *Error {
	var out strings.Builder
	rest := n.text
	for {
		before, after, found := strings.Cut(rest, "${")
		if !found {
			break
		}
		if literal, ok := strings.CutSuffix(before, "$"); ok {
			out.WriteString(literal + "${")
			rest = after
			continue
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed {
			return &Error{Msg: "${ without }", Hint: literalHint}
		}
		v, err := find(name)
		if err != nil {
			return err
		}
		out.WriteString(before + v.text)
		rest, n.loose, n.outside = tail, true, n.outside || v.outside
	}
	n.text = out.String() + rest
	return nil
}
