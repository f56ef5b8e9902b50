package natskv_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/converge-agents/converge/internal/tasktest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

// claimers come from so many processes, as far as the server can tell: each has a connection and a store of its own.
func claimers(t *testing.T, processes, claimers, tasks int) {
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	stores := make([]store.Store, processes)
	for i := range stores {
		stores[i] = b.open(t, natskv.Config{Bucket: bucket})
	}
	tasktest.Claimers(t, stores, claimers, tasks)
}

func TestClaimersOfTasks(t *testing.T) {
	t.Parallel()
	claimers(t, 4, 20, 100)
}

// tasksOfKilledProcess kills a process that runs the server, which syncs what it acknowledges, as well as the store.
func tasksOfKilledProcess(t *testing.T, loops int) {
	place := func(t *testing.T) string { return t.TempDir() }
	tasktest.Kills(t, loops, place, func(t *testing.T, dir string) store.Store {
		b := startBrokerIn(t, dir, server.Options{SyncAlways: true})
		return b.open(t, natskv.Config{Bucket: "kills"})
	})
}

func TestTasksOfKilledProcess(t *testing.T) {
	t.Parallel()
	tasksOfKilledProcess(t, 3)
}
