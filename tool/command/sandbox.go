package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/sandbox"
)

// Limits bound what a process may use. Where this process has a lower limit, that holds.
type Limits struct {
	// CPU is the processor time, rounded up to whole seconds. The default is as much as all processors give
	// until the call's deadline, and without a deadline none.
	CPU time.Duration
	// Memory is the private writable memory, in bytes.
	Memory int64
	// AddressSpace is all that is mapped, in bytes. Many runtimes map far more than they use.
	AddressSpace int64
	// FileSize is the size up to which a file may be written, in bytes.
	FileSize int64
	// OpenFiles is the number of descriptors.
	OpenFiles int
	// Processes is the number of processes and threads of the user who runs this process, in this tool and
	// outside. It does not hold for root.
	Processes int
}

// DefaultLimits returns the limits that hold unless [Config.Limits] has others.
func DefaultLimits() Limits {
	return Limits{Memory: 2 << 30, AddressSpace: 64 << 30, FileSize: 1 << 30, OpenFiles: 1024, Processes: 4096}
}

// Protection is a thing that a tool's program is kept from.
type Protection struct {
	Name    string // a word or two, such as "files", "network" or "limits"
	InForce bool
	Detail  string // by what, or why not
}

// String is the name and, in brackets, the detail.
func (p Protection) String() string { return fmt.Sprintf("%s (%s)", p.Name, p.Detail) }

// Protections says what the program is kept from on this machine, and what not, and why. It is found out by trying,
// once in a process. What the configuration grants is not mentioned.
func (t *Tool) Protections() []Protection {
	if t.sandbox == nil {
		return []Protection{{"sandbox", false, "switched off by UnsafeNoSandbox"}}
	}
	var all []Protection
	for _, p := range t.sandbox.Protections() {
		all = append(all, Protection(p))
	}
	return all
}

func (c Config) asksForSandbox() bool {
	return len(c.Read)+len(c.Write) > 0 || c.Network || c.UnixSockets || c.RequireSandbox || c.Limits != Limits{}
}

// setSandbox comes last: it grants what the other steps have found.
func (c Config) setSandbox(t *Tool) error {
	if c.UnsafeNoSandbox {
		return nil
	}
	if err := c.Limits.check(); err != nil {
		return err
	}
	p := &sandbox.Policy{
		Network:     c.Network,
		UnixSockets: c.UnixSockets,
		Limits:      sandbox.Limits(DefaultLimits()).Replaced(sandbox.Limits(c.Limits)),
		Read:        t.readable(),
	}
	for _, grant := range []struct {
		field string
		paths []string
		to    *[]string
	}{{"Read", c.Read, &p.Read}, {"Write", c.Write, &p.Write}} {
		for i, path := range grant.paths {
			abs, err := existing(path)
			if err != nil {
				return fmt.Errorf("field %s[%d] %q: %w", grant.field, i, path, err)
			}
			*grant.to = append(*grant.to, abs)
		}
	}
	p.Resolve()
	t.sandbox = p
	if c.RequireSandbox {
		return t.missing()
	}
	return nil
}

func (l Limits) check() error {
	for _, limit := range []struct {
		field string
		value int64
	}{
		{"CPU", int64(l.CPU)}, {"Memory", l.Memory}, {"AddressSpace", l.AddressSpace},
		{"FileSize", l.FileSize}, {"OpenFiles", int64(l.OpenFiles)}, {"Processes", int64(l.Processes)},
	} {
		if limit.value < 0 {
			return fmt.Errorf("field Limits.%s is negative; 0 means its default", limit.field)
		}
	}
	return nil
}

// readable are the program, and the places that its configuration names.
func (t *Tool) readable() []string {
	read := []string{t.program}
	if t.dir != "" {
		read = append(read, t.dir)
	}
	for _, within := range t.paths {
		if len(within.hidden) == 0 {
			read = append(read, within.real)
		}
	}
	if t.stdinFile != nil && !t.stdinFile[0].IsParam {
		read = append(read, t.stdinFile[0].Text)
	}
	slices.Sort(read)
	return slices.Compact(read)
}

// missing is an error if a protection is not in force.
func (t *Tool) missing() error {
	var missing []string
	for _, p := range t.Protections() {
		if !p.InForce && p.Name != sandbox.Processes {
			missing = append(missing, p.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("field RequireSandbox: not in force: %s: %w", strings.Join(missing, "; "), errors.ErrUnsupported)
}

// policy is the sandbox of one call: it grants the call's own directory, what the call names of directories that are
// not granted whole, and processor time until the deadline.
func (t *Tool) policy(ctx context.Context, own string, named []string) *sandbox.Policy {
	if t.sandbox == nil {
		return nil
	}
	p := *t.sandbox
	p.Read = append(slices.Clip(p.Read), named...)
	p.Write = append([]string{own}, p.Write...)
	if deadline, ok := ctx.Deadline(); ok && p.Limits.CPU == 0 {
		p.Limits.CPU = max(time.Until(deadline), 1) * time.Duration(runtime.NumCPU())
	}
	return &p
}

// environment is that of one call: a program that wants a temporary file has a place for it.
func (t *Tool) environment(own string) []string {
	for _, variable := range t.env {
		if strings.HasPrefix(variable, "TMPDIR=") {
			return t.env
		}
	}
	return append(slices.Clip(t.env), "TMPDIR="+own)
}

// existing returns the absolute path of a file or directory, which has to exist.
func existing(path string) (string, error) {
	if path == "" {
		return "", errors.New(`is empty; "." is the current directory`)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := filepath.EvalSymlinks(abs); err != nil {
		return "", withoutPath(err)
	}
	return abs, nil
}
