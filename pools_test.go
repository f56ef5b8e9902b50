package converge_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/transport"
)

// club is a world with pools, whose tasks are for members.
type club struct {
	*world
	store store.Store
	pools *pool.Manager
	owner *identity.Identity
}

func newClub(t *testing.T) *club {
	w := newWorld(t)
	s := must(memory.New(memory.Config{}))
	t.Cleanup(func() { s.Close() })
	c := &club{w, s, nil, must(identity.Generate())}
	c.pools = c.manager()
	c.tasks = must(task.New(task.Config{
		Store: s, Verifier: must(task.NewVerifier(w.registry, "test")), Logger: quiet, Member: c.pools.IsMember,
	}))
	return c
}

// manager returns a manager of pools as another process would have it.
func (c *club) manager() *pool.Manager {
	return must(pool.New(pool.Config{Store: c.store, Network: "test", Keys: c.registry, Logger: quiet}))
}

func (c *club) create(s pool.Spec) {
	c.t.Helper()
	if _, err := c.pools.Create(c.t.Context(), c.owner, s); err != nil {
		c.t.Fatal(err)
	}
}

// config returns the configuration of a new agent that has pools and tasks.
func (c *club) config(a converge.Agent) converge.Config {
	config := c.world.config(a)
	config.Pools, config.Tasks = c.manager(), c.tasks
	return config
}

// hand is an agent that decides whatever the test tells it to.
type hand struct {
	script
	wake    func()
	pending []converge.Decision
	mu      sync.Mutex
}

func newHand() *hand {
	h := &hand{}
	h.decide = func(converge.Turn) []converge.Decision {
		h.mu.Lock()
		defer h.mu.Unlock()
		now := h.pending
		h.pending = nil
		return now
	}
	return h
}

func (h *hand) SetWake(wake func()) { h.wake = wake }

// does has the agent decide, and returns what went wrong.
func (h *hand) does(decisions ...converge.Decision) []error {
	before := len(h.failures())
	h.mu.Lock()
	h.pending = decisions
	h.mu.Unlock()
	h.wake()
	time.Sleep(time.Second) // of the bubble
	return h.failures()[before:]
}

func (h *hand) mustDo(t *testing.T, decisions ...converge.Decision) {
	t.Helper()
	if errs := h.does(decisions...); len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
}

// last returns the last turn.
func (h *hand) last() converge.Turn {
	turns := h.seen()
	return turns[len(turns)-1]
}

var token = pool.Token("a token of more than 16 bytes")

func say(topic, body string) converge.SendMessage {
	return converge.SendMessage{Draft: message.Draft{Topics: []message.Topic{message.MustTopic(topic)}, Body: []byte(body)}}
}

func TestAgentsCreateJoinAndLeavePools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		alice, bob := newHand(), newHand()
		c.run(c.config(alice))
		c.run(c.config(bob))
		time.Sleep(time.Second)
		alice.mustDo(t,
			converge.CreatePool{Pool: "painters", Topics: []string{"talk"}, Admission: pool.ByToken, Token: token},
			converge.JoinPool{Pool: "painters"}, say("pool.painters.talk", "hello?")) // in the very turn
		if errs := bob.does(converge.JoinPool{Pool: "painters", Token: token[1:]}, converge.JoinPool{Pool: "poets"},
			converge.LeavePool{Pool: "painters"}, converge.CreatePool{Pool: "painters", Admission: pool.Open},
			converge.CreatePool{Pool: "lax"}, say("pool.painters.talk", "let me in")); len(errs) != 6 ||
			!errors.Is(errs[0], pool.ErrNotAdmitted) || !errors.Is(errs[1], pool.ErrNotFound) || !errors.Is(errs[2], pool.ErrNotMember) ||
			!errors.Is(errs[3], pool.ErrExists) || !errors.Is(errs[4], pool.ErrInvalid) || !errors.Is(errs[5], pool.ErrNotMember) {
			t.Errorf("Bob's failures: %v", errs)
		}
		bob.mustDo(t, converge.JoinPool{Pool: "painters", Token: token})
		if got := bob.last().Pools; !slices.Equal(got, []string{"painters"}) {
			t.Errorf("Bob sees himself in %q", got)
		}
		bob.mustDo(t, say("pool.painters.talk", "here I am"))
		alice.mustDo(t, say("pool.painters.talk", "welcome"))
		expectBodies(t, &alice.script, "here I am")
		expectBodies(t, &bob.script, "welcome")
		bob.mustDo(t, converge.LeavePool{Pool: "painters"})
		alice.mustDo(t, say("pool.painters.talk", "where are you?"))
		expectBodies(t, &bob.script, "welcome")
		if got := bob.last().Pools; len(got) > 0 {
			t.Errorf("Bob sees himself in %q", got)
		}
	})
}

// TestOnlyMembersAreHeardInAPool: Mallory does not heed what her runtime would refuse.
func TestOnlyMembersAreHeardInAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		c.create(pool.Spec{Name: "p", Admission: pool.Open, Topics: []string{"talk"}})
		bob, deaf := newHand(), &script{}
		bobs := c.config(bob)
		var hooks []string // what hooks see
		bobs.Hooks = []transport.Hook{transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
			hooks = append(hooks, string(m.Body()))
			return m, nil
		})}
		r := c.run(bobs)
		without := c.world.config(deaf) // it has no pools, and listens nevertheless
		without.Topics = []message.Pattern{message.MustPattern("pool.>"), message.MustPattern("news")}
		c.run(without)
		mallory, member := c.peer(), c.peer()
		time.Sleep(time.Second)
		bob.mustDo(t, converge.JoinPool{Pool: "p"})
		shout := func(p peer, body string, topics ...string) {
			t.Helper()
			synctest.Wait() // for the news of who is a member
			d := message.Draft{Body: []byte(body)}
			for _, topic := range topics {
				d.Topics = append(d.Topics, message.MustTopic(topic))
			}
			if _, err := p.Send(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		shout(mallory, "not a member", "pool.p.talk")
		shout(mallory, "not a member, on more than one topic", "news", "pool.p.talk")
		shout(mallory, "no such topic", "pool.p.other")
		if _, err := c.pools.Join(t.Context(), member.id, "p", nil); err != nil {
			t.Fatal(err)
		}
		shout(member, "a member", "pool.p.talk")
		shout(member, "not on this topic", "pool.p.other")
		if err := c.pools.Expel(t.Context(), c.owner, "p", member.id.ID()); err != nil {
			t.Fatal(err)
		}
		shout(member, "expelled", "pool.p.talk")
		if err := c.pools.Pardon(t.Context(), c.owner, "p", member.id.ID()); err != nil {
			t.Fatal(err)
		}
		shout(member, "pardoned", "pool.p.talk")
		if err := c.pools.Leave(t.Context(), member.id, "p"); err != nil {
			t.Fatal(err)
		}
		shout(member, "has left", "pool.p.talk")
		shout(mallory, "elsewhere", "news")
		expectBodies(t, &bob.script, "a member", "pardoned")
		if !slices.Equal(hooks, []string{"a member", "pardoned"}) {
			t.Errorf("hooks saw %q", hooks)
		}
		expectBodies(t, deaf, "elsewhere")
		if n := r.Stats().Hooks.Dropped[transport.StagePostReceive.String()]; n != 6 {
			t.Errorf("%d were dropped, want 6", n)
		}
	})
}

// TestHooksCannotPublishForANonMember: a hook that changes the topics changes nothing of who may use them.
func TestHooksCannotPublishForANonMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		c.create(pool.Spec{Name: "p", Admission: pool.Open, Topics: []string{"talk"}})
		bob := newHand()
		config := c.config(bob)
		config.Hooks = []transport.Hook{transport.OnSend(func(_ context.Context, d message.Draft) (*message.Draft, error) {
			d.Topics = []message.Topic{message.MustTopic("pool.p.talk")}
			return &d, nil
		})}
		c.run(config)
		time.Sleep(time.Second)
		if errs := bob.does(say("news", "x")); len(errs) != 1 || !errors.Is(errs[0], pool.ErrNotMember) {
			t.Errorf("failures: %v", errs)
		}
	})
}

func TestTasksOfAPoolAreForMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		c.create(pool.Spec{Name: "p", Admission: pool.Open})
		boss, bob, carol := newHand(), newHand(), newHand()
		tools := tool.NewRegistry()
		var stopped atomic.Value
		endless := tool.Func("paint", func(ctx context.Context, _ json.RawMessage) (tool.Output, error) {
			<-ctx.Done()
			stopped.Store(context.Cause(ctx))
			return tool.Output{}, context.Cause(ctx)
		})
		if err := tools.Register(endless, tool.Options{}); err != nil {
			t.Fatal(err)
		}
		bobs := c.config(bob)
		bobs.Executor = &converge.ExecutorConfig{Tools: tools, ToolAllowlist: []string{"paint"}}
		c.run(c.config(boss))
		c.run(bobs)
		c.run(c.config(carol))
		time.Sleep(time.Second)
		submit := converge.SubmitTask{Spec: task.Spec{ID: "wall", Kind: "paint", Pool: "p", ClaimTTL: time.Hour}}
		if errs := boss.does(submit); len(errs) != 1 || !errors.Is(errs[0], task.ErrNotMember) {
			t.Errorf("submission of a non-member: %v", errs)
		}
		boss.mustDo(t, converge.JoinPool{Pool: "p"}, submit)
		if n := len(bob.last().Tasks); n > 0 {
			t.Error("a non-member sees the task")
		}
		if errs := bob.does(converge.ClaimTask{TaskID: "wall"}); len(errs) != 1 || !errors.Is(errs[0], task.ErrNotRouted) {
			t.Errorf("claim of a non-member: %v", errs)
		}
		bob.mustDo(t, converge.JoinPool{Pool: "p"})
		if n := len(bob.last().Tasks); n != 1 {
			t.Errorf("a member sees %d tasks", n)
		}
		bob.mustDo(t, converge.ClaimTask{TaskID: "wall"}, converge.InvokeTool{Tool: "paint", TaskID: "wall"})
		if held := must(c.tasks.Get(t.Context(), "wall")); held.Claimant != bobs.Identity.ID() {
			t.Fatalf("the task is %v", held.Status)
		}
		// Bob is expelled: his tool stops, and the task is there for others, long before the claim runs out.
		if err := c.pools.Expel(t.Context(), c.owner, "p", bobs.Identity.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if why, _ := stopped.Load().(error); !errors.Is(why, task.ErrNotMember) {
			t.Errorf("the tool was stopped because of %v", why)
		}
		if errs := bob.does(converge.ReportTask{TaskID: "wall"}); len(errs) != 1 || !errors.Is(errs[0], converge.ErrNotHeld) {
			t.Errorf("report of an expelled agent: %v", errs)
		}
		carol.mustDo(t, converge.JoinPool{Pool: "p"}, converge.ClaimTask{TaskID: "wall"}, converge.ReportTask{TaskID: "wall"})
		if done := must(c.tasks.Get(t.Context(), "wall")); done.Status != task.Completed {
			t.Errorf("the task is %v", done.Status)
		}
		if n := len(bob.last().Tasks); n > 0 {
			t.Error("an expelled agent sees tasks")
		}
	})
}

// TestRestartedAgentIsStillInItsPools: membership is kept in the store, and takes effect again with the agent.
func TestRestartedAgentIsStillInItsPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		c.create(pool.Spec{Name: "p", Admission: pool.ByToken, Token: token, Topics: []string{"talk"}})
		alice, first, second := newHand(), newHand(), newHand()
		c.run(c.config(alice))
		bobs := c.config(first)
		a := c.run(bobs)
		time.Sleep(time.Second)
		alice.mustDo(t, converge.JoinPool{Pool: "p", Token: token})
		first.mustDo(t, converge.JoinPool{Pool: "p", Token: token})
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		bobs.Agent, bobs.Transport, bobs.Pools = second, c.network.Endpoint(bobs.Identity.ID()), c.manager()
		c.run(bobs)
		time.Sleep(time.Second)
		alice.mustDo(t, say("pool.p.talk", "good morning"))
		expectBodies(t, &second.script, "good morning")
		if got := second.seen()[0].Pools; !slices.Equal(got, []string{"p"}) {
			t.Errorf("in its first turn, the agent sees itself in %q", got)
		}
	})
}

// deafOnce is a transport that cannot be subscribed to for a while.
type deafOnce struct {
	transport.Transport
	until time.Time
}

func (d *deafOnce) Subscribe(ctx context.Context, p message.Pattern) error {
	if time.Now().Before(d.until) {
		return errors.New("deaf")
	}
	return d.Transport.Subscribe(ctx, p)
}

func TestSubscriptionThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClub(t)
		c.create(pool.Spec{Name: "p", Admission: pool.Open, Topics: []string{"talk"}})
		alice, bob := newHand(), newHand()
		c.run(c.config(alice))
		bobs := c.config(bob)
		bobs.Transport = &deafOnce{bobs.Transport, time.Now().Add(10 * time.Second)}
		c.run(bobs)
		time.Sleep(time.Second)
		alice.mustDo(t, converge.JoinPool{Pool: "p"})
		bob.mustDo(t, converge.JoinPool{Pool: "p"}) // which is done, whether he hears or not
		bob.mustDo(t, say("pool.p.talk", "I am in"))
		time.Sleep(time.Minute)
		alice.mustDo(t, say("pool.p.talk", "and you hear"))
		expectBodies(t, &bob.script, "and you hear")
		expectBodies(t, &alice.script, "I am in")
	})
}
