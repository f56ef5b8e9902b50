package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/config"
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
		if wanted := n.params[name]; serves && !slices.Equal(given, wanted) {
			return &hinted{
				fmt.Errorf("params: %s; but tool %q takes %s", list(given), name, list(wanted)),
				"a tool takes the {names} of its command, stdin and stdin_file, all of them and no others",
			}
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
	program, err := checkTool("tools."+name, t)
	if err != nil {
		return err
	}
	n.log.Debug("tool found", "tool", name, "program", program)
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
		return fmt.Errorf("tools.%s: %w", name, err)
	}
	n.params[name] = c.InputSchema().Required
	return n.tools.Register(&configured{c, n, t.LogStderr}, tool.Options{
		Timeout:       time.Duration(t.Timeout),
		MaxConcurrent: t.Concurrency,
		MaxOutput:     int(t.MaxOutput),
	})
}

// checkTool looks for what a tool needs of this machine, to name the key that is at fault, and returns
// the path of the program.
func checkTool(key string, t config.Tool) (program string, err error) {
	program, err = exec.LookPath(t.Command[0])
	if err != nil {
		if lookup, ok := errors.AsType[*exec.Error](err); ok {
			err = lookup.Err
		}
		return "", &hinted{fmt.Errorf("%s.command: program %q: %w", key, t.Command[0], withoutPath(err)), "install it, or give the path of an executable file"}
	}
	if t.Dir != "" {
		err = checkFolder(key+".dir", t.Dir)
	}
	for _, param := range slices.Sorted(maps.Keys(t.Paths)) {
		err = errors.Join(err, checkFolder(key+".paths."+param, t.Paths[param]))
	}
	return program, err
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
	err = fmt.Errorf("%s: folder %q: %w", key, path, withoutPath(err))
	if abs, absErr := filepath.Abs(path); absErr == nil && abs != path {
		return &hinted{err, fmt.Sprintf("this path is relative to the current directory; that makes it %s", abs)}
	}
	return err
}

// withoutPath leaves out what an [fs.PathError] would say twice.
func withoutPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// configured is a tool of the configuration. Abort ends its calls, and where the configuration says so,
// the log tells what it said when it failed.
type configured struct {
	*command.Tool
	network   *Network
	logStderr bool
}

// Run implements [tool.Tool].
func (t *configured) Run(ctx context.Context, params json.RawMessage) (tool.Output, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.network.aborted, func() { cancel(context.Cause(t.network.aborted)) })()
	began := time.Now()
	output, err := t.Tool.Run(ctx, params)
	t.network.log.Debug("tool has run", "tool", t.Name(), "took", time.Since(began), "ok", err == nil)
	if exit, failed := errors.AsType[*command.ExitError](err); failed && t.logStderr {
		t.network.log.Warn("tool failed", "tool", t.Name(), "error", exit, "stderr", exit.Stderr)
	}
	return output, err
}
