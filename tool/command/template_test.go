package command

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/template"
)

// FuzzOption feeds templates that pass checkOption values. None of them makes the argument an option.
func FuzzOption(f *testing.F) {
	for _, seed := range []string{"{x}", "--name={x}", "a/{x}.txt", "{{x}}", "-{x}", "{x}{y}", "--{x}=a"} {
		f.Add(seed, "value", "--help")
	}
	f.Fuzz(func(t *testing.T, text, x, y string) {
		if tmpl, err := template.Parse(text); err == nil {
			checkOptionHolds(t, tmpl, tmpl.Fill(map[string]string{"x": x, "y": y}))
		}
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
