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
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/stat"
)

// ErrDraft is the cause of every refusal to sign a draft.
var ErrDraft = errors.New("cannot sign draft")

// SignerConfig configures a [Signer].
type SignerConfig struct {
	Identity *identity.Identity // required
	Network  string             // required; see CheckNetwork
	MaxSize  int                // bytes of an envelope; 0 means DefaultMaxSize
	Now      func() time.Time   // the clock that stamps messages; nil means time.Now
}

// Signer turns drafts into signed messages of one agent. It is the only thing that sets a sender, and
// it sets its own agent. It is safe for concurrent use.
//
// A Signer is one session in the sense of the replay window: it draws a random session number when it
// is made and numbers its messages from 1. Make one for each run of an agent.
type Signer struct {
	identity *identity.Identity
	network  string
	maxSize  int
	now      func() time.Time
	session  uint64
	sequence atomic.Uint64
	signed   stat.Counter
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
	var session [8]byte
	rand.Read(session[:])
	return &Signer{
		identity: c.Identity,
		network:  c.Network,
		maxSize:  cmp.Or(c.MaxSize, DefaultMaxSize),
		now:      orNow(c.Now),
		session:  binary.BigEndian.Uint64(session[:]),
	}, nil
}

// ID returns the agent whose messages s signs.
func (s *Signer) ID() identity.ID { return s.identity.ID() }

// Signed returns how many messages s has signed.
func (s *Signer) Signed() uint64 { return s.signed.Load() }

// Sign stamps the draft with sender, network, id, issue time, expiry, session and sequence, and signs
// it. The body is copied. Errors wrap [ErrDraft] and name the field at fault, or are ctx's.
func (s *Signer) Sign(ctx context.Context, d Draft) (*Message, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := s.check(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDraft, err)
	}
	m := s.stamp(d)
	header := appendHeader(make([]byte, 0, 512), m)
	sign1 := cose.Sign(s.identity, cose.DomainMessage, header, d.Body)
	m.raw = sign1.Append(make([]byte, 0, len(header)+len(d.Body)+cose.Overhead))
	if len(m.raw) > s.maxSize {
		return nil, fmt.Errorf("%w: Draft.Body: with its envelope %w", ErrDraft, sizeError(len(m.raw), s.maxSize))
	}
	m.body = m.raw[len(m.raw)-len(sign1.Signature)-2-len(d.Body):][:len(d.Body):len(d.Body)]
	s.signed.Inc()
	return m, nil
}

func (s *Signer) stamp(d Draft) *Message {
	now := s.now()
	ttl := d.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	expires := now.Add(ttl + time.Second - 1) // round up to the second
	m := &Message{
		id:          newID(),
		sender:      s.identity.ID(),
		network:     s.network,
		to:          d.To,
		topics:      slices.Clone(d.Topics),
		contentType: d.ContentType,
		taskID:      d.TaskID,
		inReplyTo:   d.InReplyTo,
		trace:       d.Trace,
		issued:      now.UnixMilli(),
		expires:     expires.Unix(),
		session:     s.session,
		sequence:    s.sequence.Add(1),
		verified:    true,
	}
	if m.contentType == "" {
		m.contentType = DefaultContentType
	}
	return m
}

// check holds a draft to what a verifier accepts, so that nothing is signed in vain.
func (s *Signer) check(d Draft) error {
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
	return nil
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
