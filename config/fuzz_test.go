package config_test

import (
	"testing"

	"github.com/converge-agents/converge/config"
)

// FuzzParse reads arbitrary files of both formats, with an arbitrary variable. Whatever is accepted
// keeps the rules, and whatever is refused is refused with places.
func FuzzParse(f *testing.F) {
	f.Add(false, []byte(fullYAML), "x")
	f.Add(true, []byte(fullTOML), "x")
	f.Add(false, config.Template("quickstart"), "${dir}")
	f.Fuzz(func(t *testing.T, isTOML bool, data []byte, value string) {
		name := "c.yaml"
		if isTOML {
			name = "c.toml"
		}
		c, err := config.Parse(name, data, config.Options{Environ: []string{"CONVERGE_VAR_DIR=" + value}})
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Fatalf("accepted, and then: %v", err)
			}
			return
		}
		for _, e := range problems(t, err) {
			if e.File == "" || e.Msg == "" {
				t.Errorf("an error without a place or a message: %#v", e)
			}
		}
	})
}
