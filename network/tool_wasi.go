package network

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/tool/wasm"
)

func (n *Network) newModule(name string, t config.Tool) (described, error) {
	key := "tools." + name + ".wasm"
	schema, err := schemaOf(t.WASM.Schema)
	if err != nil {
		return nil, fmt.Errorf("%s.schema: %w", key, err)
	}
	c := wasm.Config{
		Name:        name,
		Description: t.Description,
		Schema:      schema,
		File:        t.WASM.Module,
		SHA256:      t.WASM.SHA256,
		Args:        t.WASM.Args,
		Env:         t.WASM.Env,
		Clock:       t.WASM.Clock,
		Random:      t.WASM.Random,
		MaxMemory:   int64(t.WASM.Memory),
		Output:      t.WASM.Output,
		Cache:       n.modules.cache(),
	}
	var folders []string
	for i, m := range t.WASM.Mounts {
		err = errors.Join(err, checkFolder(fmt.Sprintf("%s.mounts[%d].dir", key, i), m.Dir))
		c.Mounts = append(c.Mounts, wasm.Mount(m))
		folders = append(folders, m.Dir)
	}
	if err != nil {
		return nil, err
	}
	made, err := wasm.New(c)
	if err != nil {
		return nil, fmt.Errorf("tools.%s: %w", name, err)
	}
	n.modules.all = append(n.modules.all, made)
	n.warnOfState(name, folders)
	return made, nil
}

// schemaOf reads a schema as it stands in a configuration; nil is none.
func schemaOf(tree map[string]any) (*jsonschema.Schema, error) {
	if tree == nil {
		return nil, nil
	}
	text, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("not a JSON schema: %w", err)
	}
	return &schema, nil
}

// modules are those that have been compiled, to be closed with the network.
type modules struct {
	all    []*wasm.Tool
	shared *wasm.Cache
}

func (m *modules) cache() *wasm.Cache {
	if m.shared == nil {
		m.shared = wasm.NewCache()
	}
	return m.shared
}

func (m *modules) close() error {
	var errs []error
	for _, t := range m.all {
		errs = append(errs, t.Close())
	}
	if m.shared != nil {
		errs = append(errs, m.shared.Close())
	}
	return errors.Join(errs...)
}
