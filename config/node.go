package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/converge-agents/converge/internal/names"
)

// Bounds of a file, so that neither a slip nor a hostile file takes the machine.
const (
	maxFile     = 1 << 20 // bytes
	maxTokens   = 50_000  // YAML tokens; the parsers' cost grows with the square of a map's keys
	maxNodes    = 50_000  // values, those that YAML aliases repeat included
	maxDepth    = 64      // levels
	maxExpanded = 4 << 20 // bytes that variables add
)

type nodeKind uint8

const (
	isNull nodeKind = iota
	isBool
	isInt
	isFloat
	isText
	isList
	isTable
)

// node is a value of a file, of whichever format, and where it stands.
type node struct {
	kind  nodeKind
	place place
	text  string // of a scalar: true or false, the digits as written, or the string
	items []*node
	table table

	loose   bool // the text stands for any scalar: it comes from outside of the file or holds a variable
	outside bool // a flag or the environment gave it, or a variable in it
}

// table is the content of a node of kind isTable, in the order of the file.
type table struct {
	fields []*field
	index  map[string]*field
}

type field struct {
	key   string
	place place
	value *node
}

func (t *table) get(key string) *node {
	if f := t.index[key]; f != nil {
		return f.value
	}
	return nil
}

// set adds a field or replaces its value.
func (t *table) set(key string, at place, value *node) {
	if f := t.index[key]; f != nil {
		f.value = value
		return
	}
	if t.index == nil {
		t.index = map[string]*field{}
	}
	f := &field{key, at, value}
	t.fields = append(t.fields, f)
	t.index[key] = f
}

// integer reads the digits of a number, in any base that YAML and TOML share with Go.
func (n *node) integer() (int64, error) {
	base := 0
	if n.loose {
		base = 10
	}
	return strconv.ParseInt(n.digits(), base, 64)
}

func (n *node) digits() string {
	if n.loose {
		return n.text
	}
	return strings.ReplaceAll(n.text, "_", "")
}

// scalarText returns a scalar for one of the text forms of this package: whole numbers in base 10.
func (n *node) scalarText() string {
	if n.kind == isInt {
		if i, err := n.integer(); err == nil {
			return strconv.FormatInt(i, 10)
		}
	}
	if n.kind == isFloat {
		return n.digits()
	}
	return n.text
}

// plain returns the value in the types of JSON.
func (n *node) plain() (any, *Error) {
	switch n.kind {
	case isBool:
		return n.text == "true", nil
	case isInt:
		if i, err := n.integer(); err == nil {
			return i, nil
		}
		u, err := strconv.ParseUint(n.digits(), 0, 64)
		return u, n.unlessJSON(err == nil)
	case isFloat:
		f, err := strconv.ParseFloat(n.digits(), 64)
		return f, n.unlessJSON(err == nil && !math.IsInf(f, 0) && !math.IsNaN(f))
	case isText:
		return n.text, nil
	}
	return nil, nil
}

func (n *node) unlessJSON(ok bool) *Error {
	if ok {
		return nil
	}
	return &Error{Msg: "want a number that JSON can hold, not " + n.describe()}
}

// describe says what the node is, for an error about it.
func (n *node) describe() string {
	switch n.kind {
	case isNull:
		return "an empty value"
	case isText:
		return strconv.Quote(clip(n.text))
	case isList:
		return "a list"
	case isTable:
		return "a map"
	}
	return clip(n.text)
}

// child and item are the keys of what is inside of the value with the given key.
func child(key, name string) string {
	if !names.Is(name, len(name), "_-") {
		name = strconv.Quote(clip(name))
	}
	if key == "" {
		return name
	}
	return key + "." + name
}

func item(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }
