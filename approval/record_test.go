package approval

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/taint"
	"github.com/converge-agents/converge/tool"
)

func sample() *record {
	c := newCall(tool.Request{
		Agent: "ada", AgentID: "00ff", Tool: "wipe", Description: "wipes", Annotations: tool.Annotations{Destructive: true, OpenWorld: true},
		Params: json.RawMessage(`{"disk":"sda"}`), Taint: taint.Of("peer:01", "tool:x"), TaskID: "t", CallID: "c",
	})
	c.rule, c.reason = 3, "because"
	return newRecord(c, time.Unix(1_700_000_000, 5), time.Minute)
}

func decided() *record {
	r := sample()
	r.State, r.By, r.Claimed, r.Note, r.Decided = Denied, "root (uid 0)", "eve", "no", r.Asked.Add(time.Second)
	return r
}

func entry(r *record) store.Entry { return store.Entry{Key: r.key(), Value: r.encode(), Revision: 9} }

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, want := range []*record{sample(), decided()} {
		got, err := decodeRecord(entry(want))
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
		"of another call": {Key: keyPrefix + strings.Repeat("0", 64), Value: sample().encode()},
		"newer":           {Key: sample().key(), Value: newer.End()},
		"empty":           {Key: sample().key()},
		"more at the end": {Key: sample().key(), Value: append(sample().encode(), 0)},
		"cut":             {Key: sample().key(), Value: sample().encode()[:100]},
	} {
		if _, err := decodeRecord(e); !errors.Is(err, ErrRecord) {
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
		if _, err := decodeRecord(entry(r)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(sample().encode())
	f.Add(decided().encode())
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := parseRecord(value)
		if err != nil {
			return
		}
		if !bytes.Equal(r.encode(), value) {
			t.Errorf("%x comes back as %x", value, r.encode())
		}
		if _, err := decodeRecord(store.Entry{Key: r.key(), Value: value}); err != nil {
			t.Errorf("under its key: %v", err)
		}
	})
}

func FuzzShow(f *testing.F) {
	f.Add(`{"a": "b"}`)
	f.Add(`{"a": "` + strings.Repeat("é", 9000) + `", "b": [` + strings.Repeat("1,", 5000) + `1]}`)
	f.Fuzz(func(t *testing.T, params string) {
		text, cut := show(json.RawMessage(params))
		if len(text) > MaxShown {
			t.Errorf("%d bytes are shown", len(text))
		}
		if !cut && !json.Valid([]byte(text)) {
			t.Errorf("%q is shown as %q", params, text)
		}
	})
}
