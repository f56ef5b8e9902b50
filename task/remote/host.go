package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// Defaults of a [HostConfig].
const DefaultMaxClients = 4096

// HostConfig is what a [Host] is made of.
type HostConfig struct {
	Tasks *task.Manager // required
	Allow Policy        // who may do what; required, see AllowAll
	// Pools returns the pools that an agent is a member of, whatever it announces; pool.Manager.Pools is one.
	// nil means none. It is called for every request, and has to be quick and safe for concurrent use.
	Pools func(agent identity.ID) []string

	// MaxMessage is the size of the largest message that can be sent in the network, in bytes, at least
	// 64 KiB; 0 means message.DefaultMaxSize. Where it is less than that, a task that is submitted or
	// reported to the host may have params of a quarter and a result of half of it at most.
	MaxMessage int
	// MaxClients is how many agents can have a poll parked or their tasks' ends followed; 0 means
	// DefaultMaxClients. Others are told to ask again, while operations work for everybody.
	MaxClients int
	Logger     *slog.Logger     // nil means slog.Default
	Now        func() time.Time // has to be the clock of Tasks, which nil means
}

// Host answers the requests of clients. Something else receives them and sends the answers: role.Host, or
// whatever calls [Host.Answer] for each message, and [Host.Due] after that, when the host has it woken, and
// when the time is up that the last Due has named. It runs no goroutine, and is safe for concurrent use.
type Host struct {
	config   HostConfig
	instance uint64
	room     int // for the body of a message
	soft     int // size of a body beyond which nothing more is begun

	mu      sync.Mutex // never held while the manager is asked
	wake    func()
	clients map[identity.ID]*client
	parked  []*poll // in the order of their coming
	events  events
	urgent  bool // there is an end of a task for somebody who waits
	dirty   bool // tasks have changed since those who wait were last looked after
	expiry  time.Time
	pace    pace
	others  bucket // the budget of agents that are not among the clients

	requests stat.Counter
	refused  stat.Counter
	answered stat.Counter
}

// HostStats counts what a [Host] has done.
type HostStats struct {
	Clients  int    // agents that it follows now
	Parked   int    // polls that wait now
	Requests uint64 // verified requests
	Refused  uint64 // those of them that were malformed or not allowed, as a whole
	Answered uint64 // answers handed out
}

// NewHost checks the configuration and returns a host. It hears of changes once it is attached.
func NewHost(c HostConfig) (*Host, error) {
	switch {
	case c.Tasks == nil:
		return nil, errors.New("remote.HostConfig.Tasks: required")
	case c.Allow == nil:
		return nil, errors.New("remote.HostConfig.Allow: required; remote.AllowAll allows everything to every verified agent")
	case c.MaxMessage != 0 && c.MaxMessage < minMessage:
		return nil, fmt.Errorf("remote.HostConfig.MaxMessage: %d is less than %d", c.MaxMessage, minMessage)
	case c.MaxClients < 0:
		return nil, errors.New("remote.HostConfig.MaxClients: negative")
	}
	c.MaxMessage = cmp.Or(c.MaxMessage, message.DefaultMaxSize)
	c.MaxClients = cmp.Or(c.MaxClients, DefaultMaxClients)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Now == nil {
		c.Now = c.Tasks.Now
	}
	room := c.MaxMessage - envelope
	return &Host{
		config:   c,
		instance: rand.Uint64() | 1,
		room:     room,
		soft:     soft(room),
		wake:     func() {},
		clients:  map[identity.ID]*client{},
	}, nil
}

const (
	minMessage = 64 << 10
	envelope   = 4 << 10 // what the envelope of a request or a reply takes at most
)

// soft is the size beyond which a body gets nothing more: the last thing that it got may be large.
func soft(room int) int { return min(room/8, 128<<10) }

// Attach has the host follow the manager's tasks until detach is called, and wake be called whenever
// [Host.Due] may have answers to give. wake must not block.
func (h *Host) Attach(wake func()) (detach func()) {
	h.mu.Lock()
	h.wake = wake
	h.mu.Unlock()
	return h.config.Tasks.Attach(h.observe)
}

// Stats returns the counts of this moment.
func (h *Host) Stats() HostStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return HostStats{
		Clients: len(h.clients), Parked: len(h.parked),
		Requests: h.requests.Load(), Refused: h.refused.Load(), Answered: h.answered.Load(),
	}
}

// Answer carries out the request in a message and returns the answer to send, if there is one to be sent
// now: not for other messages, nor for those that are not verified or not addressed to this agent alone,
// nor for a poll that has to wait, which [Host.Due] answers.
func (h *Host) Answer(ctx context.Context, m *message.Message) (draft message.Draft, ok bool) {
	if m.ContentType() != RequestType || !m.Verified() || m.To().IsZero() {
		return message.Draft{}, false
	}
	h.requests.Inc()
	now := h.config.Now()
	q, f := parseRequest(m.Body(), now)
	rights := h.config.Allow(m.Sender())
	if f.code == 0 && !rights.Submit && !rights.Work {
		f.code = codeNotAllowed
	}
	if f.code != 0 {
		h.refused.Inc()
		return h.draft(m.Sender(), m.ID(), &reply{failure: f}), true
	}
	announced, pools := q.profile, h.pools(m.Sender())
	q.profile = rights.profile(m.Sender(), announced, pools)
	h.meet(m.Sender(), now)
	if !h.affords(m.Sender(), q, now) {
		return h.draft(m.Sender(), m.ID(), &reply{failure: failure{code: codeBusy}}), true
	}
	switch {
	case q.poll != nil:
		p := newPoll(m, q, rights, now)
		p.announced, p.pools = announced, pools
		return h.take(ctx, p)
	case q.review != nil:
		return h.draft(m.Sender(), m.ID(), h.look(ctx, m.Sender(), q.review)), true
	}
	return h.draft(m.Sender(), m.ID(), &reply{results: h.carryOut(ctx, m.Sender(), rights, q)}), true
}

// pools returns the pools that an agent is a member of.
func (h *Host) pools(agent identity.ID) []string {
	if h.config.Pools == nil {
		return nil
	}
	return h.config.Pools(agent)
}

// profile returns what the agent is taken for, which is a member of these pools.
func (r *Rights) profile(agent identity.ID, announced task.Profile, pools []string) task.Profile {
	announced.Pools = pools
	if r.Narrow != nil {
		announced = r.Narrow(announced)
		announced.Pools = slices.DeleteFunc(slices.Clone(announced.Pools), func(p string) bool { return !slices.Contains(pools, p) })
	}
	announced.Agent = agent
	return announced
}

// replyTTL lets no answer live much longer than anybody waits for it.
const replyTTL = 30 * time.Second

func (h *Host) draft(to identity.ID, inReplyTo message.ID, p *reply) message.Draft {
	h.answered.Inc()
	p.instance = h.instance
	return message.Draft{
		To: to, InReplyTo: inReplyTo, ContentType: ReplyType, TTL: replyTTL,
		Body: p.append(nil, h.config.Now()),
	}
}

// look answers a review. It stops before the answer becomes too large.
func (h *Host) look(ctx context.Context, agent identity.ID, ids []string) *reply {
	v := &reviewReply{}
	size := 0
	for _, id := range ids {
		t, err := h.config.Tasks.Get(ctx, id)
		switch {
		case errors.Is(err, task.ErrNotFound), errors.Is(err, task.ErrInvalid), errors.Is(err, task.ErrRecord),
			err == nil && t.Submitter != agent && t.Claimant != agent:
			v.gone = append(v.gone, id)
			size += len(id) + 3
		case err != nil:
			h.config.Logger.WarnContext(ctx, "task cannot be read for a client", "task", id, "error", err)
			return &reply{failure: failureOf(err)}
		case t.Status.Terminal():
			t = h.fitEnded(t, agent)
			v.ended = append(v.ended, t)
			size += weight(&t)
		}
		v.done++
		if size > h.soft {
			break
		}
	}
	return &reply{review: v}
}

// fitEnded leaves out of a task that has ended what its former holder does not need, and what has no
// room in a message.
func (h *Host) fitEnded(t task.Task, agent identity.ID) task.Task {
	if t.Submitter != agent {
		t.Params, t.Result, t.Proof, t.ResultProof = nil, nil, nil, nil
	}
	if weight(&t) > h.room-h.soft {
		t.Params = nil
	}
	return t
}

// carryOut carries out operations in order, for as long as the answer has room for what comes of them.
func (h *Host) carryOut(ctx context.Context, agent identity.ID, rights Rights, q *request) []result {
	results := make([]result, len(q.ops))
	size := 0
	for i := range q.ops {
		if size > h.soft {
			results[i].code = codeLater
			continue
		}
		results[i] = h.carryOutOne(ctx, agent, rights, &q.profile, &q.ops[i])
		if t := results[i].task; t != nil {
			size += weight(t)
		}
	}
	return results
}

func (h *Host) carryOutOne(ctx context.Context, agent identity.ID, rights Rights, p *task.Profile, o *Op) result {
	if o.Kind > OpRequeue {
		return result{failure: failure{codeUnsupported, fmt.Sprintf("operation %d", o.Kind)}}
	}
	if forSubmitters := o.Kind == OpSubmit || o.Kind == OpCancel || o.Kind == OpRequeue; forSubmitters && !rights.Submit || !forSubmitters && !rights.Work {
		return result{failure: failure{code: codeNotAllowed}}
	}
	if err := h.checkRoom(o); err != nil {
		return result{failure: failureOf(err)}
	}
	o.Spec.Submitter, o.Claim.Agent = agent, agent
	d := deed{h.config.Tasks, agent, p, o}
	r, err := d.do(ctx)
	if err != nil {
		r = result{failure: failureOf(err)}
	}
	if r.code == codeUnavailable {
		h.config.Logger.WarnContext(ctx, "task operation of a client has gone wrong", "operation", o.Kind.String(), "task", o.id(), "error", err)
	}
	return r
}

// checkRoom refuses what could be taken in but not be told to others in this network.
func (h *Host) checkRoom(o *Op) error {
	if h.config.MaxMessage >= message.DefaultMaxSize {
		return nil
	}
	if most := h.config.MaxMessage / 4; len(o.Spec.Params) > most {
		return fmt.Errorf("%w: Params has %d bytes where messages of this network have room for %d", task.ErrInvalid, len(o.Spec.Params), most)
	}
	if most := h.config.MaxMessage / 2; len(o.Result) > most {
		return fmt.Errorf("%w: the result has %d bytes where messages of this network have room for %d", task.ErrInvalid, len(o.Result), most)
	}
	return nil
}

// meet notes that an agent has asked something, so that ends of its tasks are remembered from now on.
func (h *Host) meet(agent identity.ID, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clients[agent]; c != nil {
		c.seen = now
		return
	}
	if len(h.clients) >= h.config.MaxClients {
		h.forget(now)
	}
	if len(h.clients) < h.config.MaxClients {
		h.clients[agent] = &client{since: h.events.last, seen: now}
	}
}

// What requests cost an agent, and what it has to spend.
const (
	opCost      = 1
	pollCost    = 40
	reviewCost  = 1.0 / 8 // for each task
	budgetRate  = 4000    // a second
	budgetBurst = 8192
)

// affords reports whether an agent has not asked for too much lately, and has it pay for the request. Those
// whom there is no place for among the clients share a budget.
func (h *Host) affords(agent identity.ID, q *request, now time.Time) bool {
	cost := float64(len(q.ops))*opCost + float64(len(q.review))*reviewCost
	if q.poll != nil {
		cost = pollCost
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	budget := &h.others
	if c := h.clients[agent]; c != nil {
		budget = &c.budget
	}
	return budget.take(cost, budgetRate, budgetBurst, now)
}

// forget makes room among the clients. Who is forgotten and comes back makes a review.
func (h *Host) forget(now time.Time) {
	for id, c := range h.clients {
		if c.parked == nil && now.Sub(c.seen) > idleClient {
			delete(h.clients, id)
		}
	}
}

// idleClient is for how long an agent has to have been silent before others take its place.
const idleClient = time.Minute

// client is an agent that has lately asked something.
type client struct {
	since  uint64 // the events from which on its tasks' ends are remembered
	seen   time.Time
	parked *poll // nil if none
	budget bucket
}

// unpark takes a poll out of those that wait. It wants mu held.
func (h *Host) unpark(p *poll) {
	if c := h.clients[p.agent]; c != nil && c.parked == p {
		c.parked = nil
	}
	if i := slices.Index(h.parked, p); i >= 0 {
		h.parked = slices.Delete(h.parked, i, i+1)
	}
}
