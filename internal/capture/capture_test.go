package capture

import (
	"errors"
	"strings"
	"testing"
)

func TestTailKeepsTheLastBytes(t *testing.T) {
	for _, writes := range [][]string{{"abc"}, {"abcdef"}, {"ab", "cd", "ef"}, {"abcd", "e"}, {"abc", "defghijk"}, {"", "a"}, {}} {
		w := &Tail{Limit: 4}
		all := strings.Join(writes, "")
		for _, p := range writes {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if want := all[max(0, len(all)-4):]; w.String() != want {
			t.Errorf("%q: kept %q; want %q", writes, w, want)
		}
	}
}

func TestCappedKeepsAllOrNothing(t *testing.T) {
	full := 0
	w := &Capped{Limit: 4, Full: func() { full++ }}
	if n, err := w.Write([]byte("abcd")); n != 4 || err != nil || w.Over() || string(w.Bytes()) != "abcd" {
		t.Errorf("%d, %v, %q", n, err, w.Bytes())
	}
	for range 2 {
		if n, err := w.Write([]byte("e")); n != 0 || !errors.Is(err, ErrFull) || !w.Over() || len(w.Bytes()) != 0 || full != 1 {
			t.Errorf("%d, %v, %q, told %d times", n, err, w.Bytes(), full)
		}
	}
}
