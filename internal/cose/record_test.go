package cose_test

import (
	"errors"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/cose"
)

func TestRecordBeginsWithItsVersion(t *testing.T) {
	write := func(fill func(*cose.MapWriter)) []byte {
		w := cose.NewMapWriter(nil)
		fill(&w)
		return w.End()
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"known":           {write(func(w *cose.MapWriter) { w.Uint(1, 3); w.Flag(2, true) }), nil},
		"older":           {write(func(w *cose.MapWriter) { w.Uint(1, 2); w.Flag(2, true) }), cose.ErrUnexpected},
		"newer":           {write(func(w *cose.MapWriter) { w.Uint(1, 4); w.Text(2, "of the future") }), cose.ErrNewer},
		"none":            {write(func(w *cose.MapWriter) { w.Flag(2, true) }), cose.ErrUnexpected},
		"empty":           {write(func(*cose.MapWriter) {}), cose.ErrUnexpected},
		"after a field":   {write(func(w *cose.MapWriter) { w.Flag(0, true); w.Uint(1, 3) }), cose.ErrUnexpected},
		"of another type": {write(func(w *cose.MapWriter) { w.Text(1, "3") }), cose.ErrUnexpected},
		"twice":           {[]byte{0xa2, 1, 3, 1, 3}, cose.ErrNotDeterministic},
	} {
		r := cose.NewReader(c.raw)
		fields := 0
		r.Record(3, func(int64) { fields++; r.Uint() })
		if err := r.End(); !errors.Is(err, c.want) || err == nil && fields != 1 {
			t.Errorf("%s: %d fields, %v, want %v", name, fields, err, c.want)
		}
		if c.want != nil && fields > 0 {
			t.Errorf("%s: a field was read before its version was known", name)
		}
	}
}

func TestListHasAnEnd(t *testing.T) {
	raw := cose.AppendUint(cose.AppendUint(cose.AppendArray(nil, 2), 7), 8)
	r := cose.NewReader(raw)
	if all := cose.List(&r, 2, r.Uint); r.End() != nil || len(all) != 2 || all[1] != 8 {
		t.Errorf("read %v, %v", all, r.Err())
	}
	r = cose.NewReader(raw)
	if all := cose.List(&r, 1, r.Uint); all != nil || !errors.Is(r.End(), cose.ErrUnexpected) {
		t.Errorf("read %v of at most one, %v", all, r.Err())
	}
}

func TestTimesComeBack(t *testing.T) {
	for _, want := range []time.Time{{}, time.Unix(0, 1).UTC(), time.Unix(-5, 7).UTC(), time.Date(2200, 1, 2, 3, 4, 5, 6, time.UTC)} {
		if got := cose.ToTime(cose.FromTime(want)); !got.Equal(want) || got.IsZero() != want.IsZero() {
			t.Errorf("%v came back as %v", want, got)
		}
	}
	if cose.FromTime(time.Time{}) != 0 {
		t.Error("the zero time is not 0")
	}
}
