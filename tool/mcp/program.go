package mcp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/internal/process"
	"github.com/converge-agents/converge/internal/sandbox"
)

// How long a program may take to end: once its standard input is closed, and once it was told by a signal. Then it
// is killed.
const (
	inputGrace  = 2 * time.Second
	signalGrace = time.Second
	// waitDelay bounds the wait for what holds the standard error open after the group is gone.
	waitDelay = time.Second
)

// connect begins a connection to a server.
type connect func(ctx context.Context) (*carrier, error)

// carrier is a connection, and what it rests on.
type carrier struct {
	connection sdk.Connection
	program    *running     // nil for a URL
	version    func(string) // wants to know the version of the protocol; may be nil
	release    func()       // called once the connection is closed; may be nil
}

// program is a program that can be started.
type program struct {
	path    string
	args    []string
	env     []string // not nil
	dir     string
	sandbox *sandbox.Policy // nil restricts nothing
}

// running is a program that was started.
type running struct {
	group  process.Group
	cmd    *exec.Cmd
	stderr *tail
	exited chan struct{} // closed when it has ended, with its group
	end    string        // how; valid then
}

func (p program) start() (*carrier, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		closeAll(childIn, in)
		return nil, err
	}
	r := &running{cmd: exec.Command(p.path, p.args...), stderr: &tail{}, exited: make(chan struct{})}
	r.group.DieWithParent = true
	r.cmd.Env, r.cmd.Dir, r.cmd.WaitDelay = p.env, p.dir, waitDelay
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = childIn, childOut, r.stderr
	err = r.start(p.sandbox)
	closeAll(childIn, childOut)
	if err != nil {
		closeAll(in, out)
		return nil, fmt.Errorf("start program %q: %w", p.path, err)
	}
	t := sdk.IOTransport{Reader: out, Writer: in, MaxLineLength: MaxMessage}
	c, err := t.Connect(context.Background())
	if err != nil {
		closeAll(in, out)
		r.stop()
		return nil, err
	}
	return &carrier{connection: newOutbox(c), program: r}, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// start starts the program from a thread that lives as long as it does, since the kernel kills it when that ends.
func (r *running) start(p *sandbox.Policy) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		began := false
		err := p.Do(func(start func(*exec.Cmd) error) error {
			if err := r.group.Start(r.cmd, start); err != nil {
				return err
			}
			began = true
			started <- nil
			return r.group.Wait(r.cmd)
		})
		if !began {
			started <- err
			return
		}
		r.end = process.Describe(r.cmd.ProcessState, err)
		close(r.exited)
	}()
	return <-started
}

// stop ends the program, whose standard input is closed, and waits for that.
func (r *running) stop() {
	for _, step := range []struct {
		patience time.Duration
		then     syscall.Signal
	}{{inputGrace, syscall.SIGTERM}, {signalGrace, syscall.SIGKILL}} {
		timer := time.NewTimer(step.patience)
		select {
		case <-r.exited:
			timer.Stop()
			return
		case <-timer.C:
			r.group.Signal(step.then)
		}
	}
	<-r.exited
}

// tail keeps the last maxStderr bytes of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := p[max(0, len(p)-maxStderr):]
	stale := max(0, len(w.kept)+len(fresh)-maxStderr)
	w.kept = append(w.kept[:copy(w.kept, w.kept[stale:])], fresh...)
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.kept)
}
