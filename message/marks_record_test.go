package message

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
)

var (
	markAgent  = identity.ID{1}
	markSender = identity.ID{2}
	ours       = &Marks{network: "test.example", agent: markAgent}
)

// exampleSender is a mark with two sessions.
func exampleSender() senderMark {
	first := &session{number: 7, latest: 1_767_268_800_000, floor: 1_767_268_700_000}
	first.window.mark(1)
	first.window.mark(900)
	second := &session{number: math.MaxUint64, latest: 1_767_268_800_500, floor: 1}
	second.window.mark(math.MaxInt64)
	return senderMark{markSender, senderState{
		sessions: []*session{second, first}, floor: 1_767_268_700_000, latest: 1_767_268_800_500,
	}}
}

func TestMarksReadBackWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moment := rapid.Int64Range(0, maxMarkTime)
		c := ceilingMark{written: moment.Draw(t, "written"), ceiling: moment.Draw(t, "ceiling")}
		copy(c.run[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "run"))
		if back, err := ours.decodeCeiling(ours.encodeCeiling(c)); err != nil || back != c {
			t.Fatalf("%+v becomes %+v, %v", c, back, err)
		}
		mark := senderMark{sender: markSender}
		mark.state.floor, mark.state.latest = moment.Draw(t, "floor"), moment.Draw(t, "latest")
		numbers := rapid.SliceOfNDistinct(rapid.Uint64(), 0, maxSessions, rapid.ID).Draw(t, "sessions")
		for _, number := range numbers {
			s := &session{number: number, floor: moment.Draw(t, "floor"), latest: rapid.Int64Range(0, mark.state.latest).Draw(t, "latest")}
			for _, sequence := range rapid.SliceOfN(rapid.Uint64Range(1, math.MaxInt64), 1, 20).Draw(t, "sequences") {
				if !s.window.seen(sequence) {
					s.window.mark(sequence)
				}
			}
			mark.state.sessions = append(mark.state.sessions, s)
		}
		raw := ours.encodeSender(mark)
		back, err := ours.decodeSender(markSender, raw)
		if err != nil {
			t.Fatal(err)
		}
		if back.state.floor != mark.state.floor || back.state.latest != mark.state.latest || len(back.state.sessions) != len(numbers) {
			t.Fatalf("%+v becomes %+v", mark, back)
		}
		for _, s := range mark.state.sessions {
			if found := back.state.find(s.number); found == nil || *found != *s {
				t.Fatalf("session %d: %+v becomes %+v", s.number, s, found)
			}
		}
		if !bytes.Equal(ours.encodeSender(back), raw) {
			t.Fatal("a mark has two encodings")
		}
	})
}

// TestLargestMarkFits fills a mark to its bounds.
func TestLargestMarkFits(t *testing.T) {
	long := &Marks{network: strings.Repeat("n", 63), agent: markAgent}
	mark := senderMark{markSender, senderState{floor: maxMarkTime, latest: maxMarkTime}}
	for i := range uint64(maxSessions) {
		s := &session{number: math.MaxUint64 - i, floor: maxMarkTime, latest: maxMarkTime}
		s.window.mark(math.MaxInt64)
		mark.state.sessions = append(mark.state.sessions, s)
	}
	raw := long.encodeSender(mark)
	if len(raw) > maxMark {
		t.Errorf("%d bytes", len(raw))
	}
	if _, err := long.decodeSender(markSender, raw); err != nil {
		t.Error(err)
	}
	if err := store.CheckKey(long.senderKey(markSender)); err != nil {
		t.Error(err)
	}
}

// TestMarksAreRefused has records that are wrong in one way each.
func TestMarksAreRefused(t *testing.T) {
	good := ours.encodeSender(exampleSender())
	change := func(edit func(m *senderMark)) []byte {
		m := exampleSender()
		edit(&m)
		return ours.encodeSender(m)
	}
	raw := func(items ...any) []byte {
		b, err := cbor.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":         {nil, nil},
		"truncated":       {good[:len(good)-1], nil},
		"continued":       {append(bytes.Clone(good), 0), nil},
		"too large":       {append(bytes.Clone(good), make([]byte, maxMark)...), errMarkSize},
		"newer":           {raw(2, "whatever"), ErrMarksVersion},
		"newer, large":    {raw(2, make([]byte, 2*maxMark)), ErrMarksVersion},
		"version 0":       {append([]byte{0x87, 0}, good[2:]...), errMarkShape},
		"no array":        {[]byte{0xa1, 1, 1}, nil},
		"a ceiling":       {ours.encodeCeiling(ceilingMark{}), errMarkShape},
		"another network": {(&Marks{network: "other", agent: markAgent}).encodeSender(exampleSender()), errMarkForeign},
		"another agent":   {(&Marks{network: "test.example", agent: identity.ID{9}}).encodeSender(exampleSender()), errMarkForeign},
		"another sender":  {change(func(m *senderMark) { m.sender = identity.ID{9} }), errMarkForeign},
		"too many sessions": {change(func(m *senderMark) {
			for i := range uint64(maxSessions) {
				s := *m.state.sessions[0]
				s.number = 100 + i
				m.state.sessions = append(m.state.sessions, &s)
			}
		}), errMarkShape},
		"a session twice":                 {change(func(m *senderMark) { m.state.sessions[0].number = 7 }), errMarkShape},
		"a session later than its sender": {change(func(m *senderMark) { m.state.latest -= 500; m.state.sessions[0].latest++ }), errMarkShape},
		"no highest sequence":             {change(func(m *senderMark) { m.state.sessions[0].window.highest = 0 }), errMarkShape},
		"a sequence out of bounds":        {change(func(m *senderMark) { m.state.sessions[0].window.highest++ }), errMarkShape},
		"the highest was not accepted":    {change(func(m *senderMark) { m.state.sessions[1].window.bits = [windowSize / 64]uint64{} }), errMarkShape},
		"a time before 1970":              {change(func(m *senderMark) { m.state.floor = -1 }), errMarkShape},
		"a time beyond all":               {change(func(m *senderMark) { m.state.latest = maxMarkTime + 1 }), errMarkShape},
	} {
		if _, err := ours.decodeSender(markSender, c.raw); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMark holds that a record has one encoding, and that what is read from it stays within the bounds and
// can be worked with.
func FuzzMark(f *testing.F) {
	f.Add(ours.encodeSender(exampleSender()))
	f.Add(ours.encodeSender(senderMark{markSender, upTo(1_767_268_800_000)}))
	f.Add(ours.encodeCeiling(ceilingMark{run: runID{5}, written: 1_767_268_800_000, ceiling: 1_767_268_802_000}))
	f.Add([]byte{0x82, 2, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := ours.decodeCeiling(raw); err == nil && !bytes.Equal(ours.encodeCeiling(c), raw) {
			t.Fatalf("%x is encoded again as %x", raw, ours.encodeCeiling(c))
		}
		mark, err := ours.decodeSender(markSender, raw)
		if err != nil {
			return
		}
		if again := ours.encodeSender(mark); !bytes.Equal(again, raw) {
			t.Fatalf("%x is encoded again as %x", raw, again)
		}
		if len(raw) > maxMark || len(mark.state.sessions) > maxSessions || mark.state.top() > maxMarkTime {
			t.Fatalf("%x is out of bounds", raw)
		}
		for _, s := range mark.state.sessions {
			if !s.window.seen(s.window.highest) || s.window.seen(s.window.highest+1) {
				t.Fatalf("%x: the window has no end", raw)
			}
			s.window.mark(s.window.highest + 1)
		}
	})
}
