package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// parseYAML reads one YAML document: maps with plain keys, lists and scalars, with anchors and aliases,
// but without tags, merge keys and directives.
func parseYAML(data string) (*node, *Error) {
	tokens := lexer.Tokenize(data)
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	// Duplicate keys are refused when the tree is built, with the key's full name.
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, yamlSyntax(err, data)
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return &node{kind: isTable, place: place{line: 1, column: 1}}, nil
	}
	r := yamlReader{anchors: map[string]*node{}}
	return r.read(file.Docs[0].Body, "")
}

// checkTokens bounds what the parser gets, and refuses more than one document, of which the parser
// would leave some out.
func checkTokens(tokens token.Tokens) *Error {
	if len(tokens) > maxTokens {
		return at(yamlPlace(tokens[maxTokens]), &Error{Msg: fmt.Sprintf("more than %d YAML tokens", maxTokens)})
	}
	if err := checkDepth(tokens); err != nil {
		return err
	}
	begun, ended := false, false
	for _, t := range tokens {
		switch {
		case t.Type == token.CommentType:
			continue
		case t.Type == token.DirectiveType:
			return at(yamlPlace(t), &Error{Msg: "YAML directives are not supported", Hint: "leave the line out"})
		case ended, begun && t.Type == token.DocumentHeaderType:
			return at(yamlPlace(t), &Error{Msg: "a second document", Hint: "a configuration is one YAML document"})
		}
		begun, ended = true, t.Type == token.DocumentEndType
	}
	return nil
}

// checkDepth bounds how deep the parser recurses. A block only nests deeper by beginning further to
// the right, or at the same column as what it is in, if that is a map.
func checkDepth(tokens token.Tokens) *Error {
	flow, line := 0, 0
	for _, t := range tokens {
		begins := t.Position.Line != line
		line = t.Position.Line
		switch t.Type {
		case token.CommentType:
			continue
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			begins = true
		}
		if flow < 0 {
			return at(yamlPlace(t), &Error{Msg: t.Value + " without its beginning"})
		}
		if flow > maxDepth || flow == 0 && begins && t.Position.Column > 2*maxDepth {
			return tooDeep(yamlPlace(t))
		}
	}
	return nil
}

func tooDeep(p place) *Error {
	return at(p, &Error{Msg: "nested too deeply", Hint: fmt.Sprintf("at most %d levels", maxDepth)})
}

// yamlSyntax takes message and place out of the parser's error, which would print the source as well.
func yamlSyntax(err error, data string) *Error {
	var detail interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &detail) {
		return &Error{Msg: err.Error()}
	}
	e := at(yamlPlace(detail.GetToken()), &Error{Msg: detail.GetMessage()})
	lines := strings.Split(data, "\n")
	if 0 < e.Line && e.Line <= len(lines) && strings.Contains(lines[e.Line-1], "${") {
		e.Hint = "inside of [] and {}, a string with ${…} needs quotes"
	}
	return e
}

// at gives an error its place in the file.
func at(p place, e *Error) *Error {
	e.Line, e.Column = p.line, p.column
	return e
}

func yamlPlace(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{line: 1, column: 1}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}

type yamlReader struct {
	anchors map[string]*node
	nodes   int // made so far
	depth   int
}

func (r *yamlReader) read(n ast.Node, key string) (*node, *Error) {
	p := yamlPlace(n.GetToken())
	if r.nodes++; r.nodes > maxNodes {
		return nil, at(p, &Error{Msg: fmt.Sprintf("more than %d values", maxNodes)})
	}
	if r.depth++; r.depth > maxDepth {
		return nil, tooDeep(p)
	}
	defer func() { r.depth-- }()
	switch n := n.(type) {
	case *ast.MappingNode:
		return r.mapping(n, key)
	case *ast.SequenceNode:
		return r.sequence(n, key)
	case *ast.AnchorNode:
		return r.anchor(n, key)
	case *ast.AliasNode:
		return r.alias(n, p, key)
	}
	scalar, ok := yamlScalar(n)
	if !ok {
		return nil, at(p, &Error{Key: key, Msg: "YAML of a kind that is not supported here: " + strings.ToLower(n.Type().String())})
	}
	scalar.place = p
	return scalar, nil
}

func yamlScalar(n ast.Node) (*node, bool) {
	digits := n.GetToken().Value
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{kind: isNull}, true
	case *ast.BoolNode:
		return &node{kind: isBool, text: fmt.Sprint(n.Value)}, true
	case *ast.IntegerNode:
		return &node{kind: isInt, text: digits}, true
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return &node{kind: isFloat, text: digits}, true
	case *ast.StringNode:
		return &node{kind: isText, text: n.Value}, true
	case *ast.LiteralNode:
		return &node{kind: isText, text: n.Value.Value}, true
	}
	return nil, false
}

func (r *yamlReader) mapping(n *ast.MappingNode, key string) (*node, *Error) {
	made := &node{kind: isTable, place: yamlPlace(n.GetToken())}
	if !n.IsFlowStyle && len(n.Values) > 0 {
		made.place = yamlPlace(n.Values[0].Key.GetToken()) // the map's own token is the first colon
	}
	for _, pair := range n.Values {
		name, p, err := yamlKey(pair.Key)
		if err != nil {
			return nil, err
		}
		inner := child(key, name)
		if first := made.table.index[name]; first != nil {
			return nil, at(p, &Error{Key: inner, Msg: "key given twice", Hint: fmt.Sprintf("it is also in line %d", first.place.line)})
		}
		value, err := r.read(pair.Value, inner)
		if err != nil {
			return nil, err
		}
		if value.kind == isList || value.kind == isTable {
			value.place = p
		}
		made.table.set(name, p, value)
	}
	return made, nil
}

// yamlKey returns a key's text as it is written.
func yamlKey(n ast.MapKeyNode) (string, place, *Error) {
	p := yamlPlace(n.GetToken())
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, p, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, p, nil
	case *ast.MergeKeyNode:
		return "", p, at(p, &Error{Key: "<<", Msg: "merge keys are not supported", Hint: "write the keys out"})
	}
	return "", p, at(p, &Error{Msg: "a key has to be a plain string"})
}

func (r *yamlReader) sequence(n *ast.SequenceNode, key string) (*node, *Error) {
	made := &node{kind: isList, place: yamlPlace(n.GetToken())}
	for i, element := range n.Values {
		value, err := r.read(element, item(key, i))
		if err != nil {
			return nil, err
		}
		made.items = append(made.items, value)
	}
	return made, nil
}

// anchor makes the name known once its value is complete, so that no value holds itself.
func (r *yamlReader) anchor(n *ast.AnchorNode, key string) (*node, *Error) {
	value, err := r.read(n.Value, key)
	if err == nil {
		r.anchors[n.Name.GetToken().Value] = value
	}
	return value, err
}

func (r *yamlReader) alias(n *ast.AliasNode, p place, key string) (*node, *Error) {
	name := n.Value.GetToken().Value
	value := r.anchors[name]
	if value == nil {
		return nil, at(p, &Error{Key: key, Msg: fmt.Sprintf("unknown anchor *%s", clip(name)), Hint: "an anchor has to be complete before it is used"})
	}
	return r.copy(value, p)
}

// copy counts what it copies, which bounds what aliases of aliases can grow to.
func (r *yamlReader) copy(n *node, p place) (*node, *Error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, at(p, &Error{Msg: fmt.Sprintf("more than %d values once aliases are replaced", maxNodes)})
	}
	made := *n
	made.items, made.table = nil, table{}
	for _, element := range n.items {
		value, err := r.copy(element, p)
		if err != nil {
			return nil, err
		}
		made.items = append(made.items, value)
	}
	for _, f := range n.table.fields {
		value, err := r.copy(f.value, p)
		if err != nil {
			return nil, err
		}
		made.table.set(f.key, f.place, value)
	}
	return &made, nil
}
