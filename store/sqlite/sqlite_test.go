package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/sqlite"
	"github.com/converge-agents/converge/store/storetest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(child(role))
	}
	goleak.VerifyTestMain(m)
}

func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	config := sqlite.Config{Path: filepath.Join(dir, "converge.db")}
	s, err := sqlite.Open(ctx, config)
	if err != nil {
		panic(err)
	}
	first, _ := s.Put(ctx, "pool/painters", []byte("open"), 0)
	s.Close()

	s, err = sqlite.Open(ctx, config)
	if err != nil {
		panic(err)
	}
	defer s.Close()
	_, err = s.Put(ctx, "pool/painters", []byte("mine"), 0)
	fmt.Println(err)
	second, _ := s.Put(ctx, "pool/painters", []byte("closed"), first)
	fmt.Println(first, second)
	// Output:
	// put "pool/painters": entry is at another revision
	// 1 2
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, sqlite.Config{}) })
}

func TestDurable(t *testing.T) {
	t.Parallel()
	storetest.RunDurable(t, func(t *testing.T, place string) store.Store {
		return open(t, sqlite.Config{Path: filepath.Join(place, "converge.db")})
	})
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]sqlite.Config{
		"ByLength": {MaxLog: 16},
		"ByBytes":  {MaxLogBytes: 100},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.RunCompaction(t, func(t *testing.T) store.Store { return open(t, config) })
		})
	}
}

// open opens a store, by default in a new directory.
func open(t testing.TB, c sqlite.Config) *sqlite.Store {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "converge.db")
	}
	s, err := sqlite.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// put may be called in any goroutine.
func put(t testing.TB, s store.Store, key, value string, rev store.Revision) store.Revision {
	t.Helper()
	written, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Error(err)
	}
	return written
}
