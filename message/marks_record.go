package message

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
)

// Records are arrays in deterministic CBOR (RFC 8949, section 4.2.1), of which the first item is the
// version. Times are milliseconds since 1970. They name whose they are, so that a record under another's
// key says nothing.
//
//	ceiling: [1, network, agent, run, written, ceiling]
//	sender:  [1, network, agent, sender, floor, latest, [session…]]
//	session: [number, highest, floor, latest, window]
const (
	marksVersion = 1
	// maxMark bounds the bytes of a record.
	maxMark = 4096
	// maxMarkTime bounds times: the end of the year 9999, and some time ahead of it.
	maxMarkTime = 1000*maxSeconds + 1<<32
)

const (
	ceilingFields = 6
	senderFields  = 7
	sessionFields = 5
)

// Details of a record that says nothing.
var (
	errMarkSize    = errors.New("it is larger than a mark can be")
	errMarkShape   = errors.New("it is not a replay mark")
	errMarkForeign = errors.New("it is a mark of another agent, sender or network")
)

// runID tells the marks of one process from those of another.
type runID [16]byte

// ceilingMark is what is written of all senders.
type ceilingMark struct {
	run     runID
	written int64 // by the receiver's clock
	ceiling int64 // what was issued up to then may have been accepted
}

// senderMark is what is written of one sender: its exact state, or a state without sessions that says
// no more than up to when its messages may have been accepted.
type senderMark struct {
	sender identity.ID
	state  senderState
}

// upTo returns the state of a sender whose messages may have been accepted up to an issue time.
func upTo(ceiling int64) senderState { return senderState{floor: ceiling + 1, latest: ceiling} }

// covers returns the issue time up to which the state takes nothing.
func (s *senderState) covers() int64 { return s.floor - 1 }

// top returns the issue time above which the state says nothing.
func (s *senderState) top() int64 { return max(s.latest, s.floor-1) }

func (m *Marks) prefix() string { return store.Key("replay", m.network, m.agent.String()) + "/" }

func (m *Marks) ceilingKey() string { return m.prefix() + "ceiling" }

func (m *Marks) senderKey(id identity.ID) string { return m.prefix() + id.String() }

// begin appends the head of a record.
func (m *Marks) begin(b []byte, fields int) []byte {
	b = cose.AppendUint(cose.AppendArray(b, fields), marksVersion)
	return cose.AppendBytes(cose.AppendText(b, m.network), m.agent[:])
}

func (m *Marks) encodeCeiling(c ceilingMark) []byte {
	b := cose.AppendBytes(m.begin(nil, ceilingFields), c.run[:])
	return cose.AppendInt(cose.AppendInt(b, c.written), c.ceiling)
}

func (m *Marks) encodeSender(s senderMark) []byte {
	sessions := slices.SortedFunc(slices.Values(s.state.sessions), func(a, b *session) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	b := cose.AppendBytes(m.begin(nil, senderFields), s.sender[:])
	b = cose.AppendInt(cose.AppendInt(b, s.state.floor), s.state.latest)
	b = cose.AppendArray(b, len(sessions))
	for _, known := range sessions {
		b = known.append(b)
	}
	return b
}

func (s *session) append(b []byte) []byte {
	b = cose.AppendArray(b, sessionFields)
	b = cose.AppendUint(cose.AppendUint(b, s.number), s.window.highest)
	b = cose.AppendInt(cose.AppendInt(b, s.floor), s.latest)
	var bits []byte
	for _, word := range s.window.bits {
		bits = binary.BigEndian.AppendUint64(bits, word)
	}
	return cose.AppendBytes(b, bits)
}

// open reads the head of a record. Its reader fails with ErrMarksVersion if a newer version wrote it.
func (m *Marks) open(raw []byte, fields int) cose.Reader {
	r := cose.NewReader(raw)
	n, version := r.Array(), r.Uint()
	switch {
	case r.Err() != nil:
	case version > marksVersion: // it may have any shape and size
		r.Fail(ErrMarksVersion)
	case len(raw) > maxMark:
		r.Fail(errMarkSize)
	case n != fields, version != marksVersion:
		r.Fail(errMarkShape)
	}
	network, agent := r.Text(), markBytes(&r, identity.IDSize)
	if r.Err() == nil && (string(network) != m.network || string(agent) != string(m.agent[:])) {
		r.Fail(errMarkForeign)
	}
	return r
}

func (m *Marks) decodeCeiling(raw []byte) (ceilingMark, error) {
	r := m.open(raw, ceilingFields)
	var c ceilingMark
	copy(c.run[:], markBytes(&r, len(c.run)))
	c.written, c.ceiling = markTime(&r), markTime(&r)
	return c, r.End()
}

func (m *Marks) decodeSender(sender identity.ID, raw []byte) (senderMark, error) {
	r := m.open(raw, senderFields)
	if named := markBytes(&r, identity.IDSize); r.Err() == nil && string(named) != string(sender[:]) {
		r.Fail(errMarkForeign)
	}
	s := senderMark{sender: sender}
	s.state.floor, s.state.latest = markTime(&r), markTime(&r)
	n := r.Array()
	if n > maxSessions {
		r.Fail(errMarkShape)
	}
	for i := range n {
		known := readSession(&r)
		if r.Err() == nil && (known.latest > s.state.latest || i > 0 && known.number <= s.state.sessions[i-1].number) {
			r.Fail(errMarkShape)
		}
		if r.Err() != nil {
			break
		}
		s.state.sessions = append(s.state.sessions, known)
	}
	return s, r.End()
}

func readSession(r *cose.Reader) *session {
	if r.Array() != sessionFields {
		r.Fail(errMarkShape)
	}
	s := &session{number: r.Uint()}
	s.window.highest = r.Uint()
	s.floor, s.latest = markTime(r), markTime(r)
	bits := markBytes(r, 8*len(s.window.bits))
	if bits == nil {
		return s
	}
	for i := range s.window.bits {
		s.window.bits[i] = binary.BigEndian.Uint64(bits[8*i:])
	}
	if highest := s.window.highest; highest == 0 || highest > math.MaxInt64 || !s.window.seen(highest) {
		r.Fail(errMarkShape)
	}
	return s
}

func markTime(r *cose.Reader) int64 {
	t := r.Int()
	if t < 0 || t > maxMarkTime {
		r.Fail(errMarkShape)
	}
	return t
}

func markBytes(r *cose.Reader, size int) []byte {
	b := r.Bytes()
	if len(b) != size {
		r.Fail(errMarkShape)
		return nil
	}
	return b
}
