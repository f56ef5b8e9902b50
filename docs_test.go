package converge_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedTestsExist holds docs/security.md and docs/baseline.md to the tests that they name.
func TestDocumentedTestsExist(t *testing.T) {
	defined := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, "test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range declaration.FindAllSubmatch(text, -1) {
			defined[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{"docs/security.md", "docs/baseline.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)[`/]").FindAllSubmatch(text, -1)
		if len(named) < 20 {
			t.Errorf("%s names %d tests; is it still what this test thinks it is?", doc, len(named))
		}
		for _, name := range named {
			if !defined[string(name[1])] {
				t.Errorf("%s names the test %s, which does not exist", doc, name[1])
			}
		}
	}
}
