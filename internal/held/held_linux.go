package held

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) - 1 // the directory's own
}

func processes(t testing.TB) int {
	t.Helper()
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		t.Fatal(err)
	}
	return descendants("self")
}

// descendants counts those of a process. Threads and processes may end meanwhile: those are not counted.
func descendants(process string) (n int) {
	lists, _ := filepath.Glob("/proc/" + process + "/task/*/children")
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, child := range strings.Fields(string(children)) {
			n += 1 + descendants(child)
		}
	}
	return n
}
