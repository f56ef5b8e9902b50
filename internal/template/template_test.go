package template_test

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
		if filled := tmpl.Fill(values); filled != strings.Join(want, "") {
			t.Fatalf("%q was filled to %q", text, filled)
		}
	})
}

func TestParamsOfATemplate(t *testing.T) {
	tmpl, err := template.Parse("{a}-{{b}}-{c}{a}")
	if err != nil || !slices.Equal(tmpl.Params(), []string{"a", "c", "a"}) {
		t.Errorf("params %q, error %v", tmpl.Params(), err)
	}
}
