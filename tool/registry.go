package tool

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/internal/nearest"
)

const maxName = 128 // bytes of a tool's name

// Options say how a tool is to be used. The zero value sets no limit of its own: the guard's hold.
// Where tool and guard both set a limit, the smaller holds.
type Options struct {
	// Description says, for people and models, what the tool does. "" is the tool's own, if it is a
	// [Describer].
	Description string
	// Schema is what params have to match: JSON Schema, draft 2020-12 or draft-07, with references of
	// the forms #, #/pointer and #anchor only; the keyword "format" is not checked. Beyond the schema,
	// a property given twice is refused, as is one whose name differs from a declared one only in
	// case, and a nesting of more than 128 levels. nil is the tool's own, if it is a [Describer], and
	// otherwise accepts any JSON object. The registry keeps a copy.
	Schema *jsonschema.Schema
	// Annotations say what the tool does to the world. The zero value is the tool's own, if it is
	// [Annotated].
	Annotations Annotations
	// Timeout bounds a call, its wait for a free slot included.
	Timeout time.Duration
	// MaxConcurrent bounds the calls that run at once through one guard.
	MaxConcurrent int
	// MaxOutput bounds the bytes of an output.
	MaxOutput int
}

// Registry holds tools by name. Being in a registry allows nobody to run a tool; a [Guard] does. A
// Registry is safe for concurrent use, and tools are never removed. The zero Registry is empty and
// ready for use.
type Registry struct {
	mu    sync.RWMutex
	tools map[string]*registered
}

type registered struct {
	tool    Tool
	name    string
	options Options
	params  *paramsCheck
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{} }

// Register adds a tool. It refuses a name that is taken ([ErrExists]) or malformed, a negative limit,
// and a schema that cannot be used.
func (r *Registry) Register(t Tool, o Options) error {
	if t == nil {
		return errors.New("register tool: the tool is nil")
	}
	name := t.Name()
	entry, err := newRegistered(t, name, o)
	if err != nil {
		return fmt.Errorf("register tool %.*q: %w", maxName, name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tools[name] != nil {
		return fmt.Errorf("register tool %q: %w", name, ErrExists)
	}
	if r.tools == nil {
		r.tools = map[string]*registered{}
	}
	r.tools[name] = entry
	return nil
}

func newRegistered(t Tool, name string, o Options) (*registered, error) {
	if !isName(name) {
		return nil, fmt.Errorf("invalid name: a name is 1 to %d letters, digits, '_', '-' and '.'", maxName)
	}
	if o.Timeout < 0 || o.MaxConcurrent < 0 || o.MaxOutput < 0 {
		return nil, errors.New("options: Timeout, MaxConcurrent and MaxOutput must not be negative")
	}
	if d, ok := t.(Describer); ok {
		o = describe(o, d)
	}
	if a, ok := t.(Annotated); ok && o.Annotations == (Annotations{}) {
		o.Annotations = a.Annotations()
	}
	o.Schema = o.Schema.CloneSchemas()
	params, err := newParamsCheck(o.Schema)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return &registered{t, name, o, params}, nil
}

func describe(o Options, d Describer) Options {
	if o.Description == "" {
		o.Description = d.Description()
	}
	if o.Schema == nil {
		o.Schema = d.InputSchema()
	}
	return o
}

// Lookup returns the tool of that name and its options, whose schema must not be changed. The error
// for a name that is not registered wraps [ErrUnknownTool] and names the nearest one that is.
func (r *Registry) Lookup(name string) (Tool, Options, error) {
	entry, err := r.entry(name)
	if err != nil {
		return nil, Options{}, err
	}
	return entry.tool, entry.options, nil
}

// Names returns the names of all tools, sorted.
func (r *Registry) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.tools))
}

func (r *Registry) entry(name string) (*registered, error) {
	r.mu.RLock()
	entry := r.tools[name]
	r.mu.RUnlock()
	if entry != nil {
		return entry, nil
	}
	unknown := &Error{Tool: clip(name), Reason: ErrUnknownTool}
	if near := nearest.Name(name, r.Names()); near != "" {
		unknown.Err = fmt.Errorf("the nearest registered name is %q", near)
	}
	return nil, unknown
}

func isName(s string) bool { return names.Is(s, maxName, "_-.") }

// clip bounds a name that comes from an agent, for logs and errors.
func clip(name string) string { return cut.Text(name, maxName) }
