package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("AUDIT_TEST_ROLE"); role != "" {
		os.Exit(child(role))
	}
	goleak.VerifyTestMain(m)
}

var key, otherKey = seeded(1), seeded(2)

func seeded(b byte) *identity.Identity { return must(identity.FromSeed(bytes.Repeat([]byte{b}, 32))) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func config(dir string) audit.Config {
	return audit.Config{Dir: dir, Key: key, Network: "test.example", Logger: slog.New(slog.DiscardHandler)}
}

// open opens a log that is closed with the test at the latest.
func open(t testing.TB, c audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func add(t testing.TB, l *audit.Log, r audit.Receipt) uint64 {
	t.Helper()
	seq, err := l.Append(&r)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// receipt is one with every field set, as far as n receipts before allow.
func receipt(n uint64) audit.Receipt {
	r := audit.Receipt{
		Kind: audit.KindCall, Agent: seeded(3).ID(), Subject: fmt.Sprint("call-", n), Action: "fs.read", Outcome: "ok",
		Reason: "because", Peer: seeded(4).ID(), Input: [32]byte{1}, Output: [32]byte{2}, Taint: []string{"peer:x", "tool:y"},
		Count: 3, Duration: 5, Content: []byte("content"),
	}
	if n > 0 {
		r.Causes = []uint64{1, n}
	}
	return r
}

// written returns the files of a closed log of n receipts besides its own.
func written(t testing.TB, c audit.Config, n int) []string {
	t.Helper()
	l := open(t, c)
	last := uint64(0)
	for range n {
		last = add(t, l, receipt(last))
		if c.MaxSize > 0 && last%8 == 0 { // files are ended with a sync
			if err := l.Sync(t.Context(), last); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return must(audit.Files(c.Dir))
}

func entries(t testing.TB, files ...string) (all []audit.Entry) {
	t.Helper()
	_, err := audit.Verify(audit.Check{Key: key.ID(), Each: func(e *audit.Entry) error {
		e.Content = bytes.Clone(e.Content)
		all = append(all, *e)
		return nil
	}}, files...)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantBad wants an error about a place.
func wantBad(t testing.TB, err error, what string) *audit.BadRecord {
	t.Helper()
	bad, ok := errors.AsType[*audit.BadRecord](err)
	if !ok || !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("%s: %v; want the place of a bad record", what, err)
		return &audit.BadRecord{}
	}
	return bad
}

func copyTo(t testing.TB, dir string, files ...string) (copies []string) {
	t.Helper()
	for _, f := range files {
		to := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(to, must(os.ReadFile(f)), 0o600); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, to)
	}
	return copies
}
