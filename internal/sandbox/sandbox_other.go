//go:build !linux

package sandbox

import (
	"os/exec"
	"runtime"
)

// Do calls fn. Nothing is restricted here.
func (p *Policy) Do(fn func(start func(*exec.Cmd) error) error) error {
	return fn((*exec.Cmd).Start)
}

// Protections says what is in force, which is nothing.
func (p *Policy) Protections() []Protection {
	var all []Protection
	for _, name := range []string{Files, Network, UnixSockets, Signals, Privileges, Capabilities, ResourceUse, Processes} {
		all = append(all, Protection{name, false, "not on " + runtime.GOOS})
	}
	return all
}
