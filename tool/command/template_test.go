package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/template"
)

// FuzzTemplate feeds the parser templates and the accepted ones values. No text is read in two ways,
// and no value reaches beyond the place of its placeholder.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"", "plain", "{x}", "--name={x}", "a/{x}.txt", "{{x}}", "{{{x}}}", "}}{{", "{x}{y}", "{", "}", "{}", "{a b}", "-{x}"} {
		f.Add(seed, "value", "--help")
		f.Add(seed, "{y}", "}}")
	}
	f.Fuzz(func(t *testing.T, text, x, y string) {
		tmpl, err := template.Parse(text)
		if err != nil {
			return
		}
		if again := tmpl.String(); again != text {
			t.Fatalf("%q came back as %q", text, again)
		}
		values := map[string]string{"x": x, "y": y}
		for i, name := range tmpl.Params() {
			if !template.IsName(name) {
				t.Fatalf("%q has a param %q", text, name)
			}
			if _, ok := values[name]; !ok {
				values[name] = strings.Repeat("v", i)
			}
		}
		var want []string
		for i, p := range tmpl {
			if i > 0 && !p.IsParam && !tmpl[i-1].IsParam {
				t.Fatalf("%q: texts %q and %q are neighbours", text, tmpl[i-1].Text, p.Text)
			}
			if p.IsParam {
				want = append(want, values[p.Text])
			} else {
				want = append(want, p.Text)
			}
		}
		filled := tmpl.Fill(values)
		if filled != strings.Join(want, "") {
			t.Fatalf("%q was filled to %q", text, filled)
		}
		checkOptionHolds(t, tmpl, filled)
	})
}

// checkOptionHolds fails if a template passes checkOption, but what it is filled to is an option that
// the template does not name.
func checkOptionHolds(t *testing.T, tmpl template.Template, filled string) {
	if checkOption(tmpl) != nil || len(tmpl.Params()) == 0 {
		return
	}
	prefix := tmpl[0].Text
	if tmpl[0].IsParam || !strings.HasPrefix(filled, prefix) {
		t.Fatalf("%q was filled to %q: a param came first", tmpl, filled)
	}
	if strings.HasPrefix(filled, "-") {
		option, _, named := strings.Cut(prefix, "=")
		if got, _, _ := strings.Cut(filled, "="); !named || got != option {
			t.Fatalf("%q was filled to option %q", tmpl, got)
		}
	}
}

func TestTailKeepsTheLastBytes(t *testing.T) {
	for _, writes := range [][]string{{"abc"}, {"abcdef"}, {"ab", "cd", "ef"}, {"abcd", "e"}, {"abc", "defghijk"}, {"", "a"}, {}} {
		w := &tail{limit: 4}
		all := strings.Join(writes, "")
		for _, p := range writes {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if want := all[max(0, len(all)-4):]; string(w.kept) != want {
			t.Errorf("%q: kept %q; want %q", writes, w.kept, want)
		}
	}
}

func TestParamsOfATemplate(t *testing.T) {
	tmpl, err := template.Parse("{a}-{{b}}-{c}{a}")
	if err != nil || !slices.Equal(tmpl.Params(), []string{"a", "c", "a"}) {
		t.Errorf("params %q, error %v", tmpl.Params(), err)
	}
}
