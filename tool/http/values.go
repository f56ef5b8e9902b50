package http

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/converge-agents/converge/internal/template"
	"github.com/converge-agents/converge/tool"
)

// invalid makes an error about params. The names of params may be in it, values may not.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", tool.ErrInvalidParams, fmt.Errorf(format, args...))
}

// values are the params of a call.
type values struct {
	raw  map[string]json.RawMessage
	text map[string]string // of those that are text
}

func (v values) escaped(escape func(string) string) map[string]string {
	all := map[string]string{}
	for name, value := range v.text {
		all[name] = escape(value)
	}
	return all
}

// values checks that params are those of the templates, all of them and no others.
func (t *Tool) values(params json.RawMessage) (values, error) {
	v := values{map[string]json.RawMessage{}, map[string]string{}}
	if len(params) > 0 {
		if err := json.Unmarshal(params, &v.raw); err != nil || v.raw == nil {
			return v, invalid("not a JSON object")
		}
	}
	known := slices.Sorted(maps.Keys(t.params))
	for _, name := range slices.Sorted(maps.Keys(v.raw)) {
		if _, ok := t.params[name]; !ok {
			return v, invalid("unknown param %.64q; known are %q", name, known)
		}
	}
	for _, name := range known {
		raw, ok := v.raw[name]
		if !ok {
			return v, invalid("param %q is missing", name)
		}
		value, isText := text(raw)
		if t.params[name] && !isText {
			return v, invalid("param %q is neither a string, nor a number, nor a boolean", name)
		}
		v.text[name] = value
	}
	return v, nil
}

// text returns the text of a string, number or boolean in valid JSON.
func text(raw json.RawMessage) (string, bool) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err == nil
	case '{', '[', 'n':
		return "", false
	default:
		return string(raw), true
	}
}

// node is a part of a JSON body.
type node interface{ fill(values) any }

type (
	fixed   struct{ value any }
	phrase  struct{ template.Template }
	whole   string // the param itself
	object  map[string]node
	listing []node
)

func (n fixed) fill(values) any    { return n.value }
func (n phrase) fill(v values) any { return n.Fill(v.text) }
func (n whole) fill(v values) any  { return v.raw[string(n)] }

func (n object) fill(v values) any {
	all := map[string]any{}
	for key, value := range n {
		all[key] = value.fill(v)
	}
	return all
}

func (n listing) fill(v values) any {
	all := []any{}
	for _, value := range n {
		all = append(all, value.fill(v))
	}
	return all
}

// parseJSON makes nodes of a tree, and notes its params.
func (t *Tool) parseJSON(tree any) (node, error) {
	switch tree := tree.(type) {
	case string:
		return t.parseText(tree)
	case map[string]any:
		all := object{}
		for _, key := range slices.Sorted(maps.Keys(tree)) {
			n, err := t.parseJSON(tree[key])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", key, err)
			}
			all[key] = n
		}
		return all, nil
	case []any:
		all := listing{}
		for i, element := range tree {
			n, err := t.parseJSON(element)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			all = append(all, n)
		}
		return all, nil
	case nil, bool, int, int64, uint64, float64, json.Number:
		return fixed{tree}, nil
	default:
		return nil, fmt.Errorf("%T is nothing of JSON", tree)
	}
}

func (t *Tool) parseText(text string) (node, error) {
	tmpl, err := template.Parse(text)
	if err != nil {
		return nil, err
	}
	if len(tmpl) == 1 && tmpl[0].IsParam {
		name := tmpl[0].Text
		if _, known := t.params[name]; !known {
			t.params[name] = false // unless it is text elsewhere
		}
		return whole(name), nil
	}
	t.text(tmpl)
	return phrase{tmpl}, nil
}

func (t *Tool) setBody() (err error) {
	if t.body, err = template.Parse(t.config.Body); err != nil {
		return fmt.Errorf("field Body: %w", err)
	}
	t.text(t.body)
	if t.config.JSON == nil {
		return nil
	}
	if t.json, err = t.parseJSON(t.config.JSON); err != nil {
		return fmt.Errorf("field JSON: %w", err)
	}
	return nil
}
