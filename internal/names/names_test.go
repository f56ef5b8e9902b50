package names_test

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/names"
)

func TestNamesHaveLettersDigitsAndOthers(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "Z9": true, "a-b_c": true, strings.Repeat("x", 8): true,
		"": false, strings.Repeat("x", 9): false, "a.b": false, "a b": false, "é": false, "a\x00": false, "a\n": false,
		"`": false, "{": false, "@": false, "[": false, "/": false, ":": false, "\xff": false, // neighbours of letters and digits
	} {
		if got := names.Is(s, 8, "_-"); got != want {
			t.Errorf("Is(%q) = %v", s, got)
		}
		if err := names.Check("field", s, 8, "_-"); (err == nil) != want {
			t.Errorf("Check(%q) = %v", s, err)
		}
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	for s, want := range map[string]string{
		"":      "Name has 0 bytes; a name has 1 to 4",
		"abcde": "Name has 5 bytes; a name has 1 to 4",
		"ab c":  `Name "ab c": byte 3 is ' '; a name is made of letters, digits and "._:"`,
	} {
		if err := names.Check("Name", s, 4, "._:"); err == nil || err.Error() != want {
			t.Errorf("Check(%q) = %v, want %s", s, err, want)
		}
	}
}
