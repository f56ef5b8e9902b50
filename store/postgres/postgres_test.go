package postgres_test

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
	"github.com/converge-agents/converge/store/storetest"
)

// A call takes a millisecond here where it takes a microsecond in memory, so the suite's random tests are shorter.
func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "25")
	flag.Parse() // what the command line says counts
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		pgtest.Stop()
		os.Exit(code)
	}), goleak.IgnoreAnyFunction("github.com/converge-agents/converge/internal/pgtest.(*process).supervise"))
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, postgres.Config{}) })
}

func TestCompaction(t *testing.T) {
	storetest.RunCompaction(t, func(t *testing.T) store.Store { return open(t, postgres.Config{MaxLog: 16}) })
}

func TestDurability(t *testing.T) {
	storetest.RunDurable(t, func(t *testing.T, place string) store.Store {
		sum := sha256.Sum256([]byte(place))
		return open(t, postgres.Config{Schema: fmt.Sprintf("t_%x", sum[:16])})
	})
}

// open opens a store on the shared server, in a schema of its own where config names none.
func open(t testing.TB, config postgres.Config) *postgres.Store {
	t.Helper()
	if config.URL == "" {
		config.URL = pgtest.Shared(t).URL()
	}
	if config.Schema == "" {
		config.Schema = pgtest.Name()
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := postgres.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustPut(t testing.TB, s store.Store, key, value string, rev store.Revision) store.Revision {
	t.Helper()
	written, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// execute runs SQL on a server.
func execute(t testing.TB, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}
