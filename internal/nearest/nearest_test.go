package nearest_test

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/nearest"
)

func TestName(t *testing.T) {
	known := []string{"capabilities", "tools", "tool_timeout", "count", ""}
	for name, want := range map[string]string{
		"capabilites":            "capabilities", // left out
		"capabiltiies":           "capabilities", // swapped
		"Tools":                  "tools",
		"tool-timeout":           "tool_timeout",
		"cuont":                  "count",
		"something else":         "",
		"":                       "",
		strings.Repeat("x", 1e6): "",
	} {
		if got := nearest.Name(name, known); got != want {
			t.Errorf("Name(%.20q) = %q, want %q", name, got, want)
		}
	}
	if got := nearest.Name("tools", nil); got != "" {
		t.Errorf("Name without candidates = %q", got)
	}
}
