package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
)

// Run runs all agents until ctx ends, or [Network.Abort] is called. Then it waits for them to finish what
// they have begun, workers first, so that coordinators learn of it, and hosts last, so that what is given
// back still arrives; it disconnects from other processes, and returns nil. It returns an error
// if an agent cannot start or fails; the others are stopped in that case. It can be called once.
func (n *Network) Run(ctx context.Context) error {
	switch {
	case n.closed.Load():
		return errors.New("run network: it is closed")
	case !n.ran.CompareAndSwap(false, true):
		return errors.New("run network: Run was called before")
	}
	if ctx.Err() != nil {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(n.aborted, func() { stop(errAborted) })()
	now := time.Now()
	n.started.Store(&now)
	closeMetrics, err := n.serveMetrics()
	if err != nil {
		return err
	}
	defer closeMetrics()
	if err := n.transport.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return n.explained([]error{fmt.Errorf("start transport %s: %w", n.config.TransportKind(), err)})
	}

	var job sync.WaitGroup
	defer job.Wait()
	job.Go(func() { n.awaitJob(ctx) })
	keys, endKeys := context.WithCancel(context.WithoutCancel(ctx)) // until everybody has ended
	defer endKeys()
	job.Go(func() { n.tendKeys(keys) })
	control := n.serveControl()
	job.Go(func() { control(keys) })
	job.Go(func() { _ = n.approvals.Run(ctx) }) // calls that wait when agents are to stop would hold them up
	workers, coordinators, hosts := n.newCrew(ctx, stop), n.newCrew(ctx, stop), n.newCrew(ctx, stop)
	n.start(ctx, workers, coordinators, hosts)
	hush := n.runGossip(ctx)
	<-ctx.Done()
	n.population.Close() // keys stay: those who withdraw now are heard to the end
	hush(config.KindWorker)
	hush(config.KindLLM)
	workers.stop(context.Cause(ctx))
	n.log.Info("agents are stopping; tools that run get time to finish", "at_most", cmp.Or(n.options.DrainTimeout, converge.DefaultDrainTimeout))
	workers.running.Wait()
	n.settle()
	hush(config.KindCoordinator)
	coordinators.end(context.Cause(ctx))
	hush(config.KindHost)
	hosts.end(context.Cause(ctx))
	err = errors.Join(n.explained(slices.Concat(workers.errs, coordinators.errs, hosts.errs)), n.flushAudit())
	if n.disconnect != nil { // the store is there: Close ends both, in order
		return err
	}
	return errors.Join(err, n.transport.Close())
}

// start starts all agents. Coordinators begin when they can verify what the others of this process will
// tell them.
func (n *Network) start(ctx context.Context, workers, coordinators, hosts *crew) {
	crews := map[string]*crew{config.KindCoordinator: coordinators, config.KindHost: hosts}
	for _, m := range n.members {
		if m.kind != config.KindCoordinator {
			cmp.Or(crews[m.kind], workers).start(m)
		}
	}
	for _, m := range n.members {
		if m.kind == config.KindCoordinator {
			continue
		}
		if err := n.population.Wait(ctx, m.id); err != nil {
			if ctx.Err() == nil {
				workers.ended(err)
			}
			return
		}
	}
	for _, m := range n.members {
		if m.kind == config.KindCoordinator {
			coordinators.start(m)
		}
	}
}

// settleTime bounds the wait for coordinators to hear what workers have sent.
const settleTime = time.Second

// settle waits until coordinators have counted the tasks that have ended, as far as they are here.
func (n *Network) settle() {
	if n.tasks == nil {
		return
	}
	patience := time.NewTimer(settleTime)
	defer patience.Stop()
	for {
		s, p := n.tasks.Stats(), n.Progress()
		// A dead letter that was requeued ends again, and coordinators do not count it anew.
		if uint64(p.Completed+p.Failed)+s.Requeued >= s.Completed+s.Failed+s.Cancelled {
			return
		}
		select {
		case <-n.progressed:
		case <-patience.C:
			return
		}
	}
}

// crew is agents that run and are stopped together.
type crew struct {
	ctx     context.Context // of all of them; ends with stop
	stop    context.CancelCauseFunc
	fail    context.CancelCauseFunc // stops the whole network
	join    func(context.Context, *member) error
	running sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

// newCrew returns an empty crew, which does not end with ctx.
func (n *Network) newCrew(ctx context.Context, fail context.CancelCauseFunc) *crew {
	c := &crew{fail: fail, join: n.joinPools}
	c.ctx, c.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return c
}

// end stops the crew and waits for it.
func (c *crew) end(cause error) {
	c.stop(cause)
	c.running.Wait()
}

func (c *crew) start(m member) {
	c.running.Go(func() {
		err := c.join(c.ctx, &m)
		if err == nil {
			err = m.runtime.Run(c.ctx)
		}
		c.ended(err)
	})
}

// ended takes in how an agent has ended. It is no failure that one could not start any more.
func (c *crew) ended(err error) {
	if err == nil || c.ctx.Err() != nil && errors.Is(err, context.Cause(c.ctx)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
	c.fail(err)
}

var errAborted = errors.New("the network was told to end at once")

// Abort makes Run end at once: the tools that run are killed, and no others are started. It may be
// called at any time.
func (n *Network) Abort() { n.abort(errAborted) }

// awaitJob closes done when all coordinators are done.
func (n *Network) awaitJob(ctx context.Context) {
	coordinators := 0
	for _, m := range n.members {
		if m.coordinator == nil {
			continue
		}
		coordinators++
		select {
		case <-m.coordinator.Done():
		case <-ctx.Done():
			return
		}
	}
	if coordinators == 0 {
		return
	}
	now := time.Now()
	n.ended.Store(&now)
	p := n.Progress()
	n.log.Info("all tasks have ended", "completed", p.Completed, "failed", p.Failed)
	close(n.done)
}

// serveMetrics serves metrics and health if the configuration says where.
func (n *Network) serveMetrics() (stop func(), err error) {
	if n.config.Metrics.Listen == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", n.config.Metrics.Listen)
	if err != nil {
		return nil, fmt.Errorf("serve metrics (metrics.listen): %w", err)
	}
	server := &http.Server{
		Handler:           n.metrics.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	n.log.Info("serving /metrics, /healthz and /readyz", "address", listener.Addr().String())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("metrics server failed", "error", err)
		}
	}()
	return func() { server.Close(); <-served }, nil
}
