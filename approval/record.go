package approval

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
)

// A record is a CBOR array in core deterministic encoding (RFC 8949 §4.2.1) of two byte strings: a map, and its
// HMAC-SHA256 under the key of those who decide for each other. The map has the version under key 1. Each record
// has one encoding, and unknown keys are refused: what is not understood must not be allowed. Times are nanoseconds
// since 1970.
const recordVersion = 1

// recordDomain keeps what the key authenticates here apart from all else.
const recordDomain = "converge-approval-record-v1\x00"

const keyPrefix = folder + "/"

// Bounds of what a record repeats of a call, in bytes. What the call is bound to is the hash of all.
const (
	maxName        = 128
	maxDescription = 1 << 10
	maxID          = 512
	maxReason      = 512
)

// record is a request as the store has it.
type record struct {
	Request
	hash       []byte // of the call
	paramsHash []byte
	revision   store.Revision
	proven     bool // whoever wrote it has the key
}

// key is where the record lies.
func (r *record) key() string { return keyPrefix + hex.EncodeToString(r.hash) }

// expired reports whether the time of the request is over.
func (r *record) expired(now time.Time) bool { return !now.Before(r.Expires) }

// covers reports whether those who decide see all labels that a call has.
func (r *record) covers(s taint.Set) bool {
	shown := taint.Of(r.Taint...)
	return shown.Union(s).String() == shown.String()
}

var stateNumbers = map[State]uint64{Waiting: 1, Allowed: 2, Denied: 3}

const (
	flagDestructive = 1 << iota
	flagReadOnly
	flagOpenWorld
	flagParamsCut
)

func (r *record) flags() (flags uint64) {
	for flag, set := range map[uint64]bool{
		flagDestructive: r.Destructive, flagReadOnly: r.ReadOnly, flagOpenWorld: r.OpenWorld, flagParamsCut: r.ParamsCut,
	} {
		if set {
			flags |= flag
		}
	}
	return flags
}

func (r *record) setFlags(flags uint64) {
	r.Destructive, r.ReadOnly = flags&flagDestructive != 0, flags&flagReadOnly != 0
	r.OpenWorld, r.ParamsCut = flags&flagOpenWorld != 0, flags&flagParamsCut != 0
}

func (r *record) encode() []byte {
	w := cose.NewMapWriter(nil)
	w.Uint(1, recordVersion)
	w.Bytes(2, r.hash)
	w.Text(3, r.ID)
	w.Uint(4, stateNumbers[r.State])
	w.Int(5, cose.FromTime(r.Asked))
	w.Int(6, cose.FromTime(r.Expires))
	w.Text(7, r.Agent)
	w.Text(8, r.AgentID)
	w.Text(9, r.Tool)
	w.Text(10, r.Description)
	w.Uint(11, r.flags())
	w.Text(12, r.Params)
	w.Uint(13, uint64(r.ParamsSize))
	w.Bytes(14, r.paramsHash)
	w.Texts(15, r.Taint)
	w.Text(16, r.TaskID)
	w.Text(17, r.CallID)
	w.Uint(18, uint64(r.Rule))
	w.Text(19, r.Reason)
	w.Text(20, r.By)
	w.Text(21, r.Claimed)
	w.Text(22, r.Note)
	w.Int(23, cose.FromTime(r.Decided))
	return w.End()
}

// seal returns the bytes of the record, authenticated.
func (r *record) seal(key []byte) []byte {
	payload := r.encode()
	return cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), payload), macOf(payload, key))
}

func macOf(payload, key []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(recordDomain))
	h.Write(payload)
	return h.Sum(nil)
}

// Why a record in the store does not count: for the log.
var (
	errRecord  = errors.New("not a valid approval record")
	errForeign = errors.New("the approval record was made with another key")
)

// decodeRecord reads the record that an entry of the store holds, and finds out whether it is proven. Its errors
// wrap errRecord.
func decodeRecord(e store.Entry, key []byte) (*record, error) {
	payload, mac, err := split(e.Value)
	if err != nil {
		return nil, fmt.Errorf("%w at %.80q: %w", errRecord, e.Key, err)
	}
	r, err := parseRecord(payload)
	if err == nil && r.key() != e.Key {
		err = errors.New("it belongs to another call")
	}
	if err != nil {
		return nil, fmt.Errorf("%w at %.80q: %w", errRecord, e.Key, err)
	}
	r.revision, r.proven = e.Revision, hmac.Equal(mac, macOf(payload, key))
	return r, nil
}

func split(value []byte) (payload, mac []byte, err error) {
	r := cose.NewReader(value)
	if r.Array() != 2 {
		r.Fail(cose.ErrUnexpected)
	}
	payload, mac = r.Bytes(), r.Bytes()
	return payload, mac, r.End()
}

// parser reads a record.
type parser struct{ cose.Reader }

// parseRecord accepts only what encode writes.
func parseRecord(value []byte) (*record, error) {
	r, p := &record{}, parser{cose.NewReader(value)}
	p.Record(recordVersion, func(key int64) { p.field(r, key) })
	if err := p.End(); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	r.ParamsSHA256 = hex.EncodeToString(r.paramsHash)
	if !bytes.Equal(r.encode(), value) {
		return nil, cose.ErrNotDeterministic
	}
	return r, nil
}

func (p *parser) field(r *record, key int64) {
	switch key {
	case 2:
		r.hash = bytes.Clone(p.Bytes())
	case 4:
		r.State = p.state()
	case 5:
		r.Asked = cose.ToTime(p.Int())
	case 6:
		r.Expires = cose.ToTime(p.Int())
	case 11:
		r.setFlags(p.Uint())
	case 13:
		r.ParamsSize = p.number()
	case 14:
		r.paramsHash = bytes.Clone(p.Bytes())
	case 15:
		r.Taint = cose.List(&p.Reader, taint.MaxLabels, func() string { return string(p.Text()) })
	case 18:
		r.Rule = p.number()
	case 23:
		r.Decided = cose.ToTime(p.Int())
	default:
		p.text(r, key)
	}
}

// text reads a field that is a text.
func (p *parser) text(r *record, key int64) {
	fields := map[int64]*string{
		3: &r.ID, 7: &r.Agent, 8: &r.AgentID, 9: &r.Tool, 10: &r.Description, 12: &r.Params,
		16: &r.TaskID, 17: &r.CallID, 19: &r.Reason, 20: &r.By, 21: &r.Claimed, 22: &r.Note,
	}
	if fields[key] == nil {
		p.Fail(cose.ErrUnexpected)
		return
	}
	*fields[key] = string(p.Text())
}

func (p *parser) state() State {
	n := p.Uint()
	for state, number := range stateNumbers {
		if number == n {
			return state
		}
	}
	p.Fail(cose.ErrUnexpected)
	return ""
}

func (p *parser) number() int { return int(min(p.Uint(), math.MaxInt32)) }

// check holds a record to what this package makes.
func (r *record) check() error {
	for _, text := range []struct {
		field, value string
		most         int
	}{
		{"agent", r.Agent, maxName}, {"agent ID", r.AgentID, maxName}, {"tool", r.Tool, maxName},
		{"description", r.Description, maxDescription}, {"params", r.Params, MaxShown}, {"task", r.TaskID, maxID},
		{"call", r.CallID, maxID}, {"reason", r.Reason, maxReason}, {"decider", r.By, MaxBy},
		{"claimed decider", r.Claimed, MaxBy}, {"note", r.Note, MaxNote},
	} {
		if len(text.value) > text.most {
			return fmt.Errorf("the %s has %d bytes where at most %d are allowed", text.field, len(text.value), text.most)
		}
	}
	decided := r.State != Waiting
	switch {
	case !isID(r.ID):
		return errors.New("its ID is not 16 hexadecimal digits")
	case len(r.hash) != 32 || len(r.paramsHash) != 32:
		return errors.New("a hash does not have 32 bytes")
	case r.Asked.IsZero() || !r.Expires.After(r.Asked) || r.Expires.Sub(r.Asked) > MaxTimeout:
		return errors.New("its times make no sense")
	case decided != !r.Decided.IsZero(), decided && !r.Decided.Before(r.Expires), !decided && r.By+r.Claimed+r.Note != "":
		return fmt.Errorf("a request that is %s cannot be decided like that", r.State)
	}
	return nil
}

const idDigits = 16

func isID(s string) bool { return len(s) == idDigits && strings.Trim(s, "0123456789abcdef") == "" }
