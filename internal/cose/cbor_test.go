package cose_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/internal/cose"
)

// strict is fxamacker's decoder with every leniency off that the Reader does without, and core its
// core deterministic encoder.
var (
	strict = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		IntDec:           cbor.IntDecConvertNone,
		UTF8:             cbor.UTF8RejectInvalid,
		MaxNestedLevels:  cose.MaxNesting,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
	}.DecMode())
	core = must(cbor.CoreDetEncOptions().EncMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// read returns the Reader's verdict on data as one item.
func read(data []byte) error {
	r := cose.NewReader(data)
	r.Skip(0)
	return r.End()
}

func TestReaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want       error
	}{
		{"nothing", "", cose.ErrTruncated},
		{"indefinite byte string", "5f4100ff", cose.ErrNotDeterministic},
		{"indefinite text", "7f6161ff", cose.ErrNotDeterministic},
		{"indefinite array", "9f00ff", cose.ErrNotDeterministic},
		{"indefinite map", "bf0000ff", cose.ErrNotDeterministic},
		{"reserved head 28", "1c", cose.ErrNotDeterministic},
		{"reserved head 29", "1d", cose.ErrNotDeterministic},
		{"reserved head 30", "1e", cose.ErrNotDeterministic},
		{"break alone", "ff", cose.ErrUnexpected},
		{"23 in two bytes", "1817", cose.ErrNotDeterministic},
		{"-24 in two bytes", "3817", cose.ErrNotDeterministic},
		{"255 in three bytes", "1900ff", cose.ErrNotDeterministic},
		{"65535 in five bytes", "1a0000ffff", cose.ErrNotDeterministic},
		{"2³²-1 in nine bytes", "1b00000000ffffffff", cose.ErrNotDeterministic},
		{"length of bytes not minimal", "580100", cose.ErrNotDeterministic},
		{"length of text not minimal", "780161", cose.ErrNotDeterministic},
		{"length of array not minimal", "980100", cose.ErrNotDeterministic},
		{"length of map not minimal", "b8010000", cose.ErrNotDeterministic},
		{"length of bytes not minimal, 3", "59000100", cose.ErrNotDeterministic},
		{"key not minimal", "a1180100", cose.ErrNotDeterministic},
		{"duplicate key", "a201000100", cose.ErrNotDeterministic},
		{"duplicate text key", "a261610061610a", cose.ErrNotDeterministic},
		{"unsorted keys", "a202000100", cose.ErrNotDeterministic},
		{"unsorted: text before number", "a2616100187801", cose.ErrNotDeterministic},
		{"unsorted: -1 before 1", "a220000100", cose.ErrNotDeterministic},
		{"duplicate key further in", "81a201000100", cose.ErrNotDeterministic},
		{"half float", "f93c00", cose.ErrUnexpected},
		{"single float", "fa47c35000", cose.ErrUnexpected},
		{"double float", "fb3ff199999999999a", cose.ErrUnexpected},
		{"NaN", "f97e00", cose.ErrUnexpected},
		{"false", "f4", cose.ErrUnexpected},
		{"null", "f6", cose.ErrUnexpected},
		{"undefined", "f7", cose.ErrUnexpected},
		{"simple value", "f8ff", cose.ErrUnexpected},
		{"float in an array", "81f93c00", cose.ErrUnexpected},
		{"null as a value", "a100f6", cose.ErrUnexpected},
		{"true as a key", "a1f500", cose.ErrUnexpected},
		{"tag", "c100", cose.ErrUnexpected},
		{"tag inside", "81c100", cose.ErrUnexpected},
		{"big number", "c249010000000000000000", cose.ErrUnexpected},
		{"bytes as a key", "a1410000", cose.ErrUnexpected},
		{"array as a key", "a18000", cose.ErrUnexpected},
		{"map as a key", "a1a000", cose.ErrUnexpected},
		{"key over 63 bits", "a11b800000000000000000", cose.ErrUnexpected},
		{"key under -2⁶³", "a13b800000000000000000", cose.ErrUnexpected},
		{"trailing byte", "0000", cose.ErrTrailing},
		{"trailing item", "80a0", cose.ErrTrailing},
		{"text that is no UTF-8", "61ff", cose.ErrText},
		{"text key that is no UTF-8", "a161ff00", cose.ErrText},
		{"surrogate in text", "63eda080", cose.ErrText},
		{"bytes end early", "4100"[:2], cose.ErrTruncated},
		{"array ends early", "8200", cose.ErrTruncated},
		{"map ends early", "a100", cose.ErrTruncated},
		{"head ends early", "1b00", cose.ErrTruncated},
		{"huge bytes", "5bffffffffffffffff", cose.ErrTruncated},
		{"huge text", "7bffffffffffffffff", cose.ErrTruncated},
		{"huge array", "9bffffffffffffffff00", cose.ErrTruncated},
		{"huge map", "bbffffffffffffffff0000", cose.ErrTruncated},
		{"array of 2³¹", "9a8000000000", cose.ErrTruncated},
		{"nine arrays", strings.Repeat("81", 8) + "80", cose.ErrNesting},
		{"nine arrays round a number", strings.Repeat("81", 9) + "00", cose.ErrNesting},
		{"nine maps", strings.Repeat("a100", 8) + "a0", cose.ErrNesting},
		{"a million arrays", strings.Repeat("81", 1_000_000), cose.ErrNesting},
		{"a million maps", strings.Repeat("a100", 1_000_000), cose.ErrNesting},
	} {
		if err := read(unhex(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, not %v", c.name, err, c.want)
		}
	}
}

func TestReaderAcceptsDeterministicItems(t *testing.T) {
	for _, data := range []string{
		"00", "17", "1818", "18ff", "190100", "19ffff", "1a00010000", "1affffffff",
		"1b0000000100000000", "1bffffffffffffffff", "20", "37", "3818", "3b7fffffffffffffff",
		"3bffffffffffffffff", "40", "4101", "60", "6161", "80", "a0", "a2010020 00", "a2000061 6100",
		strings.Repeat("81", 8) + "00", strings.Repeat("81", 7) + "80", strings.Repeat("a100", 8) + "00",
	} {
		raw := unhex(strings.ReplaceAll(data, " ", ""))
		if err := read(raw); err != nil {
			t.Errorf("%x: %v", raw, err)
		}
		if err := compare(raw); err != nil {
			t.Errorf("%x: %v", raw, err)
		}
	}
}

func TestDepthCountsWhatTheItemIsIn(t *testing.T) {
	for depth := range cose.MaxNesting + 2 {
		r := cose.NewReader(unhex("80"))
		r.Skip(depth)
		if err := r.End(); (err == nil) != (depth < cose.MaxNesting) {
			t.Errorf("an array in %d others: %v", depth, err)
		}
	}
}

// TestHostileLengthsAllocateNothing reads heads that promise up to 2⁶⁴ bytes or items.
func TestHostileLengthsAllocateNothing(t *testing.T) {
	var frames [][]byte
	for _, major := range []byte{0x40, 0x60, 0x80, 0xa0} {
		for log, size := range []int{1, 2, 4, 8} {
			head := append([]byte{major | byte(24+log)}, bytes.Repeat([]byte{0xff}, size)...)
			frames = append(frames, head, append(head, make([]byte, 64)...), append([]byte{0x81}, head...), append([]byte{0xa1, 0}, head...))
		}
	}
	for _, frame := range frames {
		allocs := testing.AllocsPerRun(100, func() {
			if read(frame) == nil {
				t.Errorf("%x: accepted", frame)
			}
			if _, err := cose.Parse(frame); err == nil {
				t.Errorf("%x: parsed", frame)
			}
			r := cose.NewReader(frame)
			r.Bytes()
			r = cose.NewReader(frame)
			r.Text()
			r = cose.NewReader(frame)
			r.Array()
			r = cose.NewReader(frame)
			r.Map()
		})
		if allocs != 0 {
			t.Errorf("%x: %v allocations", frame, allocs)
		}
	}
}

func TestFirstErrorSticks(t *testing.T) {
	r := cose.NewReader(unhex("f600"))
	if r.Uint() != 0 || r.Int() != 0 || r.Bytes() != nil || r.Text() != nil || r.Array() != 0 || r.Map() != 0 || r.Tag() != 0 || r.IsArray() {
		t.Error("a failed reader returned a value")
	}
	r.Fail(cose.ErrText)
	r.Skip(0)
	if err := r.End(); !errors.Is(err, cose.ErrUnexpected) || !errors.Is(r.Err(), cose.ErrUnexpected) {
		t.Errorf("the error is %v", err)
	}
}

func TestIntegersOfOtherRangesAreRefused(t *testing.T) {
	for data, readInt := range map[string]func(*cose.Reader){
		"1b8000000000000000": func(r *cose.Reader) { r.Int() },
		"3b8000000000000000": func(r *cose.Reader) { r.Int() },
		"20":                 func(r *cose.Reader) { r.Uint() },
		"40":                 func(r *cose.Reader) { r.Int() },
	} {
		r := cose.NewReader(unhex(data))
		readInt(&r)
		if !errors.Is(r.Err(), cose.ErrUnexpected) {
			t.Errorf("%s: %v", data, r.Err())
		}
	}
}

// TestEncodingIsFxamackers writes values with both encoders and reads them back.
func TestEncodingIsFxamackers(t *testing.T) {
	edges := []uint64{0, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64(), rapid.Map(rapid.SampledFrom(edges), func(u uint64) int64 { return int64(u) })).Draw(t, "n")
		u := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom(edges)).Draw(t, "u")
		p := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "p")
		s := rapid.StringN(0, 100, 300).Draw(t, "s")
		b := cose.AppendArray(nil, 5)
		b = cose.AppendInt(b, n)
		b = cose.AppendUint(b, u)
		b = cose.AppendBytes(b, p)
		b = cose.AppendText(b, s)
		b = cose.AppendMap(b, 1)
		b = cose.AppendText(cose.AppendInt(b, n), s)
		want, err := core.Marshal([]any{n, u, p, s, map[int64]string{n: s}})
		if err != nil || !bytes.Equal(b, want) {
			t.Fatalf("%x, and fxamacker %x, %v", b, want, err)
		}

		r := cose.NewReader(b)
		var keys cose.Keys
		if !r.IsArray() || r.Array() != 5 || r.Int() != n || r.Uint() != u || !bytes.Equal(r.Bytes(), p) || string(r.Text()) != s || r.Map() != 1 {
			t.Fatalf("read something else: %v", r.Err())
		}
		if label, known := keys.Label(&r); label != n || !known || string(r.Text()) != s || r.End() != nil {
			t.Fatalf("read label %d, %v", label, r.Err())
		}
	})
}

// compare reports where the Reader and fxamacker disagree about data.
func compare(data []byte) error {
	var v any
	err := strict.Unmarshal(data, &v)
	accepted := read(data) == nil
	switch {
	case err != nil && accepted:
		return err
	case err != nil:
		return nil
	}
	again, err := core.Marshal(v)
	if err != nil {
		return err
	}
	if same := bytes.Equal(again, data) && representable(v); same != accepted {
		return errors.New("the Reader accepts: " + map[bool]string{true: "yes", false: "no"}[accepted] +
			", fxamacker writes " + hex.EncodeToString(again))
	}
	return nil
}

// representable reports whether v is made of what Converge's formats are made of.
func representable(v any) bool {
	switch v := v.(type) {
	case uint64, int64, big.Int, []byte, string:
		return true
	case []any:
		for _, item := range v {
			if !representable(item) {
				return false
			}
		}
		return true
	case map[any]any:
		for key, item := range v {
			if !isLabel(key) || !representable(item) {
				return false
			}
		}
		return true
	}
	return false
}

func isLabel(key any) bool {
	switch key := key.(type) {
	case uint64:
		return key <= math.MaxInt64
	case int64, string:
		return true
	}
	return false
}

// FuzzReader holds the Reader to fxamacker's decoder in both directions.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"00", "3b7fffffffffffffff", "3bffffffffffffffff", "430102 03", "6161", "8300 20 40", "a3010003020461",
		"a50127035061", "a2616100187801", "f93c00", "c100", "818181818181818180", "9f00ff", "a10000", "63eda080",
	} {
		f.Add(unhex(strings.ReplaceAll(seed, " ", "")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := compare(data); err != nil {
			t.Fatalf("%x: %v", data, err)
		}
	})
}

func unhex(text string) []byte { return must(hex.DecodeString(text)) }
