package tasktest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHundredClaimers shares a store among ten managers.
func TestHundredClaimers(t *testing.T) { race(t, 1000) }

func race(t *testing.T, tasks int) {
	t.Helper()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stores := make([]store.Store, 10)
	for i := range stores {
		stores[i] = s
	}
	tasktest.Claimers(t, stores, 100, tasks)
}

func BenchmarkTasks(b *testing.B) {
	s, err := memory.New(memory.Config{MaxEntries: 1 << 26, MaxBytes: 1 << 34})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	tasktest.Bench(b, s)
}
