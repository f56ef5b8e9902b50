package task

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// The bytes of a record are what other versions and other programs find: they stay.
func TestRecordBytesAreFrozen(t *testing.T) {
	keyedID := hex.EncodeToString([]byte("key-1d226c929086b1c0269f6a85c2de26da1d5cd1fa574b255d06bc2d0d1436f7f1"))
	want := "83" + "01" + // an array of version 1,
		"a8" + // the state:
		"01" + "02" + // 1: assigned
		"03" + "1b1890a0d8ab10f400" + // 3: updated
		"04" + "1b1890a0d8ab10f400" + // 4: created
		"05" + "582001" + "00000000000000000000000000000000000000000000000000000000000000" + // 5: claimant
		"06" + "03" + // 6: epoch
		"07" + "1b1890a0e6a3584c00" + // 7: claim expiry
		"09" + "02" + // 9: attempts
		"0c" + "6762616420646179" + // 12: "bad day"
		"af" + // and what was submitted:
		"01" + "7844" + keyedID + // 1: its ID
		"02" + "66726573697a65" + // 2: "resize"
		"03" + "477b2261223a317d" + // 3: '{"a":1}'
		"04" + "826363707563677075" + // 4: ["cpu", "gpu"]
		"05" + "6a696d616765732e6e6577" + // 5: "images.new"
		"06" + "687061696e74657273" + // 6: "painters"
		"07" + "5820ab" + "00000000000000000000000000000000000000000000000000000000000000" + // 7: submitter
		"08" + "1b0000000df8475800" + // 8: a minute
		"09" + "1b1b26fbd9911b0000" + // 9: deadline
		"0a" + "24" + // 10: priority -5
		"0b" + "1b1890a0d8e6abbe00" + // 11: not before
		"0c" + "05" + // 12: attempts at most
		"0d" + "1a3b9aca00" + // 13: a pause of a second
		"0e" + "1b0000000df8475800" + // 14: up to a minute
		"0f" + "636b3a31" // 15: "k:1"
	created := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	spec := Spec{
		ID: IDForKey(identity.ID{0xab}, "k:1"), Kind: "resize", Params: json.RawMessage(`{"a":1}`), Capabilities: []string{"cpu", "gpu"},
		Topic: message.MustTopic("images.new"), Pool: "painters", Submitter: identity.ID{0xab}, ClaimTTL: time.Minute,
		Deadline: time.Date(2032, 1, 1, 0, 0, 0, 0, time.UTC), Priority: -5, NotBefore: created.Add(time.Second),
		MaxAttempts: 5, Backoff: Backoff{Base: time.Second, Max: time.Minute}, IdempotencyKey: "k:1",
	}
	r := newRecord(spec, created.UnixNano())
	r.status, r.claimant, r.epoch, r.expires = Assigned, identity.ID{1}, 3, created.Add(time.Minute).UnixNano()
	r.ready, r.attempts, r.outcome = 0, 2, newOutcome(nil, "", "bad day")
	if got := hex.EncodeToString(r.append(nil)); got != want {
		t.Errorf("the record is\n%s, want\n%s", got, want)
	}
}

var encoding = must(cbor.CoreDetEncOptions().EncMode())

// The map writer agrees with a general encoder, and the decoder takes what it writes.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := drawRecord(r)
		value := want.append(nil)
		state, err := encoding.Marshal(&statePart{
			Status: uint8(want.status), Dead: number(want.dead), UpdatedAt: want.updated, CreatedAt: want.created,
			Claimant: claimantOf(want), Epoch: want.epoch, ClaimExpires: want.expires, ReadyAt: want.ready, Attempts: want.attempts,
			Result: want.task().Result, ResultType: want.task().ResultType, Error: want.task().Error, Proof: want.task().ResultProof,
		})
		whole := slices.Concat([]byte{0x83, 1}, state, want.encoded)
		if p := want.spec.Proof; len(p) > 0 {
			whole[0]++
			whole = append(append(whole, 0x40|byte(len(p))), p...)
		}
		if err != nil || !bytes.Equal(value, whole) {
			r.Fatalf("the record is %x, which does not have the state %x, %v", value, state, err)
		}
		var part submissionPart
		if err := decoding.Unmarshal(want.encoded, &part); err != nil || !bytes.Equal(must(encoding.Marshal(&part)), want.encoded) {
			r.Fatalf("the submission %x is not what a general encoder makes of %+v, %v", want.encoded, part, err)
		}
		if ended, dead, ok := peek(value); ok != want.status.Terminal() || ok && (ended != want.updated || dead != want.dead) {
			r.Fatalf("peek gives %v, %v, %v of %+v", ended, dead, ok, want)
		}
		got, err := decodeRecord(store.Entry{Key: want.key, Value: value, Revision: 7})
		if err != nil || got.revision != 7 || got.route != want.route || got.deadline != want.deadline {
			r.Fatalf("decoding %x gives %+v, %v", value, got, err)
		}
		if again := got.append(nil); !bytes.Equal(again, value) {
			r.Fatalf("%x is written back as %x", value, again)
		}
	})
}

func number(is bool) uint8 {
	if is {
		return 1
	}
	return 0
}

func claimantOf(r *record) []byte {
	if r.claimant.IsZero() {
		return nil
	}
	return r.claimant[:]
}

func drawRecord(t *rapid.T) *record {
	name := rapid.StringMatching(`[a-zA-Z0-9._:/@+-]{1,40}`)
	spec := Spec{
		ID: name.Draw(t, "id"), Kind: name.Draw(t, "kind"), Pool: rapid.SampledFrom([]string{"", "p"}).Draw(t, "pool"),
		Capabilities: rapid.SliceOfN(name, 0, 4).Draw(t, "capabilities"), Submitter: identity.ID{1},
		Priority: rapid.Int().Draw(t, "priority"), MaxAttempts: rapid.IntRange(0, MostAttempts).Draw(t, "most"),
		Backoff: Backoff{Base: time.Duration(rapid.Int64Range(0, int64(MaxBackoff)).Draw(t, "base"))},
	}
	if rapid.Bool().Draw(t, "later") {
		spec.NotBefore = time.Unix(rapid.Int64Range(1, 1<<32).Draw(t, "not before"), 0)
	}
	if rapid.Bool().Draw(t, "keyed") {
		spec.ID, spec.IdempotencyKey = "", name.Draw(t, "key")
	}
	spec, err := spec.checked(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r := newRecord(spec, rapid.Int64().Draw(t, "created"))
	number := rapid.SampledFrom([]uint64{1, 23, 24, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64})
	r.status = Status(rapid.IntRange(int(Pending), int(Cancelled)).Draw(t, "status"))
	r.updated = rapid.Int64().Filter(func(n int64) bool { return n != 0 }).Draw(t, "updated")
	if r.status != Pending {
		r.claimant, r.epoch = identity.ID{2}, number.Draw(t, "epoch")
	}
	if r.epoch > 0 {
		r.attempts = uint16(rapid.IntRange(0, int(min(r.epoch, MostAttempts))).Draw(t, "attempts"))
	}
	r.ready = 0
	switch r.status {
	case Pending:
		r.ready = rapid.Int64().Draw(t, "ready")
	case Assigned:
		r.expires = rapid.Int64().Filter(func(n int64) bool { return n != 0 }).Draw(t, "expires")
	case Completed:
		r.outcome = newOutcome(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "result"), name.Draw(t, "type"), "")
	case Failed:
		r.outcome = newOutcome(nil, "", fitReason(rapid.String().Draw(t, "reason")))
		r.dead = r.attempts > 0 && rapid.Bool().Draw(t, "dead")
	}
	proof := rapid.SampledFrom([][]byte{nil, []byte("mine"), []byte("yours")})
	r.spec.Proof = proof.Draw(t, "submitter's proof")
	if r.status == Completed || r.status == Failed {
		r.outcome = r.outcome.provenBy(proof.Draw(t, "claimant's proof"))
	}
	return r
}

func TestForeignRecordsAreRefused(t *testing.T) {
	good := mustRecord(t)
	value := good.append(nil)
	if _, err := decodeRecord(store.Entry{Key: good.key, Value: value}); err != nil {
		t.Fatal(err)
	}
	before := value[:len(value)-len(good.encoded)]
	fixed := func(change func(*submissionPart)) []byte {
		var p submissionPart
		if err := decoding.Unmarshal(good.encoded, &p); err != nil {
			t.Fatal(err)
		}
		change(&p)
		return append(bytes.Clone(before), must(encoding.Marshal(&p))...)
	}
	rawState := func(b ...byte) []byte { return slices.Concat(value[:2], b, good.encoded) }
	state := func(p statePart) []byte { return rawState(must(encoding.Marshal(&p))...) }
	id, pending := make([]byte, 32), uint8(Pending)
	id[0] = 1
	for name, bad := range map[string][]byte{
		"empty":                 {},
		"not an array":          {0x01},
		"no version":            {0x80},
		"version text":          append([]byte{0x83, 0x61, 'x'}, value[2:]...),
		"version 0":             append([]byte{0x83, 0}, value[2:]...),
		"version 2":             append([]byte{0x83, 2}, value[2:]...),
		"version in two bytes":  append([]byte{0x83, 0x18, 1}, value[2:]...),
		"two parts":             append([]byte{0x82, 1}, before[2:]...),
		"four parts":            append(append([]byte{0x84}, value[1:]...), 0),
		"trailing":              append(bytes.Clone(value), 0),
		"cut":                   value[:len(value)-1],
		"indefinite array":      append(append([]byte{0x9f}, value[1:]...), 0xff),
		"tagged":                append([]byte{0xc1}, value...),
		"another task":          fixed(func(p *submissionPart) { p.ID = "other" }),
		"bad name":              fixed(func(p *submissionPart) { p.Kind = "a b" }),
		"null params":           fixed(func(p *submissionPart) { p.Params = nil }),
		"bad params":            fixed(func(p *submissionPart) { p.Params = []byte("1") }),
		"unsorted capabilities": fixed(func(p *submissionPart) { p.Capabilities = []string{"b", "a"} }),
		"capability twice":      fixed(func(p *submissionPart) { p.Capabilities = []string{"a", "a"} }),
		"bad topic":             fixed(func(p *submissionPart) { p.Topic = "a..b" }),
		"short submitter":       fixed(func(p *submissionPart) { p.Submitter = id[:31] }),
		"no submitter":          fixed(func(p *submissionPart) { p.Submitter = make([]byte, 32) }),
		"no TTL":                fixed(func(p *submissionPart) { p.ClaimTTL = 0 }),
		"status 0":              state(statePart{UpdatedAt: 1}),
		"status 6":              state(statePart{Status: 6, UpdatedAt: 1}),
		"pending and held":      state(statePart{Status: pending, Claimant: id, Epoch: 1}),
		"pending and expiring":  state(statePart{Status: pending, ClaimExpires: 1}),
		"assigned to nobody":    state(statePart{Status: uint8(Assigned), Epoch: 1, ClaimExpires: 1}),
		"assigned for ever":     state(statePart{Status: uint8(Assigned), Claimant: id, Epoch: 1}),
		"assigned in epoch 0":   state(statePart{Status: uint8(Assigned), Claimant: id, ClaimExpires: 1}),
		"completed by nobody":   state(statePart{Status: uint8(Completed), Epoch: 1}),
		"pending with a result": state(statePart{Status: pending, Result: id}),
		"failed with a result":  state(statePart{Status: uint8(Failed), ResultType: "x"}),
		"cancelled with reason": state(statePart{Status: uint8(Cancelled), Error: "x"}),
		"long reason":           state(statePart{Status: uint8(Failed), Error: strings.Repeat("x", MaxReason+1)}),
		"long result":           state(statePart{Status: uint8(Completed), Claimant: id, Epoch: 1, Result: make([]byte, MaxResult+1)}),
		"short claimant":        state(statePart{Status: uint8(Failed), Claimant: id[1:], Epoch: 1}),
		"unknown state field":   rawState(0xa2, 0x01, 0x01, 0x0d, 0x01),
		"state field twice":     rawState(0xa2, 0x01, 0x01, 0x01, 0x01),
		"fields out of order":   rawState(0xa2, 0x03, 0x01, 0x01, 0x01),
		"a zero spelled out":    rawState(0xa2, 0x01, 0x01, 0x06, 0x00),
		"a float":               rawState(0xa2, 0x01, 0x01, 0x06, 0xf9, 0x3c, 0x00),
		"submission unordered":  slices.Concat(before, []byte{0xa2, 0x02, 0x61, 'k', 0x01, 0x61, 't'}),
		"too many attempts":     fixed(func(p *submissionPart) { p.MaxAttempts = MostAttempts + 1 }),
		"negative attempts":     fixed(func(p *submissionPart) { p.MaxAttempts = -1 }),
		"backwards pauses":      fixed(func(p *submissionPart) { p.BackoffBase, p.BackoffMax = 2, 1 }),
		"key of another ID":     fixed(func(p *submissionPart) { p.Key = "k" }),
		"not before the end":    fixed(func(p *submissionPart) { p.NotBefore, p.Deadline = 2, 2 }),
		"more attempts":         state(statePart{Status: pending, UpdatedAt: 1, Epoch: 1, Attempts: 2}),
		"pending and dead":      state(statePart{Status: pending, UpdatedAt: 1, Epoch: 1, Attempts: 1, Dead: 1}),
		"dead without attempts": state(statePart{Status: uint8(Failed), UpdatedAt: 1, Dead: 1}),
		"dead twice":            state(statePart{Status: uint8(Failed), UpdatedAt: 1, Epoch: 1, Attempts: 1, Dead: 2}),
		"assigned and waiting":  state(statePart{Status: uint8(Assigned), Claimant: id, Epoch: 1, ClaimExpires: 1, ReadyAt: 1}),
		"an error from nothing": state(statePart{Status: pending, UpdatedAt: 1, Error: "x"}),
		"completed with reason": state(statePart{Status: uint8(Completed), Claimant: id, Epoch: 1, Attempts: 1, Error: "x"}),
	} {
		if r, err := decodeRecord(store.Entry{Key: good.key, Value: bad}); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %x gives %+v, %v", name, bad, r, err)
		}
	}
	for _, key := range []string{"task/other", "other/t", "task/t/t", "task/=74", "task"} {
		if _, err := decodeRecord(store.Entry{Key: key, Value: value}); !errors.Is(err, ErrRecord) {
			t.Errorf("at key %s the error is %v", key, err)
		}
	}
}

func mustRecord(t testing.TB) *record {
	t.Helper()
	spec, err := Spec{ID: "t", Kind: "work", Submitter: identity.ID{1}, Capabilities: []string{"a"}, Topic: message.MustTopic("a.b?c=d")}.checked(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return newRecord(spec, 1e18)
}

// FuzzDecodeRecord: whatever is accepted is exactly what a manager would have written.
func FuzzDecodeRecord(f *testing.F) {
	r := mustRecord(f)
	f.Add(r.append(nil))
	claimed, err := r.assign(&Profile{Agent: identity.ID{2}, Capabilities: []string{"a"}, Topics: []message.Pattern{message.MustPattern(">")}}, 1e18)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(claimed.append(nil))
	claim := Claim{TaskID: "t", Agent: claimed.claimant, Epoch: claimed.epoch}
	signed := *claimed
	signed.fixed = newFixed(claimed.spec, claimed.encoded)
	signed.spec.Proof, signed.key = []byte("whose"), claimed.key
	for _, r := range []*record{claimed, &signed} {
		completion, failure := Completion(claim, []byte("42"), "text/plain"), Failure(claim, "why")
		forGood := failure
		forGood.Permanent = true
		for _, e := range []Ending{completion, failure, forGood} {
			e.Proof = r.spec.Proof
			ended, err := r.end(&e, e.outcome(), 1e18)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(ended.append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := decodeRecord(store.Entry{Key: "task/t", Value: value, Revision: 1})
		if err != nil {
			if !errors.Is(err, ErrRecord) || r != nil {
				t.Errorf("decoding %x gives %v, %v", value, r, err)
			}
			return
		}
		if again := r.append(nil); !bytes.Equal(again, value) {
			t.Errorf("%x is written back as %x", value, again)
		}
		if r.spec.ID != "t" || r.spec.check() != nil || r.checkState() != nil {
			t.Errorf("decoding %x gives %+v", value, r.task())
		}
	})
}
