package message

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/stat"
)

// Defaults of a [VerifierConfig].
const (
	DefaultSkew       = 30 * time.Second
	DefaultMaxAge     = 5 * time.Minute
	DefaultMaxSenders = 1 << 16
)

// KeySource returns the keys of agents; an [identity.Registry] is one. An error of it has what names that key
// refused, see [KeyReason].
type KeySource interface {
	LookupEpoch(id identity.ID, epoch uint64) (identity.Key, error)
}

// VerifierConfig configures a [Verifier].
type VerifierConfig struct {
	Self    identity.ID // the agent that receives; required
	Network string      // required; see CheckNetwork
	Keys    KeySource   // required

	MaxSize    int              // bytes of an envelope; 0 means DefaultMaxSize
	Skew       time.Duration    // by how much clocks may differ; 0 means DefaultSkew
	MaxAge     time.Duration    // how old a message may be whatever its expiry; 0 means DefaultMaxAge
	MaxSenders int              // senders remembered by the replay window; 0 means DefaultMaxSenders
	Marks      *Marks           // keeps the replay window across restarts; nil means that it is lost
	Now        func() time.Time // nil means time.Now

	// Sealing opens sealed bodies; nil means that sealed messages are refused as [ErrUnopenable]. Its overlap
	// has to cover MaxAge and twice Skew, or messages under way could not be opened after a rotation.
	Sealing *identity.SealingKeys
	Seal    SealPolicy // the zero value is SealAllow; SealRequired needs Sealing
}

// Verifier decides which received bytes become messages of one agent. It is safe for concurrent use.
//
// The replay window lives in the Verifier: an agent uses one for as long as it runs. Without [Marks], a new
// one knows nothing of what an earlier one accepted, so it refuses whatever was issued before it was made.
// That is by the sender's clock: from a sender whose clock is ahead (by Skew at most), it may accept a second
// time what an earlier one accepted last, for as long as the clock is ahead. With Marks it accepts nothing
// twice, and takes what was issued while there was no Verifier.
type Verifier struct {
	self    identity.ID
	network string
	keys    KeySource
	direct  string // the aud value of direct messages to self
	maxSize int
	skew    time.Duration
	maxAge  time.Duration
	now     func() time.Time

	subscribing   sync.Mutex // serialises changes of subscriptions
	subscriptions atomic.Pointer[[]Pattern]
	replay        replayGuard
	roots         rootCache
	verified      stat.Counter
	refused       stat.Vec[Reason]

	sealing *identity.SealingKeys // nil if the policy is SealOff
	seal    SealPolicy
	opened  stat.Counter
}

// NewVerifier checks the configuration and returns a verifier.
func NewVerifier(c VerifierConfig) (*Verifier, error) {
	switch {
	case c.Self.IsZero():
		return nil, errors.New("message.VerifierConfig.Self: required")
	case c.Keys == nil:
		return nil, errors.New("message.VerifierConfig.Keys: required")
	case c.MaxSize < 0, c.Skew < 0, c.MaxAge < 0, c.MaxSenders < 0:
		return nil, errors.New("message.VerifierConfig: MaxSize, Skew, MaxAge and MaxSenders must not be negative")
	case c.Skew > maxTTL, c.MaxAge > maxTTL:
		return nil, fmt.Errorf("message.VerifierConfig: Skew and MaxAge must not exceed %v", maxTTL)
	}
	if err := CheckNetwork(c.Network); err != nil {
		return nil, fmt.Errorf("message.VerifierConfig.Network: %w", err)
	}
	v := &Verifier{
		self:    c.Self,
		network: c.Network,
		keys:    c.Keys,
		direct:  string(appendDirect(nil, c.Network, c.Self)),
		maxSize: cmp.Or(c.MaxSize, DefaultMaxSize),
		skew:    cmp.Or(c.Skew, DefaultSkew),
		maxAge:  cmp.Or(c.MaxAge, DefaultMaxAge),
		now:     orNow(c.Now),
		sealing: c.Sealing,
		seal:    c.Seal,
	}
	if err := v.checkSealing(); err != nil {
		return nil, err
	}
	v.subscriptions.Store(new([]Pattern))
	v.replay = newReplayGuard(v.now(), v.maxAge+v.skew, cmp.Or(c.MaxSenders, DefaultMaxSenders))
	if c.Marks != nil {
		if err := c.Marks.attach(v.self, v.network, &v.replay); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// MaxSubscriptions bounds the patterns of one agent.
const MaxSubscriptions = 1024

// Subscribe makes topics that p matches addressed to this agent. Subscribing twice is fine. Beyond
// [MaxSubscriptions] it is an error.
func (v *Verifier) Subscribe(p Pattern) error {
	v.subscribing.Lock()
	defer v.subscribing.Unlock()
	old := *v.subscriptions.Load()
	if indexOf(old, p) >= 0 {
		return nil
	}
	if len(old) >= MaxSubscriptions {
		return fmt.Errorf("subscribe to %q: the agent has %d subscriptions, which is the limit", p, MaxSubscriptions)
	}
	subscriptions := append(slices.Clone(old), p)
	v.subscriptions.Store(&subscriptions)
	return nil
}

// Unsubscribe ends a subscription. Ending none is fine.
func (v *Verifier) Unsubscribe(p Pattern) {
	v.subscribing.Lock()
	defer v.subscribing.Unlock()
	subscriptions := slices.Clone(*v.subscriptions.Load())
	if i := indexOf(subscriptions, p); i >= 0 {
		subscriptions = slices.Delete(subscriptions, i, i+1)
		v.subscriptions.Store(&subscriptions)
	}
}

func indexOf(patterns []Pattern, p Pattern) int {
	return slices.IndexFunc(patterns, func(q Pattern) bool { return q.text == p.text })
}

// Verify returns the message in raw if it passes every check, and otherwise a [*Refusal]. It takes
// ownership of raw: the message aliases it. The checks go from cheap to dear: size, encoding, sender
// known and its key in force, audience, freshness, replay (looked up), signature, opening of what is sealed,
// replay (recorded). A frame that fails any of them changes nothing but a counter. With [Marks] it may wait
// for a write of theirs, for as long as MarksConfig.Wait at most.
func (v *Verifier) Verify(raw []byte) (*Message, error) {
	var e envelope
	m, reason, err := v.verify(raw, &e)
	if reason != 0 {
		v.refused.Inc(reason)
		return nil, &Refusal{Reason: reason, Sender: e.sender, Size: len(raw), Err: err}
	}
	v.verified.Inc()
	if m.opened {
		v.opened.Inc()
	}
	return m, nil
}

func (v *Verifier) verify(raw []byte, e *envelope) (*Message, Reason, error) {
	if len(raw) > v.maxSize {
		return nil, ErrTooLarge, nil
	}
	if reason, err := e.decode(raw); reason != 0 {
		return nil, reason, err
	}
	key, err := v.keys.LookupEpoch(e.sender, e.epoch)
	if err != nil {
		return nil, KeyReason(err), nil
	}
	audience, reason := v.audience(e)
	if reason != 0 {
		return nil, reason, nil
	}
	if v.seal == SealRequired && !audience.to.IsZero() && e.sealing == nil {
		return nil, ErrUnsealed, nil
	}
	now := v.now()
	if reason := v.freshness(e, now); reason != 0 {
		return nil, reason, nil
	}
	if reason := v.replay.check(e); reason != 0 {
		return nil, reason, nil
	}
	if reason, err := v.signature(e, key.Public); reason != 0 {
		return nil, reason, err
	}
	body, err := v.open(e)
	if err != nil {
		return nil, ErrUnopenable, err
	}
	if reason := v.replay.accept(e, now.UnixMilli()); reason != 0 {
		return nil, reason, nil
	}
	m := e.message(raw, audience, true)
	m.body, m.opened = body, m.sealed
	return m, 0, nil
}

// signature reports why key did not sign the message, alone or in a batch.
func (v *Verifier) signature(e *envelope, key ed25519.PublicKey) (Reason, error) {
	if e.sign1.Proof == nil {
		if !e.sign1.Verify(key, cose.DomainMessage) {
			return ErrBadSignature, nil
		}
		return 0, nil
	}
	proof, err := cose.ParseProof(e.sign1.Proof)
	if err != nil {
		return ErrMalformed, err
	}
	if !v.roots.verify(e.sender, key, &proof, e.sign1.Leaf(cose.DomainMessage), e.sign1.Signature) {
		return ErrBadSignature, nil
	}
	return 0, nil
}

// audience returns whom the message is for, if that includes this agent.
func (v *Verifier) audience(e *envelope) (audience, Reason) {
	switch { // compared in place: a string of its own would be an allocation
	case e.audiences == 1 && string(e.audience[0]) == v.direct:
		return audience{network: v.network, to: v.self}, 0
	case e.audiences == 1 && string(e.audience[0]) == v.network:
		return audience{network: v.network}, 0
	}
	a := audience{network: v.network}
	if e.readTopics(&a) != nil || !v.subscribed(a.topics) {
		return audience{}, ErrMisaddressed
	}
	return a, 0
}

func (v *Verifier) subscribed(topics []Topic) bool {
	for _, p := range *v.subscriptions.Load() {
		if slices.ContainsFunc(topics, p.Matches) {
			return true
		}
	}
	return false
}

func (v *Verifier) freshness(e *envelope, now time.Time) Reason {
	issued, expires := time.UnixMilli(e.issued), time.Unix(e.expires, 0)
	if issued.After(now.Add(v.skew)) {
		return ErrNotYetValid
	}
	latest := issued.Add(v.maxAge)
	if expires.Before(latest) {
		latest = expires
	}
	if now.After(latest.Add(v.skew)) {
		return ErrExpired
	}
	return 0
}

// Verified returns how many messages v has accepted.
func (v *Verifier) Verified() uint64 { return v.verified.Load() }

// Opened returns how many of the messages that v has accepted were sealed.
func (v *Verifier) Opened() uint64 { return v.opened.Load() }

// Refused returns how many frames v has refused, by the name of the [Reason]; every reason is there.
func (v *Verifier) Refused() map[string]uint64 { return v.refused.Snapshot() }

// ParseUnsafe reads a frame WITHOUT checking who sent it, to whom, when, or how often: anybody can
// have made it. It is for tools that look at frames, and for networks whose configuration asks for
// unverified receive by name. [Message.Verified] is false for what it returns, and the body of a sealed
// message is as it was sent: nothing is opened. It takes ownership of raw. Errors are [*Refusal].
func ParseUnsafe(raw []byte) (*Message, error) {
	var e envelope
	if len(raw) > DefaultMaxSize {
		return nil, &Refusal{Reason: ErrTooLarge, Size: len(raw)}
	}
	if reason, err := e.decode(raw); reason != 0 {
		return nil, &Refusal{Reason: reason, Sender: e.sender, Size: len(raw), Err: err}
	}
	audience, err := e.readAudience()
	if err != nil {
		return nil, &Refusal{Reason: ErrMalformed, Sender: e.sender, Size: len(raw), Err: err}
	}
	return e.message(raw, audience, false), nil
}
