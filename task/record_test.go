package task

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// The bytes of a record are what other versions and other programs find: they stay.
func TestRecordBytesAreFrozen(t *testing.T) {
	const want = "83" + "01" + // an array of version 1,
		"ab" + // what never changes:
		"01" + "63743a31" + // 1: "t:1"
		"02" + "66726573697a65" + // 2: "resize"
		"03" + "477b2261223a317d" + // 3: '{"a":1}'
		"04" + "826363707563677075" + // 4: ["cpu", "gpu"]
		"05" + "6a696d616765732e6e6577" + // 5: "images.new"
		"06" + "687061696e74657273" + // 6: "painters"
		"07" + "5820ab" + "00000000000000000000000000000000000000000000000000000000000000" + // 7: submitter
		"08" + "1b0000000df8475800" + // 8: a minute
		"09" + "1b1b26fbd9911b0000" + // 9: deadline
		"0a" + "24" + // 10: priority -5
		"0b" + "1b1890a0d8ab10f400" + // 11: created
		"a5" + // and the state:
		"01" + "02" + // 1: assigned
		"02" + "582001" + "00000000000000000000000000000000000000000000000000000000000000" + // 2: claimant
		"03" + "03" + // 3: epoch
		"04" + "1b1890a0e6a3584c00" + // 4: claim expiry
		"05" + "1b1890a0d8ab10f400" // 5: updated
	created := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	spec := Spec{
		ID: "t:1", Kind: "resize", Params: json.RawMessage(`{"a":1}`), Capabilities: []string{"cpu", "gpu"},
		Topic: message.MustTopic("images.new"), Pool: "painters", Submitter: identity.ID{0xab}, ClaimTTL: time.Minute,
		Deadline: time.Date(2032, 1, 1, 0, 0, 0, 0, time.UTC), Priority: -5,
	}
	r, err := newRecord(spec, created.UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	r.status, r.claimant, r.epoch, r.expires = Assigned, identity.ID{1}, 3, created.Add(time.Minute).UnixNano()
	if got := hex.EncodeToString(r.append(nil)); got != want {
		t.Errorf("the record is\n%s, want\n%s", got, want)
	}
}

// The map writer agrees with a general encoder, and the decoder takes what it writes.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := drawRecord(r)
		value := want.append(nil)
		state, err := encoding.Marshal(&statePart{
			Status: uint8(want.status), Claimant: claimantOf(want), Epoch: want.epoch, ClaimExpires: want.expires, UpdatedAt: want.updated,
			Result: want.task().Result, ResultType: want.task().ResultType, Error: want.task().Error,
		})
		if err != nil || !bytes.HasSuffix(value, state) || len(value) != 2+len(want.encoded)+len(state) {
			r.Fatalf("the record is %x, which does not end with %x, %v", value, state, err)
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
		Priority: rapid.Int().Draw(t, "priority"),
	}
	spec, err := spec.checked(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRecord(spec, rapid.Int64().Draw(t, "created"))
	if err != nil {
		t.Fatal(err)
	}
	number := rapid.SampledFrom([]uint64{1, 23, 24, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64})
	r.status = Status(rapid.IntRange(int(Pending), int(Cancelled)).Draw(t, "status"))
	r.updated = rapid.Int64().Draw(t, "updated")
	if r.status != Pending {
		r.claimant, r.epoch = identity.ID{2}, number.Draw(t, "epoch")
	}
	switch r.status {
	case Assigned:
		r.expires = rapid.Int64().Filter(func(n int64) bool { return n != 0 }).Draw(t, "expires")
	case Completed:
		r.outcome = newOutcome(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "result"), name.Draw(t, "type"), "")
	case Failed:
		r.outcome = newOutcome(nil, "", fitReason(rapid.String().Draw(t, "reason")))
	}
	return r
}

func TestForeignRecordsAreRefused(t *testing.T) {
	good := mustRecord(t)
	value := good.append(nil)
	if _, err := decodeRecord(store.Entry{Key: good.key, Value: value}); err != nil {
		t.Fatal(err)
	}
	fixed := func(change func(*fixedPart)) []byte {
		p := good.part()
		change(p)
		encoded := must(encoding.Marshal(p))
		return append(append([]byte{0x83, 1}, encoded...), value[2+len(good.encoded):]...)
	}
	state := func(p statePart) []byte {
		return append(bytes.Clone(value[:2+len(good.encoded)]), must(encoding.Marshal(&p))...)
	}
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
		"two parts":             append([]byte{0x82, 1}, good.encoded...),
		"four parts":            append(append([]byte{0x84}, value[1:]...), 0),
		"trailing":              append(bytes.Clone(value), 0),
		"cut":                   value[:len(value)-1],
		"indefinite array":      append(append([]byte{0x9f}, value[1:]...), 0xff),
		"tagged":                append([]byte{0xc1}, value...),
		"another task":          fixed(func(p *fixedPart) { p.ID = "other" }),
		"bad name":              fixed(func(p *fixedPart) { p.Kind = "a b" }),
		"null params":           fixed(func(p *fixedPart) { p.Params = nil }),
		"bad params":            fixed(func(p *fixedPart) { p.Params = []byte("1") }),
		"unsorted capabilities": fixed(func(p *fixedPart) { p.Capabilities = []string{"b", "a"} }),
		"capability twice":      fixed(func(p *fixedPart) { p.Capabilities = []string{"a", "a"} }),
		"bad topic":             fixed(func(p *fixedPart) { p.Topic = "a..b" }),
		"short submitter":       fixed(func(p *fixedPart) { p.Submitter = id[:31] }),
		"no submitter":          fixed(func(p *fixedPart) { p.Submitter = make([]byte, 32) }),
		"no TTL":                fixed(func(p *fixedPart) { p.ClaimTTL = 0 }),
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
		"unknown state field":   append(bytes.Clone(value[:2+len(good.encoded)]), 0xa2, 0x01, 0x01, 0x09, 0x01),
		"state field twice":     append(bytes.Clone(value[:2+len(good.encoded)]), 0xa2, 0x01, 0x01, 0x01, 0x01),
		"fields out of order":   append(bytes.Clone(value[:2+len(good.encoded)]), 0xa2, 0x05, 0x01, 0x01, 0x01),
		"a zero spelled out":    append(bytes.Clone(value[:2+len(good.encoded)]), 0xa2, 0x01, 0x01, 0x03, 0x00),
		"a float":               append(bytes.Clone(value[:2+len(good.encoded)]), 0xa2, 0x01, 0x01, 0x03, 0xf9, 0x3c, 0x00),
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
	r, err := newRecord(spec, 1e18)
	if err != nil {
		t.Fatal(err)
	}
	return r
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
	claim := claimed.claim()
	for status, o := range map[Status]*outcome{Completed: newOutcome([]byte("42"), "text/plain", ""), Failed: newOutcome(nil, "", "why")} {
		ended, err := claimed.end(&claim, status, o, 1e18)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ended.append(nil))
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
