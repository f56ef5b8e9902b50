package config

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML reads a TOML document. The first pass builds the tree with its places, forgivingly; the
// second, by the library's own decoder, holds the document against all rules of the format.
func parseTOML(data string) (*node, *Error) {
	r := &tomlReader{cursor: cursor{data: data, line: 1}}
	root, err := r.read()
	if err != nil {
		return nil, err
	}
	var ignored map[string]any
	if err := toml.Unmarshal([]byte(data), &ignored); err != nil {
		return nil, r.syntax(err)
	}
	if err := r.parser.Error(); err != nil {
		return nil, &Error{Msg: err.Error()}
	}
	return root, nil
}

// syntax takes message and place out of the library's error.
func (r *tomlReader) syntax(err error) *Error {
	detail, ok := errors.AsType[*toml.DecodeError](err)
	if !ok {
		return &Error{Msg: strings.TrimPrefix(err.Error(), "toml: ")}
	}
	e := &Error{Msg: strings.TrimPrefix(detail.Error(), "toml: ")}
	for _, name := range detail.Key() {
		e.Key = child(e.Key, name)
	}
	line, column := detail.Position() // in bytes
	return at(place{line: line, column: r.columnOf(line, column)}, e)
}

func (r *tomlReader) columnOf(line, bytes int) int {
	lines := strings.SplitAfter(r.cursor.data, "\n")
	if line < 1 || line > len(lines) {
		return bytes
	}
	text := lines[line-1]
	return utf8.RuneCountInString(text[:min(max(bytes-1, 0), len(text))]) + 1
}

type tomlReader struct {
	parser unstable.Parser
	cursor cursor
	nodes  int // made so far
}

func (r *tomlReader) read() (*node, *Error) {
	r.parser.Reset([]byte(r.cursor.data))
	root := &node{kind: isTable, place: place{line: 1, column: 1}}
	current := root
	for r.parser.NextExpression() {
		e := r.parser.Expression()
		var err *Error
		switch e.Kind {
		case unstable.KeyValue:
			err = r.assign(current, e, 1)
		case unstable.Table, unstable.ArrayTable:
			current, err = r.header(root, e)
		}
		if err != nil {
			return nil, err
		}
	}
	return root, nil
}

// header returns the table that [a.b] or [[a.b]] opens.
func (r *tomlReader) header(root *node, e *unstable.Node) (*node, *Error) {
	parent, name, p, err := r.walk(root, e.Key(), 1)
	if err != nil {
		return nil, err
	}
	existing := parent.table.get(name)
	if e.Kind == unstable.Table {
		if existing == nil {
			existing, err = r.make(isTable, p)
			parent.table.set(name, p, existing)
		}
		return existing, err
	}
	if existing == nil {
		if existing, err = r.make(isList, p); err != nil {
			return nil, err
		}
		parent.table.set(name, p, existing)
	}
	element, err := r.make(isTable, p)
	existing.items = append(existing.items, element)
	return element, err
}

// assign puts key = value into a table.
func (r *tomlReader) assign(into *node, e *unstable.Node, depth int) *Error {
	parent, name, p, err := r.walk(into, e.Key(), depth)
	if err != nil {
		return err
	}
	value, err := r.value(e.Value(), p, depth+1)
	if err == nil && parent.table.get(name) == nil { // twice is for the second pass to refuse
		parent.table.set(name, p, value)
	}
	return err
}

// walk goes down a dotted key, makes the tables that are missing, and returns the table that the last
// part is in, with that part.
func (r *tomlReader) walk(into *node, parts unstable.Iterator, depth int) (*node, string, place, *Error) {
	for parts.Next() {
		part := parts.Node()
		name, p := string(part.Data), r.cursor.at(int(part.Raw.Offset))
		if depth++; depth > maxDepth {
			return nil, "", p, tooDeep(p)
		}
		if parts.IsLast() {
			return into, name, p, nil
		}
		next := into.table.get(name)
		if next != nil && next.kind == isList && len(next.items) > 0 {
			next = next.items[len(next.items)-1]
		}
		if next == nil || next.kind != isTable {
			made, err := r.make(isTable, p)
			if err != nil {
				return nil, "", p, err
			}
			if next == nil { // a scalar in the way is for the second pass to refuse
				into.table.set(name, p, made)
			}
			next = made
		}
		into = next
	}
	return into, "", place{}, nil
}

func (r *tomlReader) value(n *unstable.Node, p place, depth int) (*node, *Error) {
	if depth > maxDepth {
		return nil, tooDeep(p)
	}
	switch n.Kind {
	case unstable.InlineTable:
		return r.inline(n, p, depth)
	case unstable.Array:
		return r.array(n, p, depth)
	}
	made, err := r.make(tomlKind(n.Kind), r.cursor.at(int(n.Raw.Offset)))
	if err == nil {
		made.text = string(n.Data)
	}
	return made, err
}

func (r *tomlReader) inline(n *unstable.Node, p place, depth int) (*node, *Error) {
	made, err := r.make(isTable, p)
	for pairs := n.Children(); err == nil && pairs.Next(); {
		err = r.assign(made, pairs.Node(), depth)
	}
	return made, err
}

func (r *tomlReader) array(n *unstable.Node, p place, depth int) (*node, *Error) {
	made, err := r.make(isList, p)
	for elements := n.Children(); err == nil && elements.Next(); {
		var value *node
		value, err = r.value(elements.Node(), p, depth+1)
		made.items = append(made.items, value)
	}
	return made, err
}

// tomlKind returns the kind of a scalar. Dates are text, as in JSON.
func tomlKind(k unstable.Kind) nodeKind {
	switch k {
	case unstable.Bool:
		return isBool
	case unstable.Integer:
		return isInt
	case unstable.Float:
		return isFloat
	}
	return isText
}

func (r *tomlReader) make(kind nodeKind, p place) (*node, *Error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, at(p, &Error{Msg: fmt.Sprintf("more than %d values", maxNodes)})
	}
	return &node{kind: kind, place: p}, nil
}

// cursor turns rising offsets into places without starting over for each.
type cursor struct {
	data         string
	offset       int
	line, column int // column counts the characters before offset
}

func (c *cursor) at(offset int) place {
	if offset < c.offset {
		*c = cursor{data: c.data, line: 1}
	}
	for {
		end := strings.IndexByte(c.data[c.offset:offset], '\n')
		if end < 0 {
			break
		}
		c.line, c.column, c.offset = c.line+1, 0, c.offset+end+1
	}
	c.column += utf8.RuneCountInString(c.data[c.offset:offset])
	c.offset = offset
	return place{line: c.line, column: c.column + 1}
}
