package role_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/task/remote"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

// Hanna keeps the tasks of her process for the agents of others.
var hanna = agent(5)

// host runs Hanna at the plant.
func (p *plant) host(rest converge.Config) (h *role.Host, stop func()) {
	p.t.Helper()
	h = must(role.NewHost(remote.HostConfig{Tasks: p.tasks, Allow: remote.AllowAll, Logger: slog.New(slog.DiscardHandler)}))
	rest.Agent, rest.Tasks = h, (*task.Manager)(nil) // a host needs none of its own
	return h, p.run(hanna, rest)
}

// elsewhere makes a configuration one of an agent that has nothing of the plant but messages.
func elsewhere(c converge.Config) converge.Config {
	c.Tasks = must(remote.New(remote.Config{Host: hanna.ID()}))
	return c
}

// cut is a hook by which an agent's cable is pulled.
type cut struct{ atomic.Bool }

func (c *cut) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) {
	if c.Load() {
		return nil, nil
	}
	return &d, nil
}

func (c *cut) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	if c.Load() {
		return nil, nil
	}
	return m, nil
}

func TestRemoteWorkersDoTheTasksOfALocalCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		p.host(converge.Config{})
		for i := range 4 {
			p.workerWith(agent(byte(20+i)), 5, elsewhere(converge.Config{}))
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, converge.Config{})
		took := await(t, k, time.Minute)
		if ideal := n / 20 * time.Second; took > 2*ideal {
			t.Errorf("took %v, want little more than %v", took, ideal)
		}
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
	})
}

func TestRemoteCoordinatorAndRemoteWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 120
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, 100*time.Millisecond)
		h, _ := p.host(converge.Config{})
		for i := range 3 {
			p.workerWith(agent(byte(20+i)), 5, elsewhere(converge.Config{}))
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work"), Window: 40}, elsewhere(converge.Config{}))
		await(t, k, time.Minute)
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
		if s := h.Stats(); s.Clients != 4 || s.Refused != 0 {
			t.Errorf("the host: %+v", s)
		}
	})
}

// TestDeadRemoteWorkersTasksAreDoneByAnother pulls the cable of a worker that is at work.
func TestDeadRemoteWorkersTasksAreDoneByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Minute)
		p.host(converge.Config{})
		var cable cut
		patient := func() *converge.ExecutorConfig { return &converge.ExecutorConfig{ToolTimeout: time.Hour} }
		p.workerWith(bob, 5, elsewhere(converge.Config{Hooks: []transport.Hook{&cable}, Executor: patient()}))
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: withTTL(specs(n, "work"), 30*time.Second)}, converge.Config{})
		time.Sleep(10 * time.Second)
		cable.Store(true)
		p.workerWith(carol, 5, elsewhere(converge.Config{Executor: patient()}))
		took := await(t, k, 20*time.Minute)
		if took > 6*time.Minute {
			t.Errorf("took %v", took)
		}
		expectAllSigned(t, k)
		again := 0
		for _, o := range k.Outcomes() {
			if o.Task.Claimant != carol.ID() {
				t.Errorf("%s was done by %s", o.Task.ID, o.Task.Claimant.Short())
			}
			if o.Task.Epoch == 2 {
				again++
			}
		}
		if stopped := w.tasks()[2]; again != 5 || stopped != 5 {
			t.Errorf("%d tasks were done by a second one, %d of the first one's tools were stopped; want 5", again, stopped)
		}
	})
}

// TestCancellationStopsARemoteWorkersTool has a coordinator whose time is up.
func TestCancellationStopsARemoteWorkersTool(t *testing.T) {
	for _, where := range []string{"here", "elsewhere"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlant(t, task.Config{})
				w := newWorkshop(p, time.Hour)
				p.host(converge.Config{})
				worker, coordinator := elsewhere(converge.Config{}), converge.Config{}
				if where == "elsewhere" {
					worker, coordinator = coordinator, worker
				}
				worker.Executor = &converge.ExecutorConfig{ToolTimeout: 2 * time.Hour}
				p.workerWith(bob, 5, worker)
				k := p.coordinator(alice, role.CoordinatorConfig{Tasks: withTTL(specs(3, "work"), time.Hour), Deadline: time.Minute}, coordinator)
				time.Sleep(time.Minute + 100*time.Millisecond)
				synctest.Wait()
				if got := w.tasks(); got != [3]int{3, 0, 3} {
					t.Errorf("of 3 tools %v were begun, finished, and stopped", got)
				}
				await(t, k, time.Second)
				for _, o := range k.Outcomes() {
					expectError(t, o, task.Cancelled, "cancelled")
				}
			})
		})
	}
}

// TestHostRestartsInTheMiddleOfAJob has Hanna's process end and begin again, with the same tasks.
func TestHostRestartsInTheMiddleOfAJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		_, stop := p.host(converge.Config{})
		for i := range 2 {
			p.workerWith(agent(byte(20+i)), 5, elsewhere(converge.Config{}))
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, elsewhere(converge.Config{}))
		for range 3 {
			time.Sleep(2500 * time.Millisecond)
			stop()
			time.Sleep(3 * time.Second)
			_, stop = p.host(converge.Config{})
		}
		await(t, k, 3*time.Minute)
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
	})
}

// TestHostIsAwayForLong lets everybody give up on the host, and work when it comes.
func TestHostIsAwayForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 50
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		p.workerWith(bob, 5, elsewhere(converge.Config{}))
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, elsewhere(converge.Config{}))
		time.Sleep(10 * time.Minute)
		if got := k.Progress(); got.Failed != 0 || got.Completed != 0 {
			t.Errorf("without a host: %+v", got)
		}
		p.host(converge.Config{})
		await(t, k, time.Minute)
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
	})
}

// TestEveryTaskIsDoneOnceWhateverIsLost drops requests and answers in both directions.
func TestEveryTaskIsDoneOnceWhateverIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, time.Second)
		var mu sync.Mutex
		chance := rand.New(rand.NewPCG(1, 2))
		lossy := func() converge.Config {
			return converge.Config{Hooks: []transport.Hook{
				transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
					mu.Lock()
					defer mu.Unlock()
					if t := m.ContentType(); (t == remote.RequestType || t == remote.ReplyType) && chance.IntN(100) < 30 {
						return nil, nil
					}
					return m, nil
				}),
			}}
		}
		p.host(lossy())
		for i := range 2 {
			p.workerWith(agent(byte(20+i)), 5, elsewhere(lossy()))
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: withTTL(specs(n, "work"), 10*time.Minute)}, elsewhere(lossy()))
		await(t, k, time.Hour)
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
	})
}

// TestTasksGetThroughTheDefaultLimits has everybody under the limits that a configuration file has by
// default, in both directions, Hanna included.
func TestTasksGetThroughTheDefaultLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, workers = limitedTasks, 6
		p := newPlant(t, task.Config{})
		w := newWorkshop(p, 10*time.Millisecond)
		limited := func() converge.Config {
			limiter := func() *ratelimit.Limiter {
				return must(ratelimit.New(ratelimit.Config{
					Global: ratelimit.Unlimited, Sender: ratelimit.Limit{Rate: 500, Burst: 1000}, Topic: ratelimit.Unlimited,
				}))
			}
			return converge.Config{
				Hooks:    []transport.Hook{ratelimit.NewHook(limiter())},
				Executor: &converge.ExecutorConfig{Limiter: limiter()},
			}
		}
		h, _ := p.host(limited())
		for i := range workers {
			p.workerWith(agent(byte(20+i)), 4, elsewhere(limited()))
		}
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, elsewhere(limited()))
		took := await(t, k, 5*time.Minute)
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
		t.Logf("%d tasks took %v and %d requests", n, took, h.Stats().Requests)
		if took > time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

// TestRemoteWorkerThatStopsReportsAndReleases stops a worker whose tools run: those that end in time are
// reported, and the other tasks need not wait for their claims to run out.
func TestRemoteWorkerThatStopsReportsAndReleases(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		want  task.Status
	}{{6 * time.Second, task.Completed}, {time.Hour, task.Pending}} {
		t.Run(c.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlant(t, task.Config{})
				newWorkshop(p, c.takes)
				p.host(converge.Config{})
				stop := p.workerWith(bob, 3, elsewhere(converge.Config{}))
				k := p.coordinator(alice, role.CoordinatorConfig{Tasks: withTTL(specs(3, "work"), time.Hour)}, converge.Config{})
				time.Sleep(time.Second)
				stop()
				time.Sleep(time.Second)
				if c.want == task.Completed {
					expectAllSigned(t, k)
					return
				}
				if got := p.tasks.Visible(task.Profile{Capabilities: []string{"work"}}, 10); len(got) != 3 {
					t.Errorf("%d tasks were given back", len(got))
				}
			})
		})
	}
}

// TestFullInboxHoldsUpNoAnswers floods a worker that takes its time over each turn.
func TestFullInboxHoldsUpNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlant(t, task.Config{})
		p.host(converge.Config{})
		var won, reported atomic.Int64
		slow := decide(func(turn converge.Turn) (all []converge.Decision) {
			time.Sleep(time.Second)
			for _, pending := range turn.Tasks {
				all = append(all, converge.ClaimTask{TaskID: pending.ID})
			}
			for _, claimed := range turn.Claimed {
				won.Add(1)
				all = append(all, converge.ReportTask{TaskID: claimed.ID})
			}
			return all
		})
		p.run(bob, elsewhere(converge.Config{Agent: slow, Inbox: converge.InboxConfig{Capacity: 2}, TurnMessages: 1}))
		flood := decide(func(converge.Turn) (all []converge.Decision) {
			for range 20 {
				all = append(all, converge.SendMessage{Draft: message.Draft{To: bob.ID()}})
			}
			return append(all, converge.Wake{After: 100 * time.Millisecond})
		})
		p.run(mallory, converge.Config{Agent: flood})
		defer p.tasks.Attach(func(t task.Task) {
			if t.Status == task.Completed {
				reported.Add(1)
			}
		})()
		for i := range 10 {
			p.submit(alice, task.Spec{ID: fmt.Sprint(i), Kind: "k"})
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if won.Load() != 10 || reported.Load() != 10 {
			t.Errorf("won %d and reported %d of 10", won.Load(), reported.Load())
		}
	})
}

// TestClientThatNeverReadsHoldsUpNobody has Mallory ask and ask without taking any answer.
func TestClientThatNeverReadsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		p := newPlant(t, task.Config{})
		p.wires = must(local.New(local.Config{Capacity: 16}))
		w := newWorkshop(p, time.Second)
		p.host(converge.Config{SendTimeout: role.HostSendTimeout})
		for i := range 2 {
			p.workerWith(agent(byte(20+i)), 5, elsewhere(converge.Config{}))
		}
		if err := p.registry.Register(mallory.ID(), mallory.PublicKey()); err != nil {
			t.Fatal(err)
		}
		deaf := p.wires.Endpoint(mallory.ID())
		if err := deaf.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer deaf.Close()
		k := p.coordinator(alice, role.CoordinatorConfig{Tasks: specs(n, "work")}, converge.Config{})
		synctest.Wait()
		signer := must(message.NewSigner(message.SignerConfig{Identity: mallory, Network: network}))
		ctx, cancel := context.WithCancel(t.Context())
		var asking sync.WaitGroup
		asking.Go(func() {
			for ctx.Err() == nil {
				m := must(signer.Sign(context.Background(), message.Draft{To: hanna.ID(), ContentType: remote.RequestType, Body: []byte("?")}))
				deaf.Send(ctx, transport.RouteOf(m), m.Raw())
				time.Sleep(50 * time.Millisecond)
			}
		})
		took := await(t, k, 5*time.Minute)
		cancel()
		asking.Wait()
		if ideal := n / 10 * time.Second; took > 2*ideal {
			t.Errorf("took %v, want little more than %v", took, ideal)
		}
		expectAllSigned(t, k)
		w.expectAllOnce(t, n)
	})
}

// TestHostWantsAPolicy and all else that it cannot do without.
func TestHostWantsAPolicy(t *testing.T) {
	p := newPlant(t, task.Config{})
	for want, c := range map[string]remote.HostConfig{
		"Tasks":      {Allow: remote.AllowAll},
		"Allow":      {Tasks: p.tasks},
		"MaxMessage": {Tasks: p.tasks, Allow: remote.AllowAll, MaxMessage: 1000},
		"MaxClients": {Tasks: p.tasks, Allow: remote.AllowAll, MaxClients: -1},
	} {
		if _, err := role.NewHost(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error that names %s", err, want)
		}
	}
}
