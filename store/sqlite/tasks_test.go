package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
)

// claimers has them share one store through so many managers: a file belongs to one process.
func claimers(t *testing.T, managers, claimers, tasks int) {
	s := open(t, sqlite.Config{})
	stores := make([]store.Store, managers)
	for i := range stores {
		stores[i] = s
	}
	tasktest.Claimers(t, stores, claimers, tasks)
}

func TestClaimersOfTasks(t *testing.T) {
	t.Parallel()
	claimers(t, 4, 20, 100)
}

func tasksOfKilledProcess(t *testing.T, loops int) {
	place := func(t *testing.T) string { return filepath.Join(t.TempDir(), "converge.db") }
	tasktest.Kills(t, loops, place, func(t *testing.T, path string) store.Store { return open(t, sqlite.Config{Path: path}) })
}

func TestTasksOfKilledProcess(t *testing.T) {
	t.Parallel()
	tasksOfKilledProcess(t, 3)
}
