package tool_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/tool"
)

func schemaOf(t testing.TB, text string) *jsonschema.Schema {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func searchSchema() *jsonschema.Schema {
	limit := 100.0
	return &jsonschema.Schema{
		Type: "object",
		Properties: map[string]*jsonschema.Schema{
			"query": {Type: "string"},
			"limit": {Type: "integer", Maximum: &limit},
		},
		Required:             []string{"query"},
		AdditionalProperties: &jsonschema.Schema{Not: &jsonschema.Schema{}},
	}
}

func TestRegistryKeepsTools(t *testing.T) {
	var r tool.Registry
	for _, name := range []string{"b", "a.1", "A_2-x"} {
		register(t, &r, name, echo, tool.Options{Description: "it is " + name})
	}
	if names := r.Names(); !slices.Equal(names, []string{"A_2-x", "a.1", "b"}) {
		t.Errorf("names %q", names)
	}
	it, options, err := r.Lookup("b")
	if err != nil || it.Name() != "b" || options.Description != "it is b" {
		t.Errorf("looked up %v, %+v, error %v", it, options, err)
	}
	_, _, err = r.Lookup("a.2")
	wantReason(t, err, tool.ErrUnknownTool)
	if !strings.Contains(err.Error(), `"a.1"`) {
		t.Errorf("error %q does not name the nearest", err)
	}
	if err := r.Register(tool.Func("b", echo), tool.Options{}); !errors.Is(err, tool.ErrExists) {
		t.Errorf("registered twice: error %v", err)
	}
}

func TestRegisterRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		tool tool.Tool
		o    tool.Options
	}{
		"nil":                  {nil, tool.Options{}},
		"no name":              {tool.Func("", echo), tool.Options{}},
		"blank":                {tool.Func("a b", echo), tool.Options{}},
		"slash":                {tool.Func("a/b", echo), tool.Options{}},
		"not ASCII":            {tool.Func("ä", echo), tool.Options{}},
		"long name":            {tool.Func(strings.Repeat("x", 129), echo), tool.Options{}},
		"timeout":              {tool.Func("x", echo), tool.Options{Timeout: -1}},
		"concurrency":          {tool.Func("x", echo), tool.Options{MaxConcurrent: -1}},
		"output":               {tool.Func("x", echo), tool.Options{MaxOutput: -1}},
		"type":                 {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"type":"string"}`)}},
		"version":              {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$schema":"http://json-schema.org/draft-04/schema#"}`)}},
		"pattern":              {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"properties":{"a":{"pattern":"("}}}`)}},
		"remote reference":     {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$ref":"https://example.org/x.json"}`)}},
		"dangling":             {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$ref":"#/$defs/x"}`)}},
		"endless":              {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$ref":"#"}`)}},
		"endless in allOf":     {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"allOf":[true,{"not":{"$ref":"#"}}]}`)}},
		"endless by anchor":    {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$defs":{"a":{"$anchor":"a","if":{"$ref":"#a"}}},"properties":{"x":{"$ref":"#a"}}}`)}},
		"endless by two steps": {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$defs":{"a/b":{"$ref":"#/$defs/c"},"c":{"dependentSchemas":{"x":{"$ref":"#/$defs/a~1b"}}}}}`)}},
		"nested $id":           {tool.Func("x", echo), tool.Options{Schema: schemaOf(t, `{"$id":"https://example.org/a","properties":{"b":{"$id":"https://example.org/b","$ref":"#"}}}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			var r tool.Registry
			err := r.Register(c.tool, c.o)
			if err == nil || !strings.HasPrefix(err.Error(), "register tool") {
				t.Errorf("error %v", err)
			}
			if len(r.Names()) > 0 {
				t.Error("registered in spite of the error")
			}
		})
	}
}

func TestRecursionThroughValuesIsFine(t *testing.T) {
	tree := schemaOf(t, `{
		"$defs": {"node": {"$anchor": "node", "type": "object",
			"properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#node"}}},
			"additionalProperties": false}},
		"allOf": [{"$ref": "#/$defs/node"}, {"$ref": "#/%24defs/node"}]
	}`)
	g := guardOf(t, echo, tool.Options{Schema: tree}, tool.GuardConfig{})
	if _, err := g.Run(t.Context(), "it", json.RawMessage(`{"children":[{"value":1,"children":[]}]}`)); err != nil {
		t.Error(err)
	}
	_, err := g.Run(t.Context(), "it", json.RawMessage(`{"children":[{"value":1.5}]}`))
	wantReason(t, err, tool.ErrInvalidParams)
}

func TestRegistryKeepsACopyOfTheSchema(t *testing.T) {
	schema := searchSchema()
	r := tool.NewRegistry()
	register(t, r, "it", echo, tool.Options{Schema: schema})
	delete(schema.Properties, "query")
	g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: []string{"it"}})
	if _, err := g.Run(t.Context(), "it", json.RawMessage(`{"query":"x"}`)); err != nil {
		t.Error(err)
	}
}

type describing struct{ tool.Tool }

func (describing) Description() string             { return "finds things" }
func (describing) InputSchema() *jsonschema.Schema { return searchSchema() }

func TestOptionsAreTakenFromADescriber(t *testing.T) {
	r := tool.NewRegistry()
	if err := r.Register(describing{tool.Func("own", echo)}, tool.Options{}); err != nil {
		t.Fatal(err)
	}
	given := tool.Options{Description: "given", Schema: &jsonschema.Schema{}}
	if err := r.Register(describing{tool.Func("given", echo)}, given); err != nil {
		t.Fatal(err)
	}
	if _, o, _ := r.Lookup("own"); o.Description != "finds things" {
		t.Errorf("options %+v", o)
	}
	if _, o, _ := r.Lookup("given"); o.Description != "given" {
		t.Errorf("options %+v", o)
	}
	g := newGuard(t, tool.GuardConfig{Tools: r, Allowlist: r.Names()})
	_, err := g.Run(t.Context(), "own", nil)
	wantReason(t, err, tool.ErrInvalidParams)
	if _, err := g.Run(t.Context(), "given", nil); err != nil {
		t.Error(err)
	}
}

func TestParamsHaveToBeASmallObject(t *testing.T) {
	g := guardOf(t, echo, tool.Options{}, tool.GuardConfig{})
	for _, params := range []string{`[]`, `null`, `"x"`, `1`, ` `, `{`, `{"a":}`, `{} {}`, `{"a":1,}`, "{\"a\":\"\x01\"}"} {
		_, err := g.Run(t.Context(), "it", json.RawMessage(params))
		wantReason(t, err, tool.ErrInvalidParams)
	}
	fill := func(size int) json.RawMessage {
		return json.RawMessage(`{"a":"` + strings.Repeat("x", size-8) + `"}`)
	}
	if _, err := g.Run(t.Context(), "it", fill(tool.MaxParams)); err != nil {
		t.Error(err)
	}
	_, err := g.Run(t.Context(), "it", fill(tool.MaxParams+1))
	wantReason(t, err, tool.ErrInvalidParams)
	if s := g.Stats(); s.Run != 1 || s.Invalid != 11 {
		t.Errorf("stats %+v", s)
	}
}

func TestParamsHaveToMatchTheSchema(t *testing.T) {
	g := guardOf(t, echo, tool.Options{Schema: searchSchema()}, tool.GuardConfig{})
	for _, params := range []string{`{"query":"x"}`, `{"query":"x","limit":100}`, ` {"limit":1e2 , "query":""} `} {
		if _, err := g.Run(t.Context(), "it", json.RawMessage(params)); err != nil {
			t.Errorf("%s: %v", params, err)
		}
	}
	for params, want := range map[string]string{
		``:                               `at root: required: missing properties: ["query"]`,
		`{"query":1}`:                    "at /properties/query: type",
		`{"query":"x","limit":101}`:      "at /properties/limit: maximum",
		`{"query":"x","limit":1.5}`:      "at /properties/limit: type",
		`{"query":"x","limit":1e999}`:    "out of range",
		`{"query":"x","more":true}`:      "at root: additionalProperties",
		`{"query":null}`:                 "at /properties/query: type",
		`{"query":"x","query":"y"}`:      "given twice",
		`{"query":"x","\u0071uery":"y"}`: "given twice",
	} {
		_, err := g.Run(t.Context(), "it", json.RawMessage(params))
		wantReason(t, err, tool.ErrInvalidParams)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q lacks %q", params, err, want)
		}
	}
}

// A Go tool that decodes into a struct takes {"PATH": …} for its field "path".
func TestSchemaIsNotPassedByNamesInOtherCase(t *testing.T) {
	schema := schemaOf(t, `{"properties":{
		"path": {"pattern": "^/srv/"},
		"task": {"properties": {"user": {"enum": ["guest"]}}},
		"list": {"items": {"properties": {"user": {"enum": ["guest"]}}}}
	}}`)
	g := guardOf(t, echo, tool.Options{Schema: schema}, tool.GuardConfig{})
	for _, params := range []string{
		`{"PATH":"/etc/shadow"}`,
		`{"path":"/srv/x","Path":"/etc/shadow"}`,
		`{"taſk":{}}`, // a long s, which folds to s
		`{"task":{"USER":"root"}}`,
		`{"list":[{},{"User":"root"}]}`,
	} {
		_, err := g.Run(t.Context(), "it", json.RawMessage(params))
		wantReason(t, err, tool.ErrInvalidParams)
	}
	if _, err := g.Run(t.Context(), "it", json.RawMessage(`{"other":1,"OTHER":2,"task":{"PATH":1}}`)); err != nil {
		t.Error(err)
	}
}

// FuzzParams looks for params that pass a schema and yet give a Go tool a value that the schema forbids.
func FuzzParams(f *testing.F) {
	schema := schemaOf(f, `{"type": "object", "properties": {
		"path": {"type": "string", "pattern": "^/srv/"},
		"list": {"type": "array", "items": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}}}
	}}`)
	var got json.RawMessage
	g := guardOf(f, func(_ context.Context, params json.RawMessage) (tool.Output, error) {
		got = params
		return tool.Output{}, nil
	}, tool.Options{Schema: schema}, tool.GuardConfig{})
	for _, seed := range []string{
		`{}`, `{"path":"/srv/a"}`, `{"PATH":"/etc"}`, `{"path":"/srv/a","path":"/etc"}`, `{"path":null}`,
		`{"list":[{"size":9},{}]}`, `{"list":[{"ſize":10}]}`, `{"list":[{"size":9.0}]}`, `{"list":[{"size":1e99}]}`, `{"path":"/srv/\ud800"}`,
		"{\"path\":\"/srv/\xff\"}", "{\"pat\xff\":1}", `{"p\u0061th":"/srv/"}`, `[[[`, `{"a":{"a":{"a":{}}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, params []byte) {
		if _, err := g.Run(context.Background(), "it", params); err != nil {
			return
		}
		var seen struct {
			Path string `json:"path"`
			List []struct {
				Size float64 `json:"size"`
			} `json:"list"`
		}
		if err := json.Unmarshal(got, &seen); err != nil {
			t.Fatalf("%q passed, but: %v", params, err)
		}
		if seen.Path != "" && !strings.HasPrefix(seen.Path, "/srv/") {
			t.Errorf("%q passed with path %q", params, seen.Path)
		}
		for _, item := range seen.List {
			if item.Size > 9 {
				t.Errorf("%q passed with size %v", params, item.Size)
			}
		}
	})
}

func TestDeepParamsAreRefused(t *testing.T) {
	g := guardOf(t, echo, tool.Options{Schema: &jsonschema.Schema{}}, tool.GuardConfig{})
	nested := func(depth int) json.RawMessage {
		return json.RawMessage(`{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`)
	}
	if _, err := g.Run(t.Context(), "it", nested(128)); err != nil {
		t.Error(err)
	}
	for _, depth := range []int{129, 9_000, 100_000} {
		_, err := g.Run(t.Context(), "it", nested(depth))
		wantReason(t, err, tool.ErrInvalidParams)
	}
}

func TestLogsAndErrorsHoldNothingOfTheParams(t *testing.T) {
	const secret = "hunter2"
	schema := schemaOf(t, `{
		"properties": {
			"a": {"type": "integer"}, "b": {"enum": ["x"]}, "c": {"pattern": "^x"}, "d": {"maxLength": 2}, "e": {"const": 1},
			"f": {"anyOf": [{"type": "null"}]}, "g": {"items": {"type": "null"}}, "h": {"contains": {"type": "null"}},
			"i": {"additionalProperties": false}, "j": {"propertyNames": {"maxLength": 2}}, "k": {"not": {}}, "l": {"oneOf": []}
		}, "patternProperties": {"^z": {"type": "null"}}, "additionalProperties": false
	}`)
	logger, log := logTo()
	g := guardOf(t, echo, tool.Options{Schema: schema}, tool.GuardConfig{Logger: logger})
	for _, params := range []string{
		`hunter2`, `{"a":"hunter2"}`, `{"b":"hunter2"}`, `{"c":"hunter2"}`, `{"d":"hunter2"}`, `{"e":"hunter2"}`,
		`{"f":"hunter2"}`, `{"g":["hunter2"]}`, `{"h":["hunter2"]}`, `{"i":{"hunter2":1}}`, `{"j":{"hunter2":1}}`,
		`{"k":"hunter2"}`, `{"l":"hunter2"}`, `{"zhunter2":1}`, `{"hunter2":1}`, `{"hunter2":1,"hunter2":1}`,
	} {
		_, err := g.Run(t.Context(), "it", json.RawMessage(params))
		wantReason(t, err, tool.ErrInvalidParams)
		if strings.Contains(err.Error(), secret) || strings.Contains(log.String(), secret) {
			t.Errorf("%s: error %q, log %q", params, err, log)
		}
	}
}

func TestRegistryIsSafeForConcurrentUse(t *testing.T) {
	r := tool.NewRegistry()
	var workers sync.WaitGroup
	for _, name := range strings.Split("abcdefgh", "") {
		workers.Go(func() {
			register(t, r, name, echo, tool.Options{Schema: searchSchema()})
			g, err := tool.NewGuard(tool.GuardConfig{Tools: r, Allowlist: r.Names(), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := g.Run(context.Background(), name, json.RawMessage(`{"query":"x"}`)); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
}
