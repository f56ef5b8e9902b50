package network

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
	"github.com/converge-agents/converge/tool/command"
)

func (n *Network) newCommand(name string, t config.Tool) (described, error) {
	program, err := checkCommand("tools."+name, t)
	if err != nil {
		return nil, err
	}
	n.log.Debug("tool found", "tool", name, "program", program)
	c, err := command.New(command.Config{
		Name:            name,
		Description:     t.Description,
		Program:         t.Command[0],
		Args:            t.Command[1:],
		Stdin:           t.Stdin,
		StdinFile:       t.StdinFile,
		Env:             t.Env,
		PassEnv:         t.PassEnv,
		Dir:             t.Dir,
		Paths:           t.Paths,
		Except:          n.hidden(),
		Output:          t.Output,
		Read:            t.Read,
		Write:           t.Write,
		Network:         t.Network,
		UnixSockets:     t.UnixSockets,
		Limits:          limits(t.Limits),
		RequireSandbox:  t.RequireSandbox,
		UnsafeNoSandbox: t.UnsafeNoSandbox,
	})
	switch {
	case err != nil && t.RequireSandbox && errors.Is(err, errors.ErrUnsupported):
		return nil, advice.On(fmt.Errorf("tools.%s: %w", name, err), "take out require_sandbox to go on without what is missing")
	case err != nil:
		return nil, fmt.Errorf("tools.%s: %w", name, err)
	}
	n.params[name] = c.InputSchema().Required
	n.commands = append(n.commands, c)
	n.warnOfState(name, slices.Concat([]string{t.Dir}, n.tellHidden(name, t.Paths), t.Read, t.Write))
	n.warnOfSocket(name, t.UnixSockets)
	return c, nil
}

func limits(l config.ToolLimits) command.Limits {
	return command.Limits{
		CPU: time.Duration(l.CPU), Memory: int64(l.Memory), AddressSpace: int64(l.AddressSpace), FileSize: int64(l.FileSize),
		OpenFiles: l.OpenFiles, Processes: l.Processes,
	}
}

// checkCommand looks for what a command needs of this machine, to name the key that is at fault, and returns
// the path of the program.
func checkCommand(key string, t config.Tool) (program string, err error) {
	program, err = exec.LookPath(t.Command[0])
	if err != nil {
		if lookup, ok := errors.AsType[*exec.Error](err); ok {
			err = lookup.Err
		}
		return "", advice.On(fmt.Errorf("%s.command: program %q: %w", key, t.Command[0], ondisk.WithoutPath(err)), "install it, or give the path of an executable file")
	}
	if t.Dir != "" {
		err = checkFolder(key+".dir", t.Dir)
	}
	for _, param := range slices.Sorted(maps.Keys(t.Paths)) {
		err = errors.Join(err, checkFolder(key+".paths."+param, t.Paths[param]))
	}
	for i, path := range t.Read {
		err = errors.Join(err, checkExists(fmt.Sprintf("%s.read[%d]", key, i), path))
	}
	for i, path := range t.Write {
		err = errors.Join(err, checkExists(fmt.Sprintf("%s.write[%d]", key, i), path))
	}
	return program, err
}

// tellProtections says in one line what commands are kept from on this machine, and what not and why. Those that are
// kept from less are named in lines of their own.
func (n *Network) tellProtections() {
	told := map[string][]string{} // names of tools, by what is to be said of them
	byText := map[string][]command.Protection{}
	for _, c := range n.commands {
		all := c.Protections()
		text := fmt.Sprint(all)
		told[text], byText[text] = append(told[text], c.Name()), all
	}
	for _, text := range slices.Sorted(maps.Keys(told)) {
		var in, out []string
		for _, p := range byText[text] {
			if p.InForce {
				in = append(in, p.String())
			} else {
				out = append(out, p.String())
			}
		}
		log, message := n.log.Info, "commands run in a sandbox"
		if len(in) == 0 {
			log, message = n.log.Warn, "UNSAFE: commands run without a sandbox, with all rights of this process"
		}
		log(message, "tools", strings.Join(told[text], " "), "in_force", listed(in), "not_in_force", listed(out))
	}
}

func listed(what []string) string {
	if len(what) == 0 {
		return "nothing"
	}
	return strings.Join(what, ", ")
}

// tellHidden says what a command is kept from in the folders of its paths. It returns those to warn of: a folder that is the
// folder of state, or a part of it, is granted as it is.
func (n *Network) tellHidden(name string, paths map[string]string) (granted []string) {
	state := realPath(n.dir)
	for _, param := range slices.Sorted(maps.Keys(paths)) {
		folder := paths[param]
		switch real := realPath(folder); {
		case real != state && isWithin(real, state):
			n.log.Info("a tool is kept from the folder of state, which lies in a folder of its own: it may read what a call names there, and nothing besides",
				"tool", name, "folder", folder, "data", n.dir)
		case n.holdsSecret(real) && !isWithin(state, real):
			n.log.Info("a tool is kept from files with keys or secrets, which lie in a folder of its own: it may read what a call names there, and nothing besides",
				"tool", name, "folder", folder)
		default:
			granted = append(granted, folder)
		}
	}
	return granted
}

// holdsSecret reports whether something that is hidden, besides the folder of state, is a file or lies in a folder.
func (n *Network) holdsSecret(granted string) bool {
	return slices.ContainsFunc(n.hidden(), func(path string) bool {
		return path != n.dir && isWithin(granted, realPath(path))
	})
}

// warnOfState warns of a tool that can read the keys of agents, the one that allows tool calls, or other secrets.
func (n *Network) warnOfState(name string, folders []string) {
	state := realPath(n.dir)
	for _, folder := range folders {
		if folder == "" {
			continue
		}
		granted := realPath(folder)
		switch {
		case isWithin(granted, state):
			n.log.Warn("a tool can read the keys of agents, since the folder of state lies in one of its own: move data elsewhere, or give the tool less",
				"tool", name, "folder", folder, "data", n.dir)
		case isWithin(state, granted):
			n.log.Warn("a tool is granted a part of the folder of state, where keys are: give it a place elsewhere",
				"tool", name, "folder", folder, "data", n.dir)
		case n.holdsSecret(granted):
			n.log.Warn("a tool can read files with keys or secrets, since they lie in a folder of its own: move them elsewhere, or give the tool less",
				"tool", name, "folder", folder)
		}
	}
}

// warnOfSocket warns of a tool that can allow its own calls: the control socket takes it for whoever runs the network.
func (n *Network) warnOfSocket(name string, granted bool) {
	if granted && !n.removes {
		n.log.Warn("a tool may connect to sockets of this machine, and so to the control socket, where tool calls are allowed: take unix_sockets out if it can do without",
			"tool", name, "data", n.dir)
	}
}

// realPath is the absolute path without symbolic links, as far as there is something.
func realPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

func isWithin(folder, path string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel)
}
