package converge

import (
	"context"
	"sync"
	"time"

	"github.com/converge-agents/converge/discovery"
)

// register publishes the agent's descriptor and keeps it in force until stop is called, which withdraws
// it.
func (r *Runtime) register(ctx context.Context) (stop func(), err error) {
	service := r.config.Discovery
	if service == nil {
		return func() {}, nil
	}
	d := discovery.Descriptor{
		Name:         r.config.Name,
		Topics:       r.config.Topics,
		Capabilities: r.config.Capabilities,
		Endpoints:    r.config.Endpoints,
	}
	id := r.signer.Identity()
	if _, err := service.Register(ctx, id, d); err != nil {
		return nil, err
	}
	renewal := &renewal{every: service.TTL() / 2, renew: func() {
		if _, err := service.Renew(ctx, r.signer.Identity(), d); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot renew the agent's descriptor", "error", err)
		}
	}}
	renewal.start()
	r.registered.Store(renewal)
	if r.signer.Identity() != id { // it was rotated meanwhile
		renewal.hurry()
	}
	return func() {
		r.registered.Store(nil)
		renewal.stop()
		r.withdraw(ctx)
	}, nil
}

func (r *Runtime) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.config.DrainTimeout)
	defer cancel()
	if err := r.config.Discovery.Withdraw(ctx, r.signer.Identity()); err != nil {
		r.log.Warn("cannot withdraw the agent's descriptor; it runs out by itself", "error", err, "within", r.config.Discovery.TTL())
	}
}

// renewal does something at intervals without holding a goroutine in between.
type renewal struct {
	every time.Duration
	renew func()

	mu      sync.Mutex // held while renewing
	timer   *time.Timer
	stopped bool
}

func (r *renewal) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(r.every, r.run)
}

func (r *renewal) run() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.renew()
	r.timer.Reset(r.every)
}

// hurry has the renewal come at once. It may be called on nil, and otherwise
// after start.
func (r *renewal) hurry() {
	if r != nil {
		r.timer.Reset(0) // without the lock: one that is under way may be slow, and is followed by another
	}
}

// stop waits for a renewal that is under way.
func (r *renewal) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.timer.Stop()
}
