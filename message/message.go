// Package message makes, signs, encodes and verifies messages. It is the only place where a [Message]
// comes into being, and there are two ways only: a [Signer] signs a [Draft], and a [Verifier] accepts
// received bytes. Code that holds a Message for which [Message.Verified] is true can rely on this:
//
//   - the sender is the agent whose key signed these very bytes;
//   - the network, the recipient or the topics, the expiry and the body are as the sender signed them;
//   - it was fresh when it arrived, and this verifier has not accepted it before;
//   - it was addressed to this verifier's agent.
//
// If [Message.Sealed], moreover, the sender sealed the body under this very header, for agents that it named, and
// nobody else could read it on the way.
//
// The bytes are a COSE_Sign1 (RFC 9052) whose protected header carries CWT claims (RFC 9597), in
// deterministic CBOR; docs/wire.md has the format and testdata/vectors has examples.
package message

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Limits of a message; the first two are defaults that a [SignerConfig] and a [VerifierConfig] can change.
const (
	DefaultMaxSize = 1 << 20         // bytes of a whole envelope
	DefaultTTL     = 5 * time.Minute // how long a message lives if its draft does not say

	MaxHeader      = 64 << 10 // bytes of the protected header
	MaxTopics      = 16       // topics of one message
	MaxContentType = 128      // bytes of a content type
	MaxTaskID      = 256      // bytes of a task ID
	MaxTrace       = 128      // bytes of a trace context
)

// DefaultContentType is the content type of a body whose draft names none.
const DefaultContentType = "application/json"

// ID names one message: 16 random bytes, chosen by the signer. The zero ID names none.
type ID [16]byte

// ParseID reads the text form of a message ID: 32 hexadecimal digits.
func ParseID(text string) (ID, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(ID{}) {
		return ID{}, fmt.Errorf("message ID %.64q: not 32 hexadecimal digits", text)
	}
	return ID(raw), nil
}

func newID() ID {
	var id ID
	rand.Read(id[:])
	return id
}

// IsZero reports whether id names no message.
func (id ID) IsZero() bool { return id == ID{} }

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements [encoding.TextMarshaler] with the form of [ID.String].
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// Draft is what an agent wants to say. It names no sender: whoever signs it is the sender.
//
// To and Topics say who it is for: To alone for one agent, Topics alone for the subscribers of any of
// them, neither for every agent of the network. Both is an error.
type Draft struct {
	To          identity.ID
	Topics      []Topic // at most MaxTopics, none twice
	Body        []byte
	ContentType string        // "" means DefaultContentType
	TTL         time.Duration // 0 means DefaultTTL; receivers cap it (VerifierConfig.MaxAge)
	TaskID      string        // the task that it is about, if any
	InReplyTo   ID            // the message that it answers, if any
	Trace       string        // W3C trace context (a traceparent value), if any

	// Seal has the body encrypted, so that only its recipients can read it: To, or, for a message to topics or
	// to everybody, the agents of SealTo. Everything else stays readable. It needs SignerConfig.Recipients.
	Seal bool
	// SealTo names those who can read a message to topics or to everybody, which is then sealed: at most
	// MaxSealTo, none twice. Other subscribers refuse it. With To it is an error.
	SealTo []identity.ID
	// Public says that the body of a message to topics or to everybody is for all to read, also where the
	// signer's policy is SealRequired, which otherwise refuses what names nobody to seal it to.
	Public bool

	// Signed, if set, gets the ID of the message that is made of the draft, for records.
	Signed *ID `cbor:"-" json:"-"`
}

// Message is a signed message. It is immutable and safe for concurrent use; slices that its methods
// return must not be changed.
type Message struct {
	id          ID
	sender      identity.ID
	network     string
	to          identity.ID
	topics      []Topic
	body        []byte
	contentType string
	taskID      string
	inReplyTo   ID
	trace       string
	issued      int64 // milliseconds since 1970
	expires     int64 // seconds since 1970
	session     uint64
	sequence    uint64
	epoch       uint64
	raw         []byte
	verified    bool
	sealed      bool     // the sender sealed the body
	opened      bool     // and body is what was sealed
	sealing     *sealing // while it is being signed
}

// ID returns the message's ID.
func (m *Message) ID() ID { return m.id }

// Sender returns the agent whose key signed the message (if [Message.Verified]).
func (m *Message) Sender() identity.ID { return m.sender }

// Network returns the name of the network that the message was signed for.
func (m *Message) Network() string { return m.network }

// To returns the recipient of a direct message, and the zero ID for others.
func (m *Message) To() identity.ID { return m.to }

// Topics returns the topics that the message was published under, if any.
func (m *Message) Topics() []Topic { return m.topics }

// Broadcast reports whether the message is for every agent of the network.
func (m *Message) Broadcast() bool { return m.to.IsZero() && len(m.topics) == 0 }

// Body returns the body: of a sealed message the plain text, unless [ParseUnsafe] read it.
func (m *Message) Body() []byte { return m.body }

// ContentType returns the media type of the body.
func (m *Message) ContentType() string { return m.contentType }

// TaskID returns the ID of the task that the message is about, or "".
func (m *Message) TaskID() string { return m.taskID }

// InReplyTo returns the ID of the message that this one answers, or the zero ID.
func (m *Message) InReplyTo() ID { return m.inReplyTo }

// Trace returns the W3C trace context (a traceparent value), or "".
func (m *Message) Trace() string { return m.trace }

// Issued returns when the sender signed the message, by its clock, to the millisecond.
func (m *Message) Issued() time.Time { return time.UnixMilli(m.issued) }

// Expires returns when the message stops being acceptable, to the second.
func (m *Message) Expires() time.Time { return time.Unix(m.expires, 0) }

// Session returns the random number of the sender's process, and Sequence the message's number in it.
func (m *Message) Session() uint64 { return m.session }

// Sequence returns the number of the message in its session, counted from 1.
func (m *Message) Sequence() uint64 { return m.sequence }

// Epoch returns the epoch of the sender's key that signed the message; 0 is that of the root key.
func (m *Message) Epoch() uint64 { return m.epoch }

// Sealed reports whether the sender sealed the body, so that only its recipients can read it. It does not
// say that there is a plain text in Body: what [ParseUnsafe] read is as it was sent; see [Message.Open].
func (m *Message) Sealed() bool { return m.sealed }

// Raw returns the signed bytes, which prove the message to others. Those of a sealed message are sealed.
func (m *Message) Raw() []byte { return m.raw }

// Verified reports whether the message was signed by a [Signer] or accepted by a [Verifier]. It is false
// for what [ParseUnsafe] returns and what was made in mode [UnsignedUnsafe].
func (m *Message) Verified() bool { return m.verified }

// WithBody returns a copy of the message with another body, for hooks that transform what arrives
// (unpack, translate). Everything else, [Message.Raw] included, stays as the sender signed it.
func (m *Message) WithBody(body []byte, contentType string) *Message {
	c := *m
	c.body, c.contentType = bytes.Clone(body), contentType
	return &c
}

// String returns the message's ID and short sender and recipient, never the body.
func (m *Message) String() string {
	to := "everybody"
	switch {
	case !m.to.IsZero():
		to = m.to.Short()
	case len(m.topics) > 0:
		to = fmt.Sprint(m.topics)
	}
	return fmt.Sprintf("message %s from %s to %s", m.id, m.sender.Short(), to)
}

// CheckNetwork reports why name cannot name a network: it has to be 1 to 63 lower-case letters,
// digits, '-' and '.', and to begin and end with a letter or digit.
func CheckNetwork(name string) error {
	plain := strings.TrimFunc(name, func(c rune) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' })
	inner := strings.Trim(plain, "abcdefghijklmnopqrstuvwxyz0123456789-.")
	edges := strings.Trim(name, "-.") == name
	if name == "" || len(name) > 63 || inner != "" || !edges {
		return fmt.Errorf("network name %.80q: use 1 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}
