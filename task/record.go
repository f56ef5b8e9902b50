package task

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
)

// A record is one CBOR array, in core deterministic encoding (RFC 8949 §4.2.1), of the version, two maps with
// integer keys, and the submitter's proof if there is one. The maps are the state, and what was submitted,
// which never changes. The second is encoded once and then copied as it is. Times are nanoseconds since 1970, and absent where unset.
const recordVersion = 1

const (
	folder    = "task"
	keyPrefix = folder + "/"
)

// record is a task at one revision. It is never altered once others can see it; a change makes a new
// one. Times are nanoseconds since 1970, 0 for none.
type record struct {
	*fixed
	revision store.Revision
	epoch    uint64
	claimant identity.ID
	expires  int64 // when the claim does
	updated  int64
	ready    int64 // when it can be claimed
	attempts uint16
	status   Status
	dead     bool
	outcome  *outcome // nil if there is nothing to tell
}

// fixed is what never changes of a task, and stays with it from record to record.
type fixed struct {
	spec     Spec
	deadline int64
	created  int64
	key      string // in the store
	encoded  []byte // the second map of the record
	route    route  // equal for tasks that the same profiles see
	errand   errand
}

// outcome is what a task that has ended left, or the last attempt at it.
type outcome struct {
	result     []byte
	resultType string
	reason     string // for the failure
	proof      []byte // that the claimant has ended it so; nil if it has not
}

// newRecord makes the record of a task that is yet to be stored.
func newRecord(spec Spec, now int64) *record {
	key := store.Key(folder, spec.ID)
	if id := key[len(keyPrefix):]; id == spec.ID {
		spec.ID = id // one text in memory is enough for both
	}
	f := newFixed(spec, spec.submission())
	f.created, f.key = now, key
	r := &record{fixed: f, status: Pending, updated: now}
	if ready := cose.FromTime(spec.NotBefore); ready > now {
		r.ready = ready
	}
	return r
}

func newFixed(spec Spec, encoded []byte) *fixed {
	return &fixed{spec: spec, deadline: cose.FromTime(spec.Deadline), encoded: encoded, route: routeOf(&spec)}
}

// showTo fills in a zero task, which shares its slices with r.
func (r *record) showTo(t *Task) {
	t.Spec, t.Status, t.Claimant, t.Epoch = r.spec, r.status, r.claimant, r.epoch
	t.ClaimExpires, t.CreatedAt, t.UpdatedAt, t.ReadyAt = cose.ToTime(r.expires), cose.ToTime(r.created), cose.ToTime(r.updated), cose.ToTime(r.ready)
	t.Attempts, t.DeadLetter, t.Revision = int(r.attempts), r.dead, r.revision
	if o := r.outcome; o != nil {
		t.Result, t.ResultType, t.Error, t.ResultProof = o.result, o.resultType, o.reason, o.proof
	}
}

// task returns the task, which shares its slices with r.
func (r *record) task() (t Task) {
	r.showTo(&t)
	return t
}

// copy returns the task for somebody who may change it.
func (r *record) copy() (t Task) {
	r.copyTo(&t)
	return t
}

// copyTo fills in a zero task for somebody who may change it.
func (r *record) copyTo(t *Task) {
	r.showTo(t)
	buf := make([]byte, 0, len(t.Params)+len(t.Result)+len(t.Proof)+len(t.ResultProof))
	for _, own := range []*[]byte{(*[]byte)(&t.Params), &t.Result, &t.Proof, &t.ResultProof} {
		if *own != nil {
			start := len(buf)
			buf = append(buf, *own...)
			*own = buf[start:len(buf):len(buf)]
		}
	}
	if len(t.Capabilities) > 0 {
		own := make([]string, len(t.Capabilities))
		copy(own, t.Capabilities)
		t.Capabilities = own
	}
}

// idOf returns the task that a key belongs to.
func idOf(key string) (string, error) {
	id, ours := strings.CutPrefix(key, keyPrefix)
	if ours && strings.IndexByte(id, '=') < 0 && strings.IndexByte(id, '/') < 0 {
		return id, nil
	}
	parts, err := store.SplitKey(key)
	if err != nil || len(parts) != 2 || parts[0] != folder {
		return "", errors.New("the key is not that of a task")
	}
	return parts[1], nil
}

// submissionPart is the second map of a record, as it is read: all of a Spec and nothing else.
type submissionPart struct {
	ID           string   `cbor:"1,keyasint"`
	Kind         string   `cbor:"2,keyasint"`
	Params       []byte   `cbor:"3,keyasint"`
	Capabilities []string `cbor:"4,keyasint,omitempty"`
	Topic        string   `cbor:"5,keyasint,omitempty"`
	Pool         string   `cbor:"6,keyasint,omitempty"`
	Submitter    []byte   `cbor:"7,keyasint"`
	ClaimTTL     int64    `cbor:"8,keyasint"`
	Deadline     int64    `cbor:"9,keyasint,omitempty"`
	Priority     int      `cbor:"10,keyasint,omitempty"`
	NotBefore    int64    `cbor:"11,keyasint,omitempty"`
	MaxAttempts  int      `cbor:"12,keyasint,omitempty"`
	BackoffBase  int64    `cbor:"13,keyasint,omitempty"`
	BackoffMax   int64    `cbor:"14,keyasint,omitempty"`
	Key          string   `cbor:"15,keyasint,omitempty"`
}

// submission returns the bytes that stand for what is submitted. It is the one place that makes them:
// the same Spec gives the same bytes, and other ones give others. The Spec has to be a complete one; see
// [Spec.check].
func (s *Spec) submission() []byte {
	w := cose.NewMapWriter(make([]byte, 0, 192+len(s.Params)))
	w.Text(1, s.ID)
	w.Text(2, s.Kind)
	w.Bytes(3, s.Params)
	w.Texts(4, s.Capabilities)
	w.Text(5, s.Topic.String())
	w.Text(6, s.Pool)
	w.Bytes(7, s.Submitter[:])
	w.Int(8, int64(s.ClaimTTL))
	w.Int(9, cose.FromTime(s.Deadline))
	w.Int(10, int64(s.Priority))
	w.Int(11, cose.FromTime(s.NotBefore))
	w.Int(12, int64(s.MaxAttempts))
	w.Int(13, int64(s.Backoff.Base))
	w.Int(14, int64(s.Backoff.Max))
	w.Text(15, s.IdempotencyKey)
	return w.End()
}

// statePart is the first map of a record, as it is read. Its zeros are left out. The first three fields
// tell whether the task has ended, and when it can be forgotten; see [peek].
type statePart struct {
	Status       uint8  `cbor:"1,keyasint"`
	Dead         uint8  `cbor:"2,keyasint,omitempty"`
	UpdatedAt    int64  `cbor:"3,keyasint,omitempty"`
	CreatedAt    int64  `cbor:"4,keyasint,omitempty"`
	Claimant     []byte `cbor:"5,keyasint,omitempty"`
	Epoch        uint64 `cbor:"6,keyasint,omitempty"`
	ClaimExpires int64  `cbor:"7,keyasint,omitempty"`
	ReadyAt      int64  `cbor:"8,keyasint,omitempty"`
	Attempts     uint16 `cbor:"9,keyasint,omitempty"`
	Result       []byte `cbor:"10,keyasint,omitempty"`
	ResultType   string `cbor:"11,keyasint,omitempty"`
	Error        string `cbor:"12,keyasint,omitempty"`
	Proof        []byte `cbor:"13,keyasint,omitempty"`
}

// append appends the bytes of a record. The state is written field by field, in a third of the time that
// reflection takes, since every change of a task writes one.
func (r *record) append(buf []byte) []byte {
	parts := 3
	if len(r.spec.Proof) > 0 {
		parts = 4
	}
	buf = cose.AppendUint(cose.AppendArray(buf, parts), recordVersion)
	w := cose.NewMapWriter(buf)
	w.Uint(1, uint64(r.status))
	w.Flag(2, r.dead)
	w.Int(3, r.updated)
	w.Int(4, r.created)
	if !r.claimant.IsZero() {
		w.Bytes(5, r.claimant[:])
	}
	w.Uint(6, r.epoch)
	w.Int(7, r.expires)
	w.Int(8, r.ready)
	w.Uint(9, uint64(r.attempts))
	if o := r.outcome; o != nil {
		w.Bytes(10, o.result)
		w.Text(11, o.resultType)
		w.Text(12, o.reason)
		w.Bytes(13, o.proof)
	}
	buf = append(w.End(), r.encoded...)
	if parts == 4 {
		buf = cose.AppendBytes(buf, r.spec.Proof)
	}
	return buf
}

// buffers are for records on their way to the store, which copies them.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// decodeRecord reads the record that an entry of the store holds. It accepts only what a manager could
// have written, in the one encoding that it would have written; its errors wrap ErrRecord.
func decodeRecord(e store.Entry) (*record, error) {
	r, err := decode(e)
	if err != nil {
		return nil, fmt.Errorf("%w at %.80q: %w", ErrRecord, e.Key, err)
	}
	return r, nil
}

func decode(e store.Entry) (*record, error) {
	id, err := idOf(e.Key)
	if err != nil {
		return nil, err
	}
	state, submission, proof, err := split(e.Value)
	if err != nil {
		return nil, err
	}
	r := &record{revision: e.Revision}
	if r.fixed, err = decodeFixed(submission, proof); err != nil {
		return nil, err
	}
	if r.key = e.Key; r.spec.ID != id {
		return nil, fmt.Errorf("it belongs to task %q", r.spec.ID)
	}
	if err := r.decodeState(state); err != nil {
		return nil, err
	}
	return r, r.checkEncoding(e.Value)
}

// split takes a record apart after a look at its version.
func split(value []byte) (state, submission cbor.RawMessage, proof []byte, err error) {
	var parts []cbor.RawMessage
	if err := decoding.Unmarshal(value, &parts); err != nil {
		return nil, nil, nil, err
	}
	var version uint64
	if len(parts) == 0 || decoding.Unmarshal(parts[0], &version) != nil {
		return nil, nil, nil, errors.New("it has no version")
	}
	if version > recordVersion {
		return nil, nil, nil, fmt.Errorf("version %d is newer than %d, the newest that this program knows", version, recordVersion)
	}
	if version != recordVersion || len(parts) < 3 || len(parts) > 4 {
		return nil, nil, nil, fmt.Errorf("version %d with %d parts does not exist", version, len(parts))
	}
	if len(parts) == 4 {
		err = decoding.Unmarshal(parts[3], &proof)
	}
	return parts[1], parts[2], proof, err
}

func decodeFixed(encoded, proof []byte) (*fixed, error) {
	spec, err := decodeSubmission(encoded)
	if err != nil {
		return nil, err
	}
	spec.Proof = proof
	return newFixed(spec, encoded), checkProof(proof)
}

// decodeSubmission reads what submission has written, and nothing else.
func decodeSubmission(encoded []byte) (Spec, error) {
	var p submissionPart
	if err := decoding.Unmarshal(encoded, &p); err != nil {
		return Spec{}, err
	}
	spec := Spec{
		ID: p.ID, Kind: p.Kind, Params: p.Params, Capabilities: p.Capabilities, Pool: p.Pool,
		ClaimTTL: time.Duration(p.ClaimTTL), Deadline: cose.ToTime(p.Deadline), Priority: p.Priority,
		NotBefore: cose.ToTime(p.NotBefore), MaxAttempts: p.MaxAttempts, IdempotencyKey: p.Key,
		Backoff: Backoff{Base: time.Duration(p.BackoffBase), Max: time.Duration(p.BackoffMax)},
	}
	var err error
	if spec.Submitter, err = toID("submitter", p.Submitter); err != nil {
		return Spec{}, err
	}
	if err := spec.Topic.UnmarshalText([]byte(p.Topic)); err != nil {
		return Spec{}, err
	}
	if err := spec.check(); err != nil {
		return Spec{}, err
	}
	if !bytes.Equal(spec.submission(), encoded) {
		return Spec{}, errNotDeterministic
	}
	return spec, nil
}

var errNotDeterministic = errors.New("its encoding is not deterministic")

func (r *record) decodeState(encoded []byte) error {
	var p statePart
	if err := decoding.Unmarshal(encoded, &p); err != nil {
		return err
	}
	r.status, r.epoch, r.expires, r.updated = Status(p.Status), p.Epoch, p.ClaimExpires, p.UpdatedAt
	r.created, r.ready, r.attempts, r.dead = p.CreatedAt, p.ReadyAt, p.Attempts, p.Dead != 0
	if len(p.Claimant) != 0 {
		var err error
		if r.claimant, err = toID("claimant", p.Claimant); err != nil {
			return err
		}
	}
	r.outcome = newOutcome(p.Result, p.ResultType, p.Error).provenBy(p.Proof)
	return r.checkState()
}

func newOutcome(result []byte, resultType, reason string) *outcome {
	if len(result) == 0 && resultType == "" && reason == "" {
		return nil
	}
	if len(result) == 0 {
		result = nil
	}
	return &outcome{result: result, resultType: resultType, reason: reason}
}

// provenBy returns the outcome with the claimant's proof of it, which may be nil.
func (o *outcome) provenBy(proof []byte) *outcome {
	if len(proof) == 0 {
		return o
	}
	var proven outcome
	if o != nil {
		proven = *o
	}
	proven.proof = proof
	return &proven
}

// unproven returns the outcome without a proof.
func (o *outcome) unproven() *outcome {
	if o == nil {
		return nil
	}
	return newOutcome(o.result, o.resultType, o.reason)
}

// checkState holds a state to what the transitions of a task can lead to.
func (r *record) checkState() error {
	held, assigned := !r.claimant.IsZero(), r.status == Assigned
	switch {
	case r.status < Pending || r.status > Cancelled:
		return fmt.Errorf("status %d does not exist", r.status)
	case held && (r.epoch == 0 || r.status == Pending), !held && (assigned || r.status == Completed), assigned != (r.expires != 0):
		return fmt.Errorf("a task that is %s has claimant %s, epoch %d and claim expiry %d", r.status, r.claimant.Short(), r.epoch, r.expires)
	case r.attempts > MostAttempts, uint64(r.attempts) > r.epoch:
		return fmt.Errorf("a task of %d claims has %d attempts", r.epoch, r.attempts)
	case r.dead && (r.status != Failed || r.attempts == 0), r.ready != 0 && r.status != Pending:
		return fmt.Errorf("a task that is %s is a dead letter or waits to be ready", r.status)
	case r.outcome != nil:
		return r.outcome.check(r)
	}
	return nil
}

func (o *outcome) check(r *record) error {
	s := r.status
	switch {
	case o.proof != nil && (r.claimant.IsZero() || s != Completed && s != Failed):
		return fmt.Errorf("a task that is %s has the proof that its claimant has ended it", s)
	case s != Completed && (len(o.result) != 0 || o.resultType != ""):
		return fmt.Errorf("a task that is %s has a result", s)
	case o.reason != "" && s != Failed && (s.Terminal() || r.attempts == 0):
		return fmt.Errorf("a task that is %s has an error", s)
	case len(o.reason) > MaxReason:
		return fmt.Errorf("the error has %d bytes where at most %d are allowed", len(o.reason), MaxReason)
	}
	if err := checkProof(o.proof); err != nil {
		return err
	}
	return checkResult(o.result, o.resultType)
}

// checkEncoding refuses other encodings of the same record, so that one record has one.
func (r *record) checkEncoding(value []byte) error {
	if !bytes.Equal(r.append(nil), value) {
		return errNotDeterministic
	}
	return nil
}

// peek tells of a record, at little cost, whether the task has ended, when, and whether it is a dead
// letter. Of what is not the beginning of a record it says that it has not.
func peek(value []byte) (ended int64, dead, ok bool) {
	r := cose.NewReader(value)
	if n := r.Array(); n < 3 || n > 4 || r.Uint() != recordVersion || r.Map() < 2 || r.Uint() != 1 || !Status(min(r.Uint(), 255)).Terminal() {
		return 0, false, false
	}
	key := r.Uint()
	if key == 2 {
		dead = r.Uint() == 1
		key = r.Uint()
	}
	if key != 3 {
		return 0, false, false
	}
	ended = r.Int()
	return ended, dead, r.Err() == nil
}

func toID(field string, b []byte) (identity.ID, error) {
	if len(b) != identity.IDSize {
		return identity.ID{}, fmt.Errorf("%s has %d bytes", field, len(b))
	}
	return identity.ID(b), nil
}

var (
	decoding = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  MaxCapabilities,
		MaxMapPairs:       16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](mode T, err error) T {
	if err != nil {
		panic("task: " + err.Error()) // the options above are constant
	}
	return mode
}

// route names a kind and routing. All tasks of one share its text.
type route = unique.Handle[string]

// routeOf names the routing of a task: no part of it holds the separator.
func routeOf(s *Spec) route {
	return unique.Make(s.Kind + "\n" + s.Pool + "\n" + s.Topic.String() + "\n" + strings.Join(s.Capabilities, "\n"))
}
