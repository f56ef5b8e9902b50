package approval

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

func sample() *record {
	c := newCall(tool.Request{
		Agent: "ada", AgentID: "00ff", Tool: "wipe", Description: "wipes", Annotations: tool.Annotations{Destructive: true, OpenWorld: true},
		Params: json.RawMessage(`{"disk":"sda"}`), Taint: taint.Of("peer:01", "tool:x"), TaskID: "t", CallID: "c",
	}, policy.Decision{Rule: 3, Reason: "because"})
	return newRecord(c, time.Unix(1_700_000_000, 5), time.Minute)
}

func decided() *record {
	r := sample()
	r.State, r.By, r.Claimed, r.Note, r.Decided = Denied, "root (uid 0)", "eve", "no", r.Asked.Add(time.Second)
	return r
}

var key = []byte("sixteen or more bytes")

func entry(r *record) store.Entry { return store.Entry{Key: r.key(), Value: r.seal(key), Revision: 9} }

func sealed(payload []byte) []byte {
	return cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), payload), macOf(payload, key))
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, want := range []*record{sample(), decided()} {
		got, err := decodeRecord(entry(want), key)
		want.revision = 9
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
}

func TestRecordsThatNobodyWritesAreRefused(t *testing.T) {
	newer := cose.NewMapWriter(nil)
	newer.Uint(1, recordVersion+1)
	for name, e := range map[string]store.Entry{
		"of another call": {Key: keyPrefix + strings.Repeat("0", 64), Value: sample().seal(key)},
		"newer":           {Key: sample().key(), Value: sealed(newer.End())},
		"empty":           {Key: sample().key()},
		"more at the end": {Key: sample().key(), Value: append(sample().seal(key), 0)},
		"cut":             {Key: sample().key(), Value: sample().seal(key)[:100]},
	} {
		if _, err := decodeRecord(e, key); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*record){
		"undecided decision":    func(r *record) { r.By = "root" },
		"decided at no time":    func(r *record) { r.State = Allowed },
		"waits, decided":        func(r *record) { r.Decided = r.Asked },
		"decided too late":      func(r *record) { r.State, r.Decided = Allowed, r.Expires },
		"ends before it begins": func(r *record) { r.Expires = r.Asked },
		"never ends":            func(r *record) { r.Expires = r.Asked.Add(MaxTimeout + 1) },
		"no state":              func(r *record) { r.State = "" },
		"another ID":            func(r *record) { r.ID = "0123456789ABCDEF" },
		"long params":           func(r *record) { r.Params = strings.Repeat("x", MaxShown+1) },
		"short hash":            func(r *record) { r.paramsHash = r.paramsHash[1:] },
	} {
		r := sample()
		change(r)
		if _, err := decodeRecord(entry(r), key); !errors.Is(err, errRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEverySingleBitFlipOfARecordIsNoticed(t *testing.T) {
	e := entry(decided())
	for i := range len(e.Value) * 8 {
		flipped := bytes.Clone(e.Value)
		flipped[i/8] ^= 1 << (i % 8)
		if r, err := decodeRecord(store.Entry{Key: e.Key, Value: flipped}, key); err == nil && r.proven {
			t.Fatalf("bit %d can be flipped", i)
		}
	}
	if r, err := decodeRecord(e, []byte("another key of as many bytes")); err != nil || r.proven {
		t.Errorf("with another key: %+v, %v", r, err)
	}
}

// FuzzRecord: what is accepted has one encoding, and nothing is taken for proven that this test has not sealed.
func FuzzRecord(f *testing.F) {
	seeds := [][]byte{sample().seal(key), decided().seal(key)}
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Add([]byte{0x82, 0x41, 0xa0, 0x40})
	f.Fuzz(func(t *testing.T, value []byte) {
		payload, _, err := split(value)
		if err != nil {
			return
		}
		r, err := parseRecord(payload)
		if err != nil {
			return
		}
		if !bytes.Equal(r.encode(), payload) {
			t.Errorf("%x comes back as %x", payload, r.encode())
		}
		got, err := decodeRecord(store.Entry{Key: r.key(), Value: value}, key)
		if err != nil {
			t.Errorf("under its key: %v", err)
		} else if got.proven && !slices.ContainsFunc(seeds, func(seed []byte) bool { return bytes.Equal(seed, value) }) {
			t.Errorf("%x is proven", value)
		}
	})
}

func FuzzShow(f *testing.F) {
	f.Add(`{"a": "b"}`)
	f.Add(`{"a": "` + strings.Repeat("é", 9000) + `", "b": [` + strings.Repeat("1,", 5000) + `1]}`)
	f.Fuzz(func(t *testing.T, params string) {
		text, cut := Show(json.RawMessage(params))
		if len(text) > MaxShown {
			t.Errorf("%d bytes are shown", len(text))
		}
		if !cut && !json.Valid([]byte(text)) {
			t.Errorf("%q is shown as %q", params, text)
		}
	})
}
