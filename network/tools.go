package network

import (
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/command"
)

// buildTools registers the tools of a configuration. Its errors name every tool that cannot be had.
func buildTools(tools map[string]config.Tool) (*tool.Registry, error) {
	registry := tool.NewRegistry()
	var errs []error
	for name, t := range tools {
		if err := register(registry, name, t); err != nil {
			errs = append(errs, fmt.Errorf("tools.%s: %w", name, err))
		}
	}
	return registry, errors.Join(errs...)
}

func register(registry *tool.Registry, name string, t config.Tool) error {
	c, err := command.New(command.Config{
		Name:        name,
		Description: t.Description,
		Program:     t.Command[0],
		Args:        t.Command[1:],
		Stdin:       t.Stdin,
		StdinFile:   t.StdinFile,
		Env:         t.Env,
		PassEnv:     t.PassEnv,
		Dir:         t.Dir,
		Paths:       t.Paths,
		Output:      t.Output,
	})
	if err != nil {
		return err
	}
	return registry.Register(c, tool.Options{
		Timeout:       time.Duration(t.Timeout),
		MaxConcurrent: t.Concurrency,
		MaxOutput:     int(t.MaxOutput),
	})
}
