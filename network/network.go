// Package network makes a running network of agents out of a configuration: it chooses the store and
// the transport, reads or makes keys, builds tools and limits, and runs one converge.Runtime for each
// agent. Its peers, agents of other processes, are heard once they have proved their keys or if the
// configuration gives these.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/discovery/gossip"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/observe"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/ratelimit"
	"github.com/converge-agents/converge/role"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
	"github.com/converge-agents/converge/tool/command"
	"github.com/converge-agents/converge/tool/mcp"
	"github.com/converge-agents/converge/transport"
)

// Options are what a [Network] needs besides its configuration.
type Options struct {
	Logger *slog.Logger // nil means slog.Default
	// Passphrase seals the key files that are made, and opens those that are sealed; empty means none.
	Passphrase []byte
	// Progress, if set, is called with the sums over all coordinators whenever something has changed.
	// Calls come one at a time; they must not block.
	Progress func(role.Progress)
	// DrainTimeout is how long each agent may take to finish what it has begun once Run's context has
	// ended; tools that run longer are killed. 0 means converge.DefaultDrainTimeout.
	DrainTimeout time.Duration
}

// Network is the agents of one configuration in this process. Run it once, and Close it after that.
type Network struct {
	config  *config.Config
	options Options
	log     *slog.Logger
	dir     string // for keys and state
	removes bool   // whether Close removes dir

	audit       *audit.Log // nil if nothing is recorded
	store       store.Store
	disconnect  func()        // ends the connection of the store; nil if it has none
	tasks       *task.Manager // nil if the tasks are elsewhere
	proofs      *task.Verifier
	pools       *pool.Manager // nil without pools
	detachPools func()
	recipients  message.SealingKeySource // nil until somebody seals
	keys        *keyLife
	discovery   *discovery.Service
	gossip      *gossip.Gossip // nil unless descriptors come by messages
	registry    *identity.Registry
	population  *discovery.Population
	transport   carrier
	peers       []peer
	hooks       []transport.Hook // of all agents, besides their limits
	tools       *tool.Registry
	params      map[string][]string // of each tool that has templates, sorted
	commands    []*command.Tool
	modules     modules
	servers     []*mcp.Server
	required    map[string][]string // params of each server's tool
	models      map[string]model    // that agents ask, by their names in the configuration
	metrics     *observe.Metrics
	approvals   *approval.Service
	controlled  atomic.Bool // somebody can decide through the socket

	members []member
	names   map[identity.ID]string
	kept    []string // from tools; see hidden
	work    work

	ran     atomic.Bool
	closed  atomic.Bool
	done    chan struct{}
	started atomic.Pointer[time.Time] // nil before Run
	ended   atomic.Pointer[time.Time] // when the job was done; nil before

	aborted context.Context // ends with Abort; a signal for all tools, whoever calls them
	abort   context.CancelCauseFunc

	progressed  chan struct{} // holds a token when progress has changed
	progressing sync.Mutex
	progress    map[*role.Coordinator]role.Progress
}

// member is one agent.
type member struct {
	name        string
	kind        string
	id          identity.ID
	identity    *identity.Identity
	pools       []string // that it joins
	runtime     *converge.Runtime
	coordinator *role.Coordinator // nil for other kinds
	llm         *llm.Agent        // nil for other kinds
	peers       []string          // of llm
}

// New checks a configuration and builds the network that it describes: keys are read or made, tools are
// looked up, and the files that tasks are about are listed; ctx can cut that short. No agent runs yet.
//
// Some errors have a method Hint() string that says what to do about them.
func New(ctx context.Context, c *config.Config, o Options) (*Network, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := newNetwork(c, o)
	if err := n.build(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// newNetwork makes a network that holds nothing yet.
func newNetwork(c *config.Config, o Options) *Network {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	n := &Network{
		config:   c,
		options:  o,
		log:      o.Logger,
		registry: identity.NewRegistryWith(identity.RegistryConfig{Logger: o.Logger}),
		metrics:  observe.NewMetrics(),
		params:   map[string][]string{},
		required: map[string][]string{},
		names:    map[identity.ID]string{},
		work:     newWork(c),
		done:     make(chan struct{}),

		progressed: make(chan struct{}, 1),
		progress:   map[*role.Coordinator]role.Progress{},
	}
	n.aborted, n.abort = context.WithCancelCause(context.Background())
	return n
}

func (n *Network) build(ctx context.Context) (err error) {
	if err = n.makeDir(); err != nil {
		return err
	}
	if err = n.addTransport(); err != nil {
		return err
	}
	if err = n.openStore(ctx); err != nil {
		return err
	}
	if err = n.addApprovals(); err != nil {
		return err
	}
	if n.proofs, err = task.NewVerifier(n.registry, n.config.Network); err != nil {
		return err
	}
	if err = n.addKeys(ctx); err != nil {
		return err
	}
	if err = n.addPools(); err != nil {
		return err
	}
	if err = n.addTasks(); err != nil {
		return err
	}
	if n.discovery, err = discovery.New(discovery.Config{
		Store: n.store, Network: n.config.Network, TTL: time.Duration(n.config.Discovery.TTL), Logger: n.log,
	}); err != nil {
		return err
	}
	n.metrics.AddDiscovery(n.discovery)
	if n.population, err = n.discovery.Populate(context.WithoutCancel(ctx), n.registry); err != nil { // until Close
		return err
	}
	if err = n.addGossip(); err != nil {
		return err
	}
	n.requireHost()
	if err = n.addTools(); err != nil {
		return err
	}
	if err = n.openAudit(); err != nil {
		return err
	}
	if err = n.addServers(ctx); err != nil {
		return err
	}
	if err = n.addModels(); err != nil {
		return err
	}
	for _, a := range n.config.Agents {
		if err := n.addAgents(ctx, a); err != nil {
			return err
		}
	}
	if err = n.introduce(); err != nil {
		return err
	}
	return n.createPools(ctx)
}

func (n *Network) makeDir() (err error) {
	n.dir = n.config.Data
	if n.dir == "" {
		n.dir, err = os.MkdirTemp("", "converge-")
		n.removes = err == nil
	} else {
		err = os.MkdirAll(n.dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return nil
}

// addAgents builds the agents of one entry of the configuration.
func (n *Network) addAgents(ctx context.Context, a config.Agent) error {
	for _, name := range a.Names() {
		if err := n.addAgent(ctx, a, name); err != nil {
			return fmt.Errorf("agent %q: %w", name, err)
		}
	}
	return nil
}

func (n *Network) addAgent(ctx context.Context, a config.Agent, name string) error {
	if ctx.Err() != nil { // opening a sealed key takes a second
		return context.Cause(ctx)
	}
	id, err := n.identityOf(name, a.Key)
	if err != nil {
		return err
	}
	if err := n.enter(id.ID(), name); err != nil {
		return err
	}
	if id.Statement() != nil { // discovery knows root keys only
		if err := n.register(id); err != nil {
			return err
		}
	}
	c, err := n.runtimeConfig(a, name, id)
	if err != nil {
		return err
	}
	// What it submits is verified before others can have told of it.
	if err := n.register(id); err != nil {
		return err
	}
	if _, err := n.registry.Lookup(id.ID()); errors.Is(err, identity.ErrQuarantined) {
		n.log.Error("nothing counts that an agent of this process says, until it is released (converge keys quarantine), or has another key",
			"agent", name, "id", id.ID(), "error", err)
	}
	seal, err := n.addSealing(&c, name, a.Key)
	if err != nil {
		return err
	}
	m := member{name: name, kind: a.Kind, id: id.ID(), identity: id, pools: a.Pools}
	if err := n.setRole(ctx, a, &c, &m); err != nil {
		return err
	}
	if m.runtime, err = converge.New(c); err != nil {
		return err
	}
	if seal != nil {
		seal.runtime = m.runtime
	}
	n.metrics.Add(m.runtime)
	n.members = append(n.members, m)
	return nil
}

// register lets an agent of this process in.
func (n *Network) register(id *identity.Identity) error {
	raw := id.Statement()
	if raw == nil {
		return n.registry.Register(id.ID(), id.PublicKey())
	}
	s, err := n.registry.RegisterKeys(raw)
	if n.standsAside(err, s.ID, raw) {
		return n.registry.Register(s.ID, s.Root)
	}
	return err
}

// runtimeConfig returns what an agent's runtime needs, whatever its role.
func (n *Network) runtimeConfig(a config.Agent, name string, id *identity.Identity) (c converge.Config, err error) {
	ingress, err := newLimiter(n.config.Limits.Ingress)
	if err != nil {
		return c, fmt.Errorf("limits.ingress: %w", err)
	}
	egress, err := newLimiter(n.config.Limits.Egress)
	if err != nil {
		return c, fmt.Errorf("limits.egress: %w", err)
	}
	tasks, err := n.tasksFor(a)
	if err != nil {
		return c, err
	}
	topics, err := patterns(a.Topics)
	var kept store.Store // nil if nothing of the agent outlives the process
	if n.config.StoreSurvives() && (a.Key != "" || !n.removes) {
		kept = n.store
	}
	c = converge.Config{
		Identity:      id,
		Network:       n.config.Network,
		Name:          name,
		Transport:     n.transport.endpoint(id),
		Signature:     modeOf(n.config.Signature),
		Registry:      n.registry,
		Hooks:         append([]transport.Hook{ratelimit.NewHook(ingress)}, n.hooks...),
		Topics:        topics,
		Discovery:     n.discovery,
		Endpoints:     n.endpoints(),
		Tasks:         tasks,
		Marks:         kept,
		Checkpoints:   kept,
		Audit:         n.auditConfig(),
		Verifier:      message.VerifierConfig{MaxSize: int(n.config.Limits.MessageSize)},
		Logger:        n.log,
		ReceiveUnsafe: n.config.Unsafe.ReceiveUnverified,
		DrainTimeout:  n.options.DrainTimeout,
		Executor: &converge.ExecutorConfig{
			Tools:         n.tools,
			ToolAllowlist: a.Tools,
			ToolTimeout:   time.Duration(a.ToolTimeout),
			Approver:      n.approvals,
			Limiter:       egress,
		},
	}
	if n.pools != nil {
		c.Pools = n.pools
	}
	return c, err
}

func patterns(texts []string) (all []message.Pattern, err error) {
	for _, text := range texts {
		p, err := message.ParsePattern(text)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// report passes on the sums over all coordinators.
func (n *Network) report(k *role.Coordinator, p role.Progress) {
	n.progressing.Lock()
	defer n.progressing.Unlock()
	n.progress[k] = p
	select {
	case n.progressed <- struct{}{}:
	default:
	}
	if n.options.Progress != nil {
		n.options.Progress(n.sum())
	}
}

// Progress returns the sums over all coordinators so far.
func (n *Network) Progress() role.Progress {
	n.progressing.Lock()
	defer n.progressing.Unlock()
	return n.sum()
}

// sum adds up the progress; progressing is held.
func (n *Network) sum() (sum role.Progress) {
	for _, p := range n.progress {
		sum.Total += p.Total
		sum.Submitted += p.Submitted
		sum.Completed += p.Completed
		sum.Failed += p.Failed
	}
	return sum
}

func modeOf(signature string) message.Mode {
	if signature == config.SignatureSingle {
		return message.Single
	}
	return message.Batch
}

func newLimiter(b config.Buckets) (*ratelimit.Limiter, error) {
	limit := func(l config.Limit) ratelimit.Limit {
		if l.Rate.IsUnlimited() {
			return ratelimit.Unlimited
		}
		return ratelimit.Limit{Rate: float64(l.Rate), Burst: l.Burst}
	}
	return ratelimit.New(ratelimit.Config{Global: limit(b.Global), Sender: limit(b.Sender), Topic: limit(b.Topic)})
}

// Done is closed when every coordinator's job is done. A network without coordinators is never done.
func (n *Network) Done() <-chan struct{} { return n.done }

// Metrics returns the metrics of the network's agents.
func (n *Network) Metrics() *observe.Metrics { return n.metrics }

// Close releases what the network holds, and removes the state directory if it is a temporary one. Call
// it when Run has returned, or was not called. The report stays. Closing twice is fine.
func (n *Network) Close() error {
	var errs []error
	n.closed.Store(true)
	n.abort(nil)
	errs = append(errs, n.closeServers())
	n.closeModels()
	if n.population != nil {
		n.population.Close()
	}
	if n.detachPools != nil {
		n.detachPools()
	}
	if n.keys != nil {
		n.keys.stop()
	}
	errs = append(errs, n.modules.close(), n.closeStore())
	if n.transport != nil {
		errs = append(errs, n.transport.Close())
	}
	errs = append(errs, n.closeAudit())
	if n.removes {
		errs = append(errs, os.RemoveAll(n.dir))
	}
	return errors.Join(errs...)
}
