package message

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// typ is the value of the typ header (RFC 9596).
const typ = "application/converge-message"

// Labels of the CWT claims: the registered ones (RFC 8392, section 4), and private ones in the order
// in which they are encoded. docs/wire.md has the table.
const (
	claimIss = 1
	claimSub = 2
	claimAud = 3
	claimExp = 4
	claimNbf = 5
	claimIat = 6
	claimCti = 7

	claimIssuedMillis = -65537
	claimSession      = -65538
	claimSequence     = -65539
	claimTaskID       = -65540
	claimInReplyTo    = -65541
	claimTrace        = -65542
	claimEpoch        = -65544
)

const (
	agentInfix = "/agent/"
	topicInfix = "/topic/"
)

// envelope is a decoded frame of which nothing is proved yet. Its slices alias the frame.
type envelope struct {
	sign1       cose.Sign1
	sender      identity.ID
	contentType []byte
	audience    [MaxTopics][]byte
	audiences   int
	id          ID
	expires     int64
	issued      int64
	session     uint64
	sequence    uint64
	taskID      []byte
	inReplyTo   ID
	trace       []byte
	epoch       uint64
	sealing     []byte // the value of the sealing header, or nil
}

// Details of [ErrMalformed] and [ErrUnsupported]; fixed values, because strangers cause them.
var (
	errHeader    = errors.New("a required header is missing or has a value out of its limits")
	errClaim     = errors.New("iss, sub and nbf are no claims of a message")
	errIssued    = errors.New("iat and the issue time in milliseconds differ")
	errHeaderLen = fmt.Errorf("the protected header is larger than %d bytes", MaxHeader)
	errAlg       = errors.New("alg is not EdDSA")
	errTyp       = errors.New("typ is not " + typ)
	errCritical  = errors.New("a critical header is unknown")
	errVDS       = errors.New("vds is not 1 (SHA-256 Merkle tree)")
	errMode      = errors.New("vds and the inclusion proof stand only together")

	errSealingCritical = errors.New("the sealing header is critical, and only with it there is a critical header")
)

// decode reads a frame into e. The error is nil or has the reason [ErrMalformed] or [ErrUnsupported].
func (e *envelope) decode(raw []byte) (Reason, error) {
	s, err := cose.Parse(raw)
	if err != nil {
		return ErrMalformed, err
	}
	if len(s.Protected) > MaxHeader {
		return ErrMalformed, errHeaderLen
	}
	e.sign1 = s
	return e.decodeHeader(s.Protected)
}

// Bits of what has been read, to know what is missing.
const (
	sawAlg = 1 << iota
	sawContentType
	sawKid
	sawTyp
	sawAud
	sawExp
	sawIat
	sawCti
	sawMillis
	sawSession
	sawSequence
	sawAll = 1<<iota - 1
)

func (e *envelope) decodeHeader(protected []byte) (Reason, error) {
	r := cose.NewReader(protected)
	var keys cose.Keys
	var saw int
	var batch, critical bool
	for n := r.Map(); n > 0 && r.Err() == nil; n-- {
		label, known := keys.Label(&r)
		switch {
		case !known:
			r.Skip(1)
		case label == cose.LabelVDS:
			batch = true
			if r.Int() != cose.VDSMerkle {
				return unsupported(&r, errVDS)
			}
		case label == cose.LabelAlg:
			saw |= sawAlg
			if r.Int() != cose.AlgEdDSA {
				return unsupported(&r, errAlg)
			}
		case label == cose.LabelCrit:
			critical = true
			if r.Array() != 1 || r.Int() != labelSealing {
				return unsupported(&r, errCritical)
			}
		case label == labelSealing:
			e.sealing = r.Bytes()
			if reason, err := checkSealing(e.sealing); reason != 0 && r.Err() == nil {
				return reason, err
			}
		case label == cose.LabelContentType:
			saw |= sawContentType
			e.contentType = r.Text()
			require(&r, isMediaType(e.contentType))
		case label == cose.LabelKid:
			saw |= sawKid
			copy(e.sender[:], exactly(&r, identity.IDSize))
		case label == cose.LabelCWTClaims:
			saw |= e.decodeClaims(&r)
		case label == cose.LabelTyp:
			saw |= sawTyp
			if string(r.Text()) != typ {
				return unsupported(&r, errTyp)
			}
		default:
			r.Skip(1)
		}
	}
	if err := r.End(); err != nil {
		return ErrMalformed, err
	}
	if saw != sawAll {
		return ErrMalformed, errHeader
	}
	if batch != (e.sign1.Proof != nil) {
		return ErrMalformed, errMode
	}
	if critical != (e.sealing != nil) {
		return ErrMalformed, errSealingCritical
	}
	return 0, nil
}

// unsupported tells an unknown value from one that could not be read.
func unsupported(r *cose.Reader, detail error) (Reason, error) {
	if err := r.Err(); err != nil {
		return ErrMalformed, err
	}
	return ErrUnsupported, detail
}

func (e *envelope) decodeClaims(r *cose.Reader) (saw int) {
	var keys cose.Keys
	var iat int64
	for n := r.Map(); n > 0 && r.Err() == nil; n-- {
		label, known := keys.Label(r)
		switch {
		case !known:
			r.Skip(2)
		case label == claimIss, label == claimSub, label == claimNbf: // they would say more than is heeded
			r.Fail(errClaim)
		case label == claimAud:
			saw |= sawAud
			e.decodeAudience(r)
		case label == claimExp:
			saw |= sawExp
			e.expires = r.Int()
			require(r, e.expires > 0 && e.expires <= maxSeconds)
		case label == claimIat:
			saw |= sawIat
			iat = r.Int()
		case label == claimCti:
			saw |= sawCti
			copy(e.id[:], exactly(r, len(e.id)))
			require(r, !e.id.IsZero())
		case label == claimIssuedMillis:
			saw |= sawMillis
			e.issued = r.Int()
			require(r, e.issued > 0 && e.issued <= 1000*maxSeconds)
		case label == claimSession:
			saw |= sawSession
			if b := exactly(r, 8); b != nil {
				e.session = binary.BigEndian.Uint64(b)
			}
		case label == claimSequence:
			saw |= sawSequence
			n := r.Int() // COSE libraries read 64 bits with sign
			require(r, n > 0)
			e.sequence = uint64(n)
		case label == claimTaskID:
			e.taskID = r.Text()
			require(r, len(e.taskID) > 0 && len(e.taskID) <= MaxTaskID)
		case label == claimInReplyTo:
			copy(e.inReplyTo[:], exactly(r, len(e.inReplyTo)))
			require(r, !e.inReplyTo.IsZero()) // none is left out
		case label == claimTrace:
			e.trace = r.Text()
			require(r, len(e.trace) > 0 && len(e.trace) <= MaxTrace && isPrintable(e.trace))
		case label == claimEpoch:
			n := r.Int()
			require(r, n > 0) // epoch 0 is left out
			e.epoch = uint64(n)
		default:
			r.Skip(2)
		}
	}
	if iat != e.issued/1000 {
		r.Fail(errIssued)
	}
	return saw
}

// maxSeconds is the end of the year 9999, so that no time overflows.
const maxSeconds = 253402300799

func (e *envelope) decodeAudience(r *cose.Reader) {
	if !r.IsArray() {
		e.audience[0], e.audiences = r.Text(), 1
		return
	}
	n := r.Array()
	if n < 2 || n > MaxTopics { // one is encoded without an array
		r.Fail(errHeader)
		return
	}
	for i := range n {
		e.audience[i] = r.Text()
	}
	e.audiences = n
}

func require(r *cose.Reader, ok bool) {
	if !ok {
		r.Fail(errHeader)
	}
}

func exactly(r *cose.Reader, size int) []byte {
	b := r.Bytes()
	if len(b) != size {
		r.Fail(errHeader)
		return nil
	}
	return b
}

// isPrintable reports whether text is printable ASCII, so that it is safe in a log or a header.
func isPrintable(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isMediaType reports whether text is a media type by the rules of RFC 9052, section 3.1, that COSE
// libraries check: one slash, and no space around.
func isMediaType(text []byte) bool {
	return len(text) <= MaxContentType && isPrintable(text) &&
		bytes.Count(text, []byte{'/'}) == 1 && len(bytes.Trim(text, " /")) == len(text)
}

// message makes the Message of an envelope whose audience has been read.
func (e *envelope) message(raw []byte, a audience, verified bool) *Message {
	return &Message{
		id:          e.id,
		sender:      e.sender,
		network:     a.network,
		to:          a.to,
		topics:      a.topics,
		body:        e.sign1.Payload,
		contentType: internContentType(e.contentType),
		taskID:      string(e.taskID),
		inReplyTo:   e.inReplyTo,
		trace:       string(e.trace),
		issued:      e.issued,
		expires:     e.expires,
		session:     e.session,
		sequence:    e.sequence,
		epoch:       e.epoch,
		sealed:      e.sealing != nil,
		raw:         raw,
		verified:    verified,
	}
}

// internContentType is string(b), without an allocation for the usual ones.
func internContentType(b []byte) string {
	switch string(b) {
	case DefaultContentType:
		return DefaultContentType
	case "application/octet-stream":
		return "application/octet-stream"
	case "application/cbor":
		return "application/cbor"
	case "text/plain":
		return "text/plain"
	}
	return string(b)
}

// audience says who a message is for.
type audience struct {
	network string
	to      identity.ID
	topics  []Topic
}

// append appends the aud claim's value.
func (a audience) append(b []byte) []byte {
	switch {
	case !a.to.IsZero():
		b = cose.AppendTextHead(b, len(a.network)+len(agentInfix)+2*identity.IDSize)
		return appendDirect(b, a.network, a.to)
	case len(a.topics) == 0:
		return cose.AppendText(b, a.network)
	case len(a.topics) > 1: // one is encoded without an array
		b = cose.AppendArray(b, len(a.topics))
	}
	for _, t := range a.topics {
		b = cose.AppendTextHead(b, len(a.network)+len(topicInfix)+len(t.text))
		b = append(append(append(b, a.network...), topicInfix...), t.text...)
	}
	return b
}

func appendDirect(b []byte, network string, to identity.ID) []byte {
	b = append(append(b, network...), agentInfix...)
	return hex.AppendEncode(b, to[:])
}

var errAudience = errors.New("the audience is none of: a network, one agent of it, topics of it")

// readAudience reads the aud claim of any network.
func (e *envelope) readAudience() (audience, error) {
	first := string(e.audience[0])
	network, rest, _ := strings.Cut(first, "/")
	a := audience{network: network}
	if CheckNetwork(network) != nil {
		return audience{}, errAudience
	}
	if id, isAgent := strings.CutPrefix(first[len(network):], agentInfix); isAgent && e.audiences == 1 {
		to, err := identity.ParseID(id)
		if err != nil || to.IsZero() {
			return audience{}, errAudience
		}
		a.to = to
		return a, nil
	}
	if rest == "" && first == network && e.audiences == 1 {
		return a, nil
	}
	return a, e.readTopics(&a)
}

// readTopics reads an aud claim that names topics of the network a.
func (e *envelope) readTopics(a *audience) error {
	a.topics = make([]Topic, 0, e.audiences)
	for _, text := range e.audience[:e.audiences] {
		name, ok := strings.CutPrefix(string(text), a.network)
		name, isTopic := strings.CutPrefix(name, topicInfix)
		if !ok || !isTopic {
			return errAudience
		}
		topic, err := ParseTopic(name)
		if err != nil {
			return errAudience
		}
		for _, before := range a.topics {
			if before == topic {
				return errAudience
			}
		}
		a.topics = append(a.topics, topic)
	}
	return nil
}

// appendHeader appends the protected header of m with its keys in deterministic order. It says whether
// the signature is that of a batch, so that none can pass as the other.
func appendHeader(b []byte, m *Message, batch bool) []byte {
	pairs := 5
	if batch {
		pairs++
	}
	if m.sealing != nil {
		pairs += 2
	}
	b = cose.AppendMap(b, pairs)
	b = cose.AppendInt(b, cose.LabelAlg)
	b = cose.AppendInt(b, cose.AlgEdDSA)
	if m.sealing != nil {
		b = cose.AppendInt(b, cose.LabelCrit)
		b = cose.AppendInt(cose.AppendArray(b, 1), labelSealing)
	}
	b = cose.AppendInt(b, cose.LabelContentType)
	b = cose.AppendText(b, m.contentType)
	b = cose.AppendInt(b, cose.LabelKid)
	b = cose.AppendBytes(b, m.sender[:])
	b = cose.AppendInt(b, cose.LabelCWTClaims)
	b = appendClaims(b, m)
	b = cose.AppendInt(b, cose.LabelTyp)
	b = cose.AppendText(b, typ)
	if batch {
		b = cose.AppendInt(b, cose.LabelVDS)
		b = cose.AppendInt(b, cose.VDSMerkle)
	}
	if m.sealing != nil {
		b = cose.AppendBytes(cose.AppendInt(b, labelSealing), m.sealing.header)
	}
	return b
}

func appendClaims(b []byte, m *Message) []byte {
	pairs := 7
	for _, present := range [...]bool{m.taskID != "", !m.inReplyTo.IsZero(), m.trace != "", m.epoch != 0} {
		if present {
			pairs++
		}
	}
	b = cose.AppendMap(b, pairs)
	b = cose.AppendInt(b, claimAud)
	b = audience{m.network, m.to, m.topics}.append(b)
	b = cose.AppendInt(b, claimExp)
	b = cose.AppendInt(b, m.expires)
	b = cose.AppendInt(b, claimIat)
	b = cose.AppendInt(b, m.issued/1000)
	b = cose.AppendInt(b, claimCti)
	b = cose.AppendBytes(b, m.id[:])
	b = cose.AppendInt(b, claimIssuedMillis)
	b = cose.AppendInt(b, m.issued)
	b = cose.AppendInt(b, claimSession)
	var session [8]byte
	binary.BigEndian.PutUint64(session[:], m.session)
	b = cose.AppendBytes(b, session[:])
	b = cose.AppendInt(b, claimSequence)
	b = cose.AppendUint(b, m.sequence)
	if m.taskID != "" {
		b = cose.AppendInt(b, claimTaskID)
		b = cose.AppendText(b, m.taskID)
	}
	if !m.inReplyTo.IsZero() {
		b = cose.AppendInt(b, claimInReplyTo)
		b = cose.AppendBytes(b, m.inReplyTo[:])
	}
	if m.trace != "" {
		b = cose.AppendInt(b, claimTrace)
		b = cose.AppendText(b, m.trace)
	}
	if m.epoch != 0 {
		b = cose.AppendInt(b, claimEpoch)
		b = cose.AppendUint(b, m.epoch)
	}
	return b
}
