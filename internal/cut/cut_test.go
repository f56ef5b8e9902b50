package cut_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/converge-agents/converge/internal/cut"
)

func TestTextIsCutBetweenCharacters(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abc", 2, "ab"}, {"abc", 0, ""},
		{"aé", 3, "aé"}, {"aé", 2, "a"}, {"é", 1, ""}, {"a€b", 3, "a"}, {"a€b", 4, "a€"}, {"😀", 3, ""},
		{"a\xffb", 9, "a\uFFFDb"}, {"a\xff", 3, "a"}, {"a\xff\xfe\xfd", 4, "a\uFFFD"}, {"\xe2\x82", 2, ""},
	} {
		if got := cut.Text(c.text, c.most); got != c.want {
			t.Errorf("Text(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}

func TestMarkedSaysThatSomethingIsMissing(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"abcd", 4, "abcd"}, {"abcde", 4, "a…"}, {"aéde", 5, "aéde"}, {"aéded", 5, "a…"}, {"abcd", 3, "…"},
		{"ab\xff", 5, "ab\uFFFD"}, {"ab\xff", 4, "a…"},
	} {
		if got := cut.Marked(c.text, c.most); got != c.want {
			t.Errorf("Marked(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("abc", 2)
	f.Add("a€\xff😀", 5)
	f.Fuzz(func(t *testing.T, text string, most int) {
		most = max(3, min(most, 1<<16))
		for _, got := range []string{cut.Text(text, most), cut.Marked(text, most)} {
			if len(got) > most || !utf8.ValidString(got) {
				t.Errorf("%q cut to %d is %q", text, most, got)
			}
			if whole := strings.ToValidUTF8(text, "\uFFFD"); len(whole) <= most && got != whole || !strings.HasPrefix(whole, strings.TrimSuffix(got, "…")) {
				t.Errorf("%q cut to %d is %q, which is not its beginning", text, most, got)
			}
		}
	})
}
