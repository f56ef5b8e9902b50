package llm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/tool"
)

// maxToolName is what every provider accepts.
const maxToolName = 64

// modelName returns the name by which models know a tool: providers accept letters, digits, '_' and '-' only.
func modelName(name string) string {
	short := strings.ReplaceAll(name, ".", "__")
	if len(short) <= maxToolName {
		return short
	}
	return withHash(short, name)
}

// withHash makes a name of its own for a tool whose plain one is too long or taken.
func withHash(short, name string) string {
	sum := sha256.Sum256([]byte(name))
	return short[:min(len(short), maxToolName-9)] + "_" + hex.EncodeToString(sum[:4])
}

// nameTools gives each tool a name for models, none twice and none of taken.
func nameTools(tools []string, taken []string) (map[string]string, error) {
	names := map[string]string{} // of tools, by that for models
	used := map[string]bool{}
	for _, name := range taken {
		used[name] = true
	}
	for _, name := range slices.Sorted(slices.Values(tools)) {
		short := modelName(name)
		if used[short] {
			short = withHash(short, name)
		}
		if used[short] {
			return nil, fmt.Errorf("tool %q: no name is left for it; rename it", name)
		}
		used[short], names[short] = true, name
	}
	return names, nil
}

// Bounds of what is shown to a model of a tool, in bytes. The texts come from whoever wrote the tool.
const (
	maxDescription = 1024
	maxSchema      = 32 << 10
)

// toolFor describes a tool to a model.
func toolFor(registry *tool.Registry, name, short string) (Tool, error) {
	_, options, err := registry.Lookup(name)
	if err != nil {
		return Tool{}, err
	}
	schema, err := schemaFor(options.Schema)
	if err != nil {
		return Tool{}, fmt.Errorf("tool %q: schema: %w", name, err)
	}
	return Tool{Name: short, Description: clean(options.Description, maxDescription), Schema: schema}, nil
}

func schemaFor(s *jsonschema.Schema) (json.RawMessage, error) {
	schema := map[string]any{}
	if s != nil {
		encoded, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		_ = json.Unmarshal(encoded, &schema) // a schema that is only true or false leaves an object without rules
	}
	cleanTexts(schema)
	schema["type"] = "object" // params always are one, and providers want to read it
	if schema["properties"] == nil {
		schema["properties"] = map[string]any{}
	}
	encoded, err := json.Marshal(schema)
	if err == nil && len(encoded) > maxSchema {
		err = fmt.Errorf("it has %d bytes where a model is shown at most %d", len(encoded), maxSchema)
	}
	return encoded, err
}

// cleanTexts cleans the texts for people in a schema, at any depth.
func cleanTexts(value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			if text, ok := inner.(string); ok && (key == "description" || key == "title" || key == "$comment") {
				value[key] = clean(text, maxDescription)
				continue
			}
			cleanTexts(inner)
		}
	case []any:
		for _, inner := range value {
			cleanTexts(inner)
		}
	}
}
