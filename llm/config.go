package llm

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// Defaults of a [Config].
const (
	DefaultConcurrency = 4
	DefaultMaxThreads  = 16
	DefaultMaxTokens   = 4096
	DefaultCallTimeout = 2 * time.Minute
	DefaultTaskTimeout = 15 * time.Minute
	DefaultThreadIdle  = 10 * time.Minute
	DefaultMaxTurns    = 48
	DefaultMaxDepth    = 4
	DefaultMaxHistory  = 256 << 10
	DefaultMaxData     = 32 << 10
)

// Peer is an agent that the model may write to, and is heard by.
type Peer struct {
	Name string // by which the model knows it: 1 to 64 letters, digits, '_', '-' and '.'
	ID   identity.ID
}

// Config configures an [Agent]. Required are ID and Provider. What it does not grant, the model cannot do.
type Config struct {
	ID       identity.ID // of the agent itself
	Name     string      // of the agent; for the model and for logs
	Provider Provider
	Model    string // the model's name, for records

	// Instructions say what the agent is for. They are the only text besides Capabilities that the model is told to
	// follow.
	Instructions string
	// Capabilities are the kinds of tasks that the agent claims, each with what is to be done for such tasks.
	Capabilities map[string]string
	// Tools holds the tools there are, and Allowlist names those that the model is shown. It has to be that of
	// converge.ExecutorConfig, whose guard stands before every call.
	Tools     *tool.Registry
	Allowlist []string
	// Peers are the agents that the model can send messages to. Messages of others are not shown to it.
	Peers []Peer
	// Offers tells what a peer can do now, for the model to know; nil leaves that out. It must not block. The model is shown
	// names that are in Submits, Capabilities or Known, since others are the peer's own words.
	Offers func(identity.ID) []string
	Known  []string
	// Submits are the capabilities that the model may submit tasks for, to whoever has them.
	Submits []string
	// Verifier tells whether results are signed by those who held the tasks; without it, that is not looked at.
	Verifier *task.Verifier

	Concurrency int           // tasks at a time; 0 means DefaultConcurrency
	MaxThreads  int           // conversations with peers; the one that is idle longest gives way. 0 means DefaultMaxThreads
	MaxTokens   int           // of one answer; 0 means DefaultMaxTokens
	Temperature *float64      // nil means the model's own
	Stream      bool          // ask for answers in pieces
	CallTimeout time.Duration // of one call of the model; 0 means DefaultCallTimeout
	TaskTimeout time.Duration // of a task, from its claim on; 0 means DefaultTaskTimeout
	ThreadIdle  time.Duration // after which a conversation with a peer is over; 0 means DefaultThreadIdle
	MaxTurns    int           // answers of the model in one conversation; 0 means DefaultMaxTurns
	// MaxDepth is how many agents with models may have a part in a task, each submitting to the next; 0 means DefaultMaxDepth.
	MaxDepth   int
	MaxHistory int // bytes of a conversation that the model is shown; 0 means DefaultMaxHistory
	MaxData    int // bytes of one message, result or set of params that the model is shown; 0 means DefaultMaxData

	TaskBudget Budget // of a task, or of the messages of a peer; see DefaultTaskBudget
	DayBudget  Budget // of the agent; see DefaultDayBudget
	Price      Price  // needed for budgets of cost
	Retry      Retry

	// Record, if set, is told of each call of the model. It is called from several goroutines and must not block. If it
	// returns an error, the answer is not taken in, and the conversation fails.
	Record func(Exchange) error
	// Journal, if set, is told in Decide what the turn goes by besides what it is shown: which answers came in, what came of
	// verifying results, what the budgets held. Exchange.Content is filled then, which MAY HOLD SECRETS. Both are for replays;
	// they have to be kept in their order. It must not block.
	Journal func(content []byte)
	// Recall, if set, is the past of this agent: the agent is replayed, and asks no model. Provider, Tools and
	// Verifier are not used then, and peers get the IDs that they had.
	Recall *Recall
	Logger *slog.Logger // nil means slog.Default
}

// check reports what is wrong with the configuration.
func (c *Config) check() error {
	switch {
	case c.ID.IsZero():
		return errors.New("ID: required")
	case c.Provider == nil && c.Recall == nil:
		return errors.New("Provider: required")
	case c.MaxHistory != 0 && c.MaxHistory < 4<<10 || c.MaxData != 0 && c.MaxData < 256:
		return wrong("MaxHistory", "want at least 4096 bytes, and MaxData 256")
	case c.Temperature != nil && !(*c.Temperature >= 0 && *c.Temperature <= 2):
		return wrong("Temperature", "want 0 to 2")
	}
	if err := c.checkNumbers(); err != nil {
		return err
	}
	if c.Price == (Price{}) && (c.TaskBudget.Cost > 0 || c.DayBudget.Cost > 0) {
		return errors.New("Price: required for a budget of cost")
	}
	return errors.Join(c.Retry.check(), c.Price.check(), c.TaskBudget.check("TaskBudget"), c.DayBudget.check("DayBudget"), c.checkPeers())
}

// wrong says what is wrong with a field.
func wrong(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...))
}

func (c *Config) checkNumbers() error {
	for _, n := range []struct {
		field string
		value int64
	}{
		{"Concurrency", int64(c.Concurrency)}, {"MaxThreads", int64(c.MaxThreads)}, {"MaxTokens", int64(c.MaxTokens)},
		{"CallTimeout", int64(c.CallTimeout)}, {"TaskTimeout", int64(c.TaskTimeout)}, {"ThreadIdle", int64(c.ThreadIdle)},
		{"MaxTurns", int64(c.MaxTurns)}, {"MaxDepth", int64(c.MaxDepth)}, {"MaxHistory", int64(c.MaxHistory)}, {"MaxData", int64(c.MaxData)},
	} {
		if n.value < 0 {
			return fmt.Errorf("%s: negative; 0 means its default", n.field)
		}
	}
	return nil
}

func (c *Config) checkPeers() error {
	names, ids := map[string]bool{}, map[identity.ID]bool{}
	for i, p := range c.Peers {
		switch {
		case !isPeerName(p.Name) || p.ID.IsZero() && c.Recall == nil:
			return wrong(fmt.Sprintf("Peers[%d]", i), "want an ID, and a name of 1 to 64 letters, digits, '_', '-' and '.'")
		case names[p.Name] || ids[p.ID] && !p.ID.IsZero():
			return wrong(fmt.Sprintf("Peers[%d]", i), "%q or its ID is given twice", p.Name)
		case p.ID == c.ID:
			return wrong(fmt.Sprintf("Peers[%d]", i), "%q is the agent itself", p.Name)
		}
		names[p.Name], ids[p.ID] = true, true
	}
	return nil
}

func isPeerName(s string) bool { return names.Is(s, 64, "_-.") }

// setDefaults fills in what is zero.
func (c *Config) setDefaults() {
	c.Capabilities = maps.Clone(c.Capabilities)
	c.Peers, c.Submits, c.Allowlist = slices.Clone(c.Peers), slices.Clone(c.Submits), slices.Clone(c.Allowlist)
	c.Name = cmp.Or(c.Name, c.ID.Short())
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.MaxThreads = cmp.Or(c.MaxThreads, DefaultMaxThreads)
	c.MaxTokens = cmp.Or(c.MaxTokens, DefaultMaxTokens)
	c.CallTimeout = cmp.Or(c.CallTimeout, DefaultCallTimeout)
	c.TaskTimeout = cmp.Or(c.TaskTimeout, DefaultTaskTimeout)
	c.ThreadIdle = cmp.Or(c.ThreadIdle, DefaultThreadIdle)
	c.MaxTurns = cmp.Or(c.MaxTurns, DefaultMaxTurns)
	c.MaxDepth = cmp.Or(c.MaxDepth, DefaultMaxDepth)
	c.MaxHistory = cmp.Or(c.MaxHistory, DefaultMaxHistory)
	c.MaxData = cmp.Or(c.MaxData, DefaultMaxData)
	c.TaskBudget, c.DayBudget = c.TaskBudget.or(DefaultTaskBudget), c.DayBudget.or(DefaultDayBudget)
	c.Logger = cmp.Or(c.Logger, slog.Default())
}
