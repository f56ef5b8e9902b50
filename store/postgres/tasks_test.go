package postgres_test

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

// claimers come from so many processes, as far as the server can tell: each has a store of its own.
func claimers(t *testing.T, processes, claimers, tasks int) {
	config := postgres.Config{Schema: pgtest.Name()}
	stores := make([]store.Store, processes)
	for i := range stores {
		stores[i] = open(t, config)
	}
	tasktest.Claimers(t, stores, claimers, tasks)
}

func TestClaimersOfTasks(t *testing.T) {
	t.Parallel()
	claimers(t, 4, 20, 300)
}

func tasksOfKilledProcess(t *testing.T, loops int) {
	place := func(t *testing.T) string { return pgtest.Shared(t).URL() + " " + pgtest.Name() }
	tasktest.Kills(t, loops, place, func(t *testing.T, place string) store.Store {
		url, schema, _ := strings.Cut(place, " ")
		return open(t, postgres.Config{URL: url, Schema: schema})
	})
}

func TestTasksOfKilledProcess(t *testing.T) {
	t.Parallel()
	tasksOfKilledProcess(t, 5)
}
