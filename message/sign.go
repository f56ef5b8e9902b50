package message

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/group"
	"github.com/converge-agents/converge/internal/stat"
)

// ErrDraft is the cause of every refusal to sign a draft.
var ErrDraft = errors.New("cannot sign draft")

// SignerConfig configures a [Signer].
type SignerConfig struct {
	Identity *identity.Identity // required
	Network  string             // required; see CheckNetwork
	Mode     Mode               // the zero value is Batch
	MaxSize  int                // bytes of an envelope; 0 means DefaultMaxSize
	Now      func() time.Time   // the clock that stamps messages; nil means time.Now

	Recipients SealingKeySource // whose keys bodies are sealed to; nil means that none can be
	Seal       SealPolicy       // the zero value is SealAllow
}

// Signer turns drafts into signed messages of one agent. It is the only thing that sets a sender, and
// it sets its own agent. It is safe for concurrent use.
//
// A Signer is one session in the sense of the replay window: it draws a random session number when it
// is made and numbers its messages from 1. Make one for each run of an agent. A change of the agent's key begins
// no new session ([Signer.Rotate]).
type Signer struct {
	identity atomic.Pointer[identity.Identity]
	network  string
	mode     Mode
	maxSize  int
	now      func() time.Time
	session  uint64
	sequence atomic.Uint64
	group    group.Commit[*Message]
	signed   stat.Counter
	batches  stat.Counter

	recipients SealingKeySource // nil if the policy is SealOff
	seal       SealPolicy
	sealed     stat.Counter
}

// NewSigner checks the configuration and returns a signer.
func NewSigner(c SignerConfig) (*Signer, error) {
	if c.Identity == nil {
		return nil, errors.New("message.SignerConfig.Identity: required")
	}
	if err := CheckNetwork(c.Network); err != nil {
		return nil, fmt.Errorf("message.SignerConfig.Network: %w", err)
	}
	if c.MaxSize < 0 {
		return nil, errors.New("message.SignerConfig.MaxSize: negative")
	}
	if c.Mode > UnsignedUnsafe {
		return nil, fmt.Errorf("message.SignerConfig.Mode: %d is no mode", c.Mode)
	}
	if err := c.checkSealing(); err != nil {
		return nil, err
	}
	var session [8]byte
	rand.Read(session[:])
	s := &Signer{
		network: c.Network,
		mode:    c.Mode,
		maxSize: cmp.Or(c.MaxSize, DefaultMaxSize),
		now:     orNow(c.Now),
		session: binary.BigEndian.Uint64(session[:]),

		recipients: c.Recipients,
		seal:       c.Seal,
	}
	s.identity.Store(c.Identity)
	return s, nil
}

// ID returns the agent whose messages s signs.
func (s *Signer) ID() identity.ID { return s.identity.Load().ID() }

// Identity returns the identity that s signs with now.
func (s *Signer) Identity() *identity.Identity { return s.identity.Load() }

// Rotate has s sign with another key of the same agent from now on. Session and sequence go on. Whoever is to
// verify what s signs has to know the key's statement before. A key of an earlier epoch is an error.
func (s *Signer) Rotate(id *identity.Identity) error {
	for {
		current := s.identity.Load()
		switch {
		case id.ID() != current.ID():
			return fmt.Errorf("rotate signer of agent %s: the key is that of agent %s", current.ID().Short(), id.ID().Short())
		case id.Epoch() < current.Epoch():
			return fmt.Errorf("rotate signer of agent %s: the key is of epoch %d, and %d is in use", current.ID().Short(), id.Epoch(), current.Epoch())
		}
		if s.identity.CompareAndSwap(current, id) {
			return nil
		}
	}
}

// Signed returns how many messages s has signed.
func (s *Signer) Signed() uint64 { return s.signed.Load() }

// Batches returns how many signatures s has made for more than one message.
func (s *Signer) Batches() uint64 { return s.batches.Load() }

// Sealed returns how many of the messages that s has signed are sealed.
func (s *Signer) Sealed() uint64 { return s.sealed.Load() }

// Sign stamps the draft with sender, network, id, issue time, expiry, session and sequence, seals it if that
// is due, and signs it. In mode [Batch], drafts that come while another signature is being made are signed together; one
// that comes alone is signed at once. The body is copied. Errors wrap [ErrDraft] and name the field at
// fault, or are ctx's.
func (s *Signer) Sign(ctx context.Context, d Draft) (*Message, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := s.check(&d); err != nil {
		return nil, err
	}
	m := &Message{}
	s.stamp(m, &d, s.now())
	if err := s.prepareSealing(m, &d); err != nil {
		return nil, err
	}
	sign := s.signAlone
	if s.canBatch(m) {
		sign = s.joinGroup
	}
	if err := s.endSealing(m, sign(m)); err != nil {
		return nil, err
	}
	return m, nil
}

// SignAll is [Signer.Sign] for several drafts, which share signatures in mode [Batch]. A draft that cannot
// be signed does not keep the others back: its message is nil and errs says why. errs is nil if all were
// signed. A message that is kept may keep some KiB of others in memory.
//
// Receivers bear up to 1,024 messages of an agent out of order. Who sends more than that from several
// goroutines at once should use one goroutine instead.
func (s *Signer) SignAll(ctx context.Context, drafts []Draft) (signed []*Message, errs []error) {
	signed = make([]*Message, len(drafts))
	take := func(i int, m *Message, err error) {
		if signed[i] = m; err == nil {
			return
		}
		if errs == nil {
			errs = make([]error, len(drafts))
		}
		errs[i] = err
	}
	for first := 0; first < len(drafts); first += maxBatch {
		s.signSome(ctx, drafts, first, &workspace{}, take)
	}
	return signed, errs
}

// SignEach is [Signer.SignAll] for those who only pass the messages on: it hands each one, or why there is
// none, to use, in the order of the drafts, and takes the memory back. Neither the message nor anything
// that its methods return may be used once use has returned.
func (s *Signer) SignEach(ctx context.Context, drafts []Draft, use func(i int, m *Message, err error)) {
	w := workspaces.Get().(*workspace)
	defer func() { w.reset(); workspaces.Put(w) }()
	for first := 0; first < len(drafts); first += maxBatch {
		w.reset()
		s.signSome(ctx, drafts, first, w, use)
	}
}

// signSome signs up to maxBatch drafts, from the first on.
func (s *Signer) signSome(ctx context.Context, drafts []Draft, first int, w *workspace, use func(int, *Message, error)) {
	some := drafts[first:min(first+maxBatch, len(drafts))]
	w.messages = slices.Grow(w.messages, len(some))[:len(some)]
	now := s.now()
	var errs map[int]error
	for i := range some {
		if err := s.prepare(ctx, &w.messages[i], &some[i], now, w); err != nil {
			if errs == nil {
				errs = map[int]error{}
			}
			errs[i] = err
		}
	}
	s.signBatch(w.batch, w)
	for i := range some {
		if err := s.endSealing(&w.messages[i], errs[i]); err != nil {
			use(first+i, nil, err)
		} else {
			use(first+i, &w.messages[i], nil)
		}
	}
}

// prepare makes m of a draft, and enters it in the batch or signs it alone.
func (s *Signer) prepare(ctx context.Context, m *Message, d *Draft, now time.Time, w *workspace) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := s.check(d); err != nil {
		return err
	}
	s.stamp(m, d, now)
	if err := s.prepareSealing(m, d); err != nil {
		return err
	}
	if !s.canBatch(m) {
		return s.signAlone(m)
	}
	w.batch = append(w.batch, m)
	return nil
}

// stamp fills in m, all but what signing adds. The body is still the draft's.
func (s *Signer) stamp(m *Message, d *Draft, now time.Time) {
	ttl := d.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	expires := now.Add(ttl + time.Second - 1) // round up to the second
	*m = Message{
		id:          newID(),
		sender:      s.ID(),
		network:     s.network,
		to:          d.To,
		topics:      slices.Clone(d.Topics),
		body:        d.Body,
		contentType: d.ContentType,
		taskID:      d.TaskID,
		inReplyTo:   d.InReplyTo,
		trace:       d.Trace,
		issued:      now.UnixMilli(),
		expires:     expires.Unix(),
		session:     s.session,
		sequence:    s.sequence.Add(1),
		verified:    s.mode != UnsignedUnsafe,
	}
	if m.contentType == "" {
		m.contentType = DefaultContentType
	}
	if d.Signed != nil {
		*d.Signed = m.id
	}
}

// check holds a draft to what a verifier accepts, so that nothing is signed in vain.
func (s *Signer) check(d *Draft) error {
	if err := s.fault(d); err != nil {
		return draftError("%w", err)
	}
	return nil
}

func draftError(format string, cause error) error { return fmt.Errorf("%w: "+format, ErrDraft, cause) }

func (s *Signer) fault(d *Draft) error {
	if !d.To.IsZero() && len(d.Topics) > 0 {
		return errors.New("Draft.To and Draft.Topics are both set: a message goes to one agent or to topics")
	}
	if len(d.Topics) > MaxTopics {
		return fmt.Errorf("Draft.Topics: %d topics where at most %d are allowed", len(d.Topics), MaxTopics)
	}
	for i, t := range d.Topics {
		if t.IsZero() || slices.Contains(d.Topics[:i], t) {
			return fmt.Errorf("Draft.Topics: topic %d, %q, is empty or given twice", i+1, t)
		}
	}
	if len(d.Body) > s.maxSize {
		return fmt.Errorf("Draft.Body: %w", sizeError(len(d.Body), s.maxSize))
	}
	if d.TTL < 0 || d.TTL > maxTTL {
		return fmt.Errorf("Draft.TTL: %v is not between 0 and %v", d.TTL, maxTTL)
	}
	if d.ContentType != "" && !isMediaType([]byte(d.ContentType)) {
		return fmt.Errorf("Draft.ContentType: %.160q is not a media type (type/subtype) of up to %d printable ASCII characters", d.ContentType, MaxContentType)
	}
	if !utf8.ValidString(d.TaskID) || len(d.TaskID) > MaxTaskID {
		return fmt.Errorf("Draft.TaskID: %.300q is not up to %d bytes of UTF-8", d.TaskID, MaxTaskID)
	}
	if !isPrintable([]byte(d.Trace)) || len(d.Trace) > MaxTrace {
		return fmt.Errorf("Draft.Trace: %.160q is not up to %d printable ASCII characters", d.Trace, MaxTrace)
	}
	return s.sealingFault(d)
}

// maxTTL keeps an expiry from overflowing; what receivers allow is far less.
const maxTTL = 365 * 24 * time.Hour

func sizeError(size, limit int) error {
	return fmt.Errorf("%w: %d bytes where at most %d are allowed; send a reference to large data instead", ErrTooLarge, size, limit)
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}
