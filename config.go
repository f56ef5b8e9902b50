package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/pool"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/transport"
)

// Defaults of a [Config].
const (
	DefaultTurnMessages  = 64
	DefaultTurnTasks     = 64
	DefaultDecideTimeout = 5 * time.Minute
	DefaultSendTimeout   = 10 * time.Second
	DefaultDrainTimeout  = 10 * time.Second
)

// RuntimeHooks are called where hooks of the transport do not reach. They must return at once.
type RuntimeHooks struct {
	// FallbackPreSend sees each draft that is sent on the fallback path, that is, by a runtime without
	// executor. It may return the draft, a changed one, or nil to drop it.
	FallbackPreSend func(ctx context.Context, d message.Draft) *message.Draft
	// UnverifiedDrop is told of each frame that verification refused, and why.
	UnverifiedDrop func(ctx context.Context, r *message.Refusal)
}

// Config configures a [Runtime]. Required are Identity, Network, Agent, Transport and Registry.
type Config struct {
	Identity  *identity.Identity
	Network   string // its name is part of every signature; see message.CheckNetwork
	Agent     Agent
	Transport transport.Transport // the runtime starts and closes it
	Registry  *identity.Registry  // whose messages are accepted; see discovery.Service.Populate

	Name         string            // for logs; "" means the short ID
	Hooks        []transport.Hook  // in this order, ratelimit.NewHook first
	RuntimeHooks RuntimeHooks      //
	Topics       []message.Pattern // what the agent subscribes to
	Capabilities []discovery.Capability
	Endpoints    []string           // for the agent's descriptor
	Discovery    *discovery.Service // if set, the agent registers at the start and withdraws at the end

	// Tasks, Pools and Executor say what decisions can do. With none of them there is no executor, only the
	// fallback path: messages are sent, through RuntimeHooks.FallbackPreSend, and nothing else.
	Tasks     Tasks    // a task.Manager, or a remote.Client of one in another process
	TaskKinds []string // the kinds of tasks that the agent wants to see; none means all
	Executor  *ExecutorConfig

	// Pools, if set, is where the agent's pools are: it can create, join and leave them, hears the topics of
	// those that it is in, and sees their tasks. Only members are heard on the topics of pools, and nobody
	// where Pools is not set. The Member of the agent's task manager has to be Pools.IsMember.
	Pools *pool.Manager

	Inbox         InboxConfig
	TurnMessages  int           // messages of one turn at most; 0 means DefaultTurnMessages
	TurnTasks     int           // tasks shown in one turn at most; 0 means DefaultTurnTasks
	TickEvery     time.Duration // turns come at least this often; 0 means only when there is something
	DecideTimeout time.Duration // when Decide's context ends; 0 means DefaultDecideTimeout
	SendTimeout   time.Duration // how long a full recipient can hold up the agent; 0 means DefaultSendTimeout
	DrainTimeout  time.Duration // how long Run goes on after its context ended; 0 means DefaultDrainTimeout

	// Signature is how messages are signed; the zero value is message.Batch. Consecutive SendMessage
	// decisions of a turn then share a signature.
	Signature message.Mode

	// Sealing opens what others have sealed for this agent. With PublishSealing, the runtime rotates it.
	Sealing *identity.SealingKeys
	// Recipients are the keys of others, to seal to: an identity.SealingSource, say.
	Recipients message.SealingKeySource
	// Seal is what becomes of sealed and of plain messages; the zero value is message.SealAllow. With
	// message.SealRequired, all that the agent sends to one other is sealed, requests about tasks included, and
	// all that comes to it alone has to be; Sealing and Recipients are then required.
	Seal message.SealPolicy
	// PublishSealing makes a new sealing key of the agent known to others, in its signed key statement. The
	// runtime calls it at the start, for the key that there is, and after each rotation, and calls it again
	// until it succeeds. Without it the runtime rotates nothing, and whoever owns Sealing does.
	PublishSealing func(context.Context, identity.PublicSealingKey) error

	// Verifier sets limits of verification; Self, Network, Keys, Marks, Sealing and Seal are set by the runtime.
	Verifier message.VerifierConfig
	// Marks, if set, keeps what the agent has accepted across restarts (see message.Marks): it then accepts
	// nothing twice, and yet takes what was sent while it was away. Without it, a restarted agent refuses
	// what was sent before it started.
	Marks store.Store
	// Checkpoints, if set, keeps the state of an agent that is a Checkpointer. Two processes must not run
	// one agent on one store: the first to find out ends with ErrSuperseded.
	Checkpoints store.Store

	// Audit says what is recorded of what the agent is sent, decides and does.
	Audit AuditConfig

	Logger *slog.Logger // nil means slog.Default

	// ReceiveUnsafe lets the agent see UNVERIFIED messages: anybody can speak as anybody. For
	// experiments only; the log warns.
	ReceiveUnsafe bool
}

func (c *Config) validate() error {
	switch {
	case c.Identity == nil:
		return errors.New("converge.Config.Identity: required")
	case c.Agent == nil:
		return errors.New("converge.Config.Agent: required")
	case c.Transport == nil:
		return errors.New("converge.Config.Transport: required")
	case c.Registry == nil:
		return errors.New("converge.Config.Registry: required; without the keys of others no message can be verified")
	case c.Inbox.Capacity < 0, c.TurnMessages < 0, c.TurnTasks < 0:
		return errors.New("converge.Config: Inbox.Capacity, TurnMessages and TurnTasks must not be negative")
	case c.TickEvery < 0, c.DecideTimeout < 0, c.SendTimeout < 0, c.DrainTimeout < 0:
		return errors.New("converge.Config: TickEvery, DecideTimeout, SendTimeout and DrainTimeout must not be negative")
	}
	if i := slices.Index(c.Hooks, nil); i >= 0 {
		return fmt.Errorf("converge.Config.Hooks[%d]: nil", i)
	}
	if err := message.CheckNetwork(c.Network); err != nil {
		return fmt.Errorf("converge.Config.Network: %w", err)
	}
	return c.validateSealing()
}

func (c *Config) setDefaults() {
	c.Name = cmp.Or(c.Name, c.Identity.ID().Short())
	c.TurnMessages = cmp.Or(c.TurnMessages, DefaultTurnMessages)
	c.TurnTasks = cmp.Or(c.TurnTasks, DefaultTurnTasks)
	c.DecideTimeout = cmp.Or(c.DecideTimeout, DefaultDecideTimeout)
	c.SendTimeout = cmp.Or(c.SendTimeout, DefaultSendTimeout)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, DefaultDrainTimeout)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Verifier.Self, c.Verifier.Network, c.Verifier.Keys = c.Identity.ID(), c.Network, c.Registry
	c.Verifier.Sealing, c.Verifier.Seal = c.Sealing, c.Seal
	c.Tasks = orNil(c.Tasks)
	if c.hasRemoteTasks() {
		c.Inbox.WhenFull = transport.DropNewest
	}
}
