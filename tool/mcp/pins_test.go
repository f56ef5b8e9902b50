package mcp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/tool/mcp"
)

func newPins(t *testing.T) (*mcp.Pins, store.Store) {
	t.Helper()
	kept, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return mcp.NewPins(kept, "net"), kept
}

func TestFirstPinStays(t *testing.T) {
	t.Parallel()
	pins, kept := newPins(t)
	if _, err := pins.Get(t.Context(), "s", "t"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	p, first, err := pins.First(t.Context(), "s", "t", mcp.Hash{1})
	if err != nil || !first || p.Hash != (mcp.Hash{1}) || p.Approved {
		t.Errorf("%+v, %v, %v", p, first, err)
	}
	if p, first, err = pins.First(t.Context(), "s", "t", mcp.Hash{2}); err != nil || first || p.Hash != (mcp.Hash{1}) {
		t.Errorf("%+v, %v, %v", p, first, err)
	}
	if _, err := mcp.NewPins(kept, "other").Get(t.Context(), "s", "t"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the pin of another network: %v", err)
	}
	if err := pins.Accept(t.Context(), "s", "t", mcp.Hash{2}); err != nil {
		t.Error(err)
	}
	if p, err := pins.Get(t.Context(), "s", "t"); err != nil || p.Hash != (mcp.Hash{2}) || !p.Approved || time.Since(p.Since) > time.Minute {
		t.Errorf("%+v, %v", p, err)
	}
	if err := pins.Forget(t.Context(), "s", "t"); err != nil {
		t.Error(err)
	}
	if err := pins.Forget(t.Context(), "s", "t"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

// The bytes of a pin are what stores of earlier versions hold.
func TestPinIsFrozen(t *testing.T) {
	t.Parallel()
	raw, err := mcp.Pin{Hash: mcp.Hash{1, 2}, Since: time.Unix(1_700_000_000, 0), Approved: true}.Marshal()
	want := "a401010258200102" + strings.Repeat("00", 30) + "031a6553f10004f5"
	if got := hex.EncodeToString(raw); err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}

func FuzzParsePin(f *testing.F) {
	raw, err := mcp.Pin{Hash: mcp.Hash{1}, Since: time.Unix(1_700_000_000, 0)}.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0xa0})
	f.Add(append(raw, 0))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := mcp.ParsePin(raw)
		if err != nil {
			return
		}
		if again, err := p.Marshal(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x is read, and written as %x", raw, again)
		}
	})
}

func FuzzOutput(f *testing.F) {
	for _, raw := range []string{`{}`, `{"content":[{"type":"text","text":"x"}]}`, `{"content":[{"type":"image"}],"structuredContent":[1]}`, `{"isError":true,"content":[{}]}`, `7`, `{"resultType":"input_required"}`} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := mcp.Output(t.Context(), raw)
		if err == nil && len(out.Data) > len(raw)*3+2 {
			t.Errorf("%d bytes of output from %d", len(out.Data), len(raw))
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

func TestHashIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	h := mcp.Hash{0xab, 1}
	if got, err := mcp.ParseHash(h.String()); err != nil || got != h {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "ab", strings.ToUpper(h.String()), h.String() + "00", strings.Repeat("g", 64)} {
		if _, err := mcp.ParseHash(text); err == nil {
			t.Errorf("%q is a hash", text)
		}
	}
}

// What a definition is hashed to is what configurations hold.
func TestHashIsFrozen(t *testing.T) {
	t.Parallel()
	d := mcp.Definition{Name: "a", Description: "A <b>.", InputSchema: []byte(`{"type":"object"}`), OutputSchema: []byte("null"), Destructive: true, OpenWorld: true}
	if got := d.Hash().String(); got != "7aaf1b69e5c989f68f4c978e58ec0372b0cc0994031c821c7e6ac92f13808d09" {
		t.Errorf("hash %s", got)
	}
}

func TestPlainTextMayBeSeen(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "Reads a file.\r\n\tAlso “quoted”, with 日本語, עברית and ✔️ 🙂."} {
		if err := mcp.CheckText(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := mcp.CheckText("\xff"); err == nil {
		t.Error("what is not UTF-8 is fine")
	}
}
