package tool

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// checkRecursion refuses a schema that applies to a value by applying to that same value, such as
// {"$ref": "#"}. Validating by it never ends, and the overflow of the stack ends the process.
// Recursion by way of a property or an item is fine, since values end.
func checkRecursion(s *jsonschema.Schema) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	r := recursion{anchors: map[string]string{}, entered: map[string]bool{}}
	if err := json.Unmarshal(text, &r.root); err != nil {
		return err
	}
	r.survey(r.root, "")
	for _, place := range r.places {
		if err := r.enter(place); err != nil {
			return err
		}
	}
	return nil
}

// recursion looks for a cycle among the subschemas that apply to one value. It knows a subschema by
// its JSON pointer (RFC 6901).
type recursion struct {
	root    any
	places  []string          // of all objects in root
	anchors map[string]string // pointers by the names of anchors
	nested  bool              // a subschema has an $id, which is then the base of references in it
	entered map[string]bool   // false again when the subschema has been left without a cycle
}

func (r *recursion) survey(value any, place string) {
	switch value := value.(type) {
	case map[string]any:
		r.places = append(r.places, place)
		r.note(value, place)
		for key, child := range value {
			r.survey(child, place+"/"+escape(key))
		}
	case []any:
		for i, child := range value {
			r.survey(child, place+"/"+strconv.Itoa(i))
		}
	}
}

func (r *recursion) note(schema map[string]any, place string) {
	for _, keyword := range []string{"$anchor", "$dynamicAnchor"} {
		if name, ok := schema[keyword].(string); ok {
			r.anchors[name] = place
		}
	}
	if _, ok := schema["$id"].(string); ok && place != "" {
		r.nested = true
	}
}

func (r *recursion) enter(place string) error {
	entered, known := r.entered[place]
	if entered {
		return fmt.Errorf("the schema at #%s applies itself to the same value without end", place)
	}
	if known {
		return nil
	}
	r.entered[place] = true
	schema, _ := r.at(place).(map[string]any)
	next, err := r.applied(schema, place)
	for i := 0; err == nil && i < len(next); i++ {
		err = r.enter(next[i])
	}
	r.entered[place] = false
	return err
}

// applied lists the subschemas that schema applies to the value that it is itself applied to.
func (r *recursion) applied(schema map[string]any, place string) ([]string, error) {
	var places []string
	for _, keyword := range []string{"not", "if", "then", "else"} {
		if schema[keyword] != nil {
			places = append(places, place+"/"+keyword)
		}
	}
	for _, keyword := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := schema[keyword].([]any)
		for i := range list {
			places = append(places, place+"/"+keyword+"/"+strconv.Itoa(i))
		}
	}
	for _, keyword := range []string{"dependentSchemas", "dependencies"} {
		schemas, _ := schema[keyword].(map[string]any)
		for name := range schemas {
			places = append(places, place+"/"+keyword+"/"+escape(name))
		}
	}
	for _, keyword := range []string{"$ref", "$dynamicRef"} {
		reference, ok := schema[keyword].(string)
		if !ok {
			continue
		}
		target, err := r.resolve(reference)
		if err != nil {
			return nil, err
		}
		places = append(places, target)
	}
	return places, nil
}

func (r *recursion) resolve(reference string) (string, error) {
	fragment, local := strings.CutPrefix(reference, "#")
	place, err := url.PathUnescape(fragment)
	if anchor, ok := r.anchors[place]; ok {
		place = anchor
	}
	if !local || r.nested || err != nil || r.at(place) == nil {
		return "", fmt.Errorf("reference %q: only references of the forms #, #/pointer and #anchor are supported, in a schema without nested $id", reference)
	}
	return place, nil
}

// at returns the value at a JSON pointer, or nil.
func (r *recursion) at(place string) any {
	value := r.root
	if place == "" {
		return value
	}
	steps, ok := strings.CutPrefix(place, "/")
	if !ok {
		return nil
	}
	for step := range strings.SplitSeq(steps, "/") {
		switch parent := value.(type) {
		case map[string]any:
			value = parent[unescape(step)]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(parent) {
				return nil
			}
			value = parent[i]
		default:
			return nil
		}
	}
	return value
}

func escape(key string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(key) }

func unescape(step string) string { return strings.NewReplacer("~1", "/", "~0", "~").Replace(step) }
