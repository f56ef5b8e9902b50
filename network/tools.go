package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/command"
)

// addTools registers the tools of the configuration. Its errors name every tool that cannot be had.
func (n *Network) addTools() error {
	n.tools = tool.NewRegistry()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(n.config.Tools)) {
		if err := n.addTool(name, n.config.Tools[name]); err != nil {
			errs = append(errs, err)
		}
	}
	n.tellProtections()
	return errors.Join(errs...)
}

// checkParams reports a task whose params are not those of a tool that may serve it: every one of its
// kind would fail.
func (n *Network) checkParams(t config.Task) error {
	given, served := slices.Sorted(maps.Keys(t.Params)), false
	for _, a := range n.config.Agents {
		name, serves := a.Capabilities[t.Capability]
		served = served || serves
		if a.Kind == config.KindLLM { // which takes any
			continue
		}
		if _, _, remote := n.config.MCPTool(name); serves && remote {
			if err := n.checkRequired(t, name, given); err != nil {
				return err
			}
			continue
		}
		if wanted, known := n.params[name]; serves && known && !slices.Equal(given, wanted) {
			return advice.On(
				fmt.Errorf("params: %s; but tool %q takes %s", list(given), name, list(wanted)),
				"a tool takes the {names} of its templates, all of them and no others")
		}
	}
	if !served { // the configuration has been checked: there are workers elsewhere
		n.log.Info("no worker of this process has the capability; one of another process has to", "task", t.Name, "capability", t.Capability)
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (n *Network) addTool(name string, t config.Tool) error {
	made, err := n.newTool(name, t)
	if err != nil {
		return err
	}
	annotations := tool.Annotations{Destructive: t.Destructive}
	if annotated, ok := made.(tool.Annotated); ok {
		annotations = annotated.Annotations()
		annotations.Destructive = annotations.Destructive || t.Destructive
		annotations.ReadOnly = annotations.ReadOnly && !t.Destructive
	}
	return n.tools.Register(&configured{made, n, t.LogStderr}, tool.Options{
		Annotations:   annotations,
		Timeout:       time.Duration(t.Timeout),
		MaxConcurrent: t.Concurrency,
		MaxOutput:     int(t.MaxOutput),
	})
}

// described is what all tools of a configuration are.
type described interface {
	tool.Tool
	tool.Describer
}

func (n *Network) newTool(name string, t config.Tool) (described, error) {
	switch {
	case t.WASM.Module != "":
		return n.newModule(name, t)
	case t.HTTP.URL != "":
		return n.newCall(name, t)
	default:
		return n.newCommand(name, t)
	}
}

// checkFolder reports whether path is a folder, under the name of the key that gives it.
func checkFolder(key, path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		err = errors.New("not a folder")
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: folder %q: %w", key, path, ondisk.WithoutPath(err))
	if abs, absErr := filepath.Abs(path); absErr == nil && abs != path {
		return advice.On(err, fmt.Sprintf("this path is relative to the current directory; that makes it %s", abs))
	}
	return err
}

// checkExists reports whether there is a file or folder, under the name of the key that gives it.
func checkExists(key, path string) error {
	_, err := os.Stat(path)
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %q: %w", key, path, ondisk.WithoutPath(err))
}

// configured is a tool of the configuration. Abort ends its calls, and where the configuration says so,
// the log tells what it said when it failed.
type configured struct {
	described
	network   *Network
	logStderr bool
}

// Run implements [tool.Tool].
func (t *configured) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	output, err := t.network.runTool(ctx, t.described, params)
	if exit, failed := errors.AsType[*command.ExitError](err); failed && t.logStderr {
		t.network.log.Warn("tool failed", "tool", t.Name(), "error", exit, "stderr", exit.Stderr)
	}
	return output, err
}

// runTool runs a tool until it ends or Abort is called.
func (n *Network) runTool(ctx context.Context, t tool.Tool, params json.RawMessage) (tool.Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.aborted, func() { cancel(context.Cause(n.aborted)) })()
	began := time.Now()
	output, err := t.Run(ctx, params)
	n.log.Debug("tool has run", "tool", t.Name(), "took", time.Since(began), "ok", err == nil)
	return output, err
}
