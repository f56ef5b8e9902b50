package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/listeners"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/transport"
)

// Defaults of a [Config].
const (
	DefaultTimeout  = 3 * time.Second
	DefaultPatience = 15 * time.Second
	defaultWindow   = 64
)

// Config is what a [Client] is made of.
type Config struct {
	Host identity.ID // whom to ask. Required.

	Timeout    time.Duration // how long to wait for an answer before asking again; 0 means DefaultTimeout
	Patience   time.Duration // how long to go on asking; 0 means DefaultPatience
	MaxMessage int           // bytes of the largest message of the network, at least 64 KiB; 0 means message.DefaultMaxSize
}

// Client is one agent's way to the tasks of a [Host]. It can stand wherever a [task.Manager] can that
// need not have all of its methods: its own mean the same, and their errors are the same, and besides
// [ErrUnavailable], [ErrNotAllowed] and what the requester returns for requests that cannot be sent.
// Requests that are too large to be sent are refused with [task.ErrInvalid]. All methods are safe for
// concurrent use, and return early when their context ends.
//
// A Client does nothing until it is bound, which a converge.Runtime does with the one in its Config, and
// starts nothing until somebody calls [Client.Attach].
type Client struct {
	config Config
	soft   int

	mu      sync.Mutex
	binding *Binding
	down    bool                // the host has not answered for too long
	follows bool                // somebody is attached, so that the poll finds out when it is back
	cursor  cursor              // how far the ends of tasks have been followed
	restart func()              // ends the poll that is under way
	pending []task.Task         // what the agent may claim, in order
	taken   map[string]int      // tasks that claims are under way for: how many
	leaving map[string]*leaving // tasks that the agent is ending, or giving back
	missed  bool                // an end was kept back that has to be told after all
	own     map[string]*ownTask // what the agent has submitted and holds

	listeners listeners.List[task.Task]

	running sync.WaitGroup
	stop    context.CancelFunc
}

// ownTask is a task whose end concerns the agent.
type ownTask struct {
	submitted bool // it has been submitted, or that is under way
	confirmed bool // the host has confirmed that
	held      bool
	epoch     uint64 // of the claim by which it is held
}

// leaving is operations under way by which the agent ends a task that it holds, or gives it back.
type leaving struct {
	ops   int
	ended bool // the host has told of the task's end meanwhile, which may be what they have done
}

// New checks the configuration and returns a client. It starts nothing.
func New(c Config) (*Client, error) {
	switch {
	case c.Host.IsZero():
		return nil, errors.New("remote.Config.Host: required")
	case c.Timeout < 0 || c.Patience < 0:
		return nil, errors.New("remote.Config: Timeout and Patience must not be negative")
	case c.MaxMessage != 0 && c.MaxMessage < minMessage:
		return nil, fmt.Errorf("remote.Config.MaxMessage: %d is less than %d", c.MaxMessage, minMessage)
	}
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.MaxMessage = cmp.Or(c.MaxMessage, message.DefaultMaxSize)
	return &Client{
		config: c, soft: soft(c.MaxMessage - envelope), taken: map[string]int{}, leaving: map[string]*leaving{}, own: map[string]*ownTask{}, restart: func() {},
	}, nil
}

// Host returns the agent that the client asks.
func (c *Client) Host() identity.ID { return c.config.Host }

// Bind gives the client its agent. It does so once: a client is for one agent.
func (c *Client) Bind(b Binding) error {
	switch {
	case b.Requester == nil || b.Profile.Agent.IsZero():
		return errors.New("remote.Binding: Requester and Profile.Agent are required")
	case b.Window < 0:
		return errors.New("remote.Binding.Window: negative")
	}
	if err := checkProfile(&b.Profile); err != nil {
		return fmt.Errorf("remote.Binding.Profile: %w", err)
	}
	b.Window = min(cmp.Or(b.Window, defaultWindow), MaxWindow)
	b.Logger = cmp.Or(b.Logger, slog.Default())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.binding != nil {
		return fmt.Errorf("bind client of task host %s: it is bound to agent %s already", c.config.Host.Short(), c.binding.Profile.Agent.Short())
	}
	c.binding = &b
	return nil
}

func (c *Client) bound() (*Binding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.binding == nil {
		return nil, ErrNotBound
	}
	return c.binding, nil
}

// reachable returns the binding unless the host is known not to answer, which the poll finds out anew.
func (c *Client) reachable() (*Binding, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.binding == nil:
		return nil, ErrNotBound
	case c.down && c.follows:
		return nil, ErrUnavailable
	}
	return c.binding, nil
}

// answer is a reply, and when the request that it answers was made.
type answer struct {
	*reply
	asked time.Time
}

// ask sends a request until it is answered, for as long as the client has patience. A request that the
// host refuses as a whole is an error.
func (c *Client) ask(ctx context.Context, q *request) (answer, error) {
	b, err := c.reachable()
	if err != nil {
		return answer{}, err
	}
	patient, cancel := context.WithTimeout(ctx, c.config.Patience)
	defer cancel()
	var pause pause
	for {
		a, err := c.attempt(patient, b, q, c.config.Timeout)
		if err == nil || isFinal(err) {
			return a, err
		}
		if pause.wait(patient) {
			continue
		}
		if ctx.Err() != nil {
			return answer{}, context.Cause(ctx)
		}
		c.giveUp()
		return answer{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

// isFinal reports whether asking again is of no use.
func isFinal(err error) bool {
	for _, final := range []error{ErrNotAllowed, ErrUnsupported, ErrProtocol, ErrNotBound, task.ErrInvalid, message.ErrDraft, transport.ErrClosed} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// attempt sends a request once and waits for the answer.
func (c *Client) attempt(ctx context.Context, b *Binding, q *request, timeout time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	asked := time.Now()
	m, err := b.Requester.Request(ctx, message.Draft{
		To: c.config.Host, ContentType: RequestType, TTL: timeout, Body: q.append(nil, asked),
	})
	switch {
	case errors.Is(err, message.ErrTooLarge):
		return answer{}, fmt.Errorf("%w: %w", task.ErrInvalid, err)
	case err != nil:
		return answer{}, err
	case !m.Verified() || m.Sender() != c.config.Host || m.ContentType() != ReplyType:
		return answer{}, fmt.Errorf("%w: %s with content type %q", ErrProtocol, m, m.ContentType())
	}
	base := asked
	if q.poll != nil { // it may have waited
		base = time.Now()
	}
	r, err := parseReply(m.Body(), utc(base))
	if r.instance != 0 {
		c.heard(r.instance, q.poll != nil)
	}
	return answer{r, asked}, err
}

var errNoAnswer = errors.New("no answer in time")

// heard notes that the host is there. If it is another process than the one that has the poll, that poll
// will not be answered.
func (c *Client) heard(instance uint64, polled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
	if !polled && c.cursor.instance != 0 && instance != c.cursor.instance {
		c.restart()
	}
}

// giveUp notes that the host does not answer, and has the poll find out when it does.
func (c *Client) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
	c.restart()
}

func (c *Client) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

// Bounds of the pauses before asking again.
const (
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// pause doubles from one wait to the next, up to maxPause; chance takes off up to half, so that those
// who lost their host at the same moment do not all come back at one. The zero pause is as yet to be
// waited for.
type pause time.Duration

// wait returns false when ctx is done.
func (p *pause) wait(ctx context.Context) bool {
	*p = min(max(2**p, pause(minPause)), pause(maxPause))
	return sleep.For(ctx, time.Duration(*p)/2+rand.N(time.Duration(*p)/2)) == nil
}
