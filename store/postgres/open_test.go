package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
)

func TestOpenersRaceToMakeTheSchema(t *testing.T) {
	t.Parallel()
	config := postgres.Config{URL: pgtest.Shared(t).URL(), Schema: pgtest.Name()}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			s, err := postgres.Open(t.Context(), config)
			if err != nil {
				t.Errorf("opener %d: %v", i, err)
				return
			}
			defer s.Close()
			mustPut(t, s, fmt.Sprint(i), "", 0)
		})
	}
	all.Wait()
	keys := 0
	for _, err := range open(t, config).List(t.Context(), "") {
		if keys++; err != nil {
			t.Fatal(err)
		}
	}
	if keys != 10 {
		t.Errorf("%d keys from 10 openers", keys)
	}
}

func TestEntriesSurviveReopening(t *testing.T) {
	t.Parallel()
	config := postgres.Config{Schema: pgtest.Name()}
	s := open(t, config)
	rev := mustPut(t, s, "a", "kept", 0)
	later := mustPut(t, s, "b", "", 0)
	s.Close()
	s = open(t, config)
	wantEntry(t, s, "a", "kept", rev)
	if again := mustPut(t, s, "a", "new", rev); again <= later {
		t.Errorf("revision %d after reopening follows %d", again, later)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	url, schema := pgtest.Shared(t).URL(), pgtest.Name()
	open(t, postgres.Config{Schema: schema}).Close()
	execute(t, url, fmt.Sprintf("INSERT INTO %s.version VALUES (%d)", schema, postgres.SchemaVersion+1))
	_, err := postgres.Open(t.Context(), postgres.Config{URL: url, Schema: schema})
	if !errors.Is(err, postgres.ErrNewerSchema) || !strings.Contains(err.Error(), schema) {
		t.Errorf("Open of a newer schema: %v", err)
	}
	wantHint(t, err, "newer")
}

func TestServersThatDoNotSuit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version       int
		fsync, commit string
		unsynced      bool
		want          error
	}{
		{130000, "on", "on", false, nil},
		{180001, "on", "remote_apply", false, nil},
		{120019, "on", "on", true, postgres.ErrOldServer},
		{150000, "off", "on", false, postgres.ErrUnsynced},
		{150000, "off", "on", true, nil},
		{150000, "on", "off", true, postgres.ErrUnsynced},
		{150000, "on", "local", false, postgres.ErrUnsynced},
	} {
		if err := postgres.Suits(c.version, c.fsync, c.commit, c.unsynced); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestServerThatDoesNotSyncIsRefused(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, "fsync=off", "synchronous_commit=off")
	config := postgres.Config{URL: server.URL()}
	_, err := postgres.Open(t.Context(), config)
	if !errors.Is(err, postgres.ErrUnsynced) {
		t.Errorf("Open with fsync off: %v", err)
	}
	wantHint(t, err, "fsync = on")
	config.UnsyncedUnsafe = true
	open(t, config)
}

// A role for which commits are asynchronous gets synchronous ones, on each of its connections.
func TestCommitsAreSynchronousWhateverTheRole(t *testing.T) {
	t.Parallel()
	server, role := pgtest.Shared(t), pgtest.Name()
	execute(t, server.URL(), fmt.Sprintf("CREATE ROLE %s SUPERUSER LOGIN PASSWORD 'x'; ALTER ROLE %s SET synchronous_commit = off", role, role))
	s := open(t, postgres.Config{URL: fmt.Sprintf("postgres://%s:x@%s/postgres", role, server.Addr)})
	mustPut(t, s, "a", "", 0)
	for _, setting := range s.Settings(t.Context(), "synchronous_commit") {
		if setting != "on" {
			t.Errorf("synchronous_commit is %q", setting)
		}
	}
}

func TestPasswordNeverShows(t *testing.T) {
	t.Parallel()
	const secret = "Hush-p%ss/w@rd:5"
	addr := pgtest.Shared(t).Addr
	escaped := url.QueryEscape(secret)
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for name, config := range map[string]postgres.Config{
		"wrong":        {URL: fmt.Sprintf("postgres://converge:%s@%s/postgres", escaped, addr)},
		"not escaped":  {URL: fmt.Sprintf("postgres://converge:%s@%s/postgres", secret, addr)},
		"bad port":     {URL: fmt.Sprintf("postgres://converge:%s@127.0.0.1:port/postgres", escaped)},
		"bad setting":  {URL: fmt.Sprintf("postgres://converge:%s@%s/postgres?sslmode=%s", escaped, addr, escaped)},
		"keywords":     {URL: fmt.Sprintf("user=converge password='%s host=%s", secret, addr)},
		"no server":    {URL: fmt.Sprintf("postgres://converge:%s@127.0.0.1:1/postgres", escaped)},
		"no database":  {URL: fmt.Sprintf("postgres://converge:%s@%s/nowhere", escaped, addr)},
		"as user":      {URL: fmt.Sprintf("postgres://%s:%s@%s/postgres", escaped, escaped, addr)},
		"of function":  {URL: "postgres://converge@" + addr + "/postgres", Password: func(context.Context) (string, error) { return secret, nil }},
		"wrong schema": {URL: fmt.Sprintf("postgres://converge:%s@%s/postgres", escaped, addr), Schema: "A"},
	} {
		config.Logger = logger
		_, err := postgres.Open(t.Context(), config)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err), fmt.Sprintf("%#v", errors.Unwrap(err)), log.String()} {
			if strings.Contains(text, "Hush") || strings.Contains(text, "w@rd") {
				t.Errorf("%s: the password shows in %s", name, text)
			}
		}
	}
}

func TestPasswordFunctionIsAskedForEachConnection(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := 0
	s := open(t, postgres.Config{
		URL: "postgres://" + pgtest.User + "@" + pgtest.Shared(t).Addr + "/postgres",
		Password: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return pgtest.Password, nil
		},
	})
	mustPut(t, s, "a", "", 0)
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked != 3 { // for the schema, to write, to read
		t.Errorf("asked %d times for the password", asked)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	server, role := pgtest.Shared(t), pgtest.Name()
	execute(t, server.URL(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'x'", role))
	reader := pgtest.Name()
	execute(t, server.URL(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'x'; ALTER ROLE %s SET default_transaction_read_only = on", reader, reader))
	foreign := pgtest.Name()
	execute(t, server.URL(), fmt.Sprintf("CREATE SCHEMA %s; CREATE TABLE %s.entries (id int)", foreign, foreign))
	for name, c := range map[string]struct {
		config postgres.Config
		text   string
		hint   string
	}{
		"no server":      {postgres.Config{URL: "postgres://a:b@127.0.0.1:1/c"}, "connection refused", "is PostgreSQL running"},
		"wrong login":    {postgres.Config{URL: "postgres://a:b@" + server.Addr + "/postgres"}, "password authentication failed", "check user and password"},
		"no database":    {postgres.Config{URL: strings.Replace(server.URL(), "/postgres?", "/nowhere?", 1)}, "nowhere", "createdb"},
		"no permission":  {postgres.Config{URL: fmt.Sprintf("postgres://%s:x@%s/postgres", role, server.Addr)}, "permission denied", "GRANT CREATE"},
		"read only":      {postgres.Config{URL: fmt.Sprintf("postgres://%s:x@%s/postgres", reader, server.Addr)}, "read only", "name the primary"},
		"foreign tables": {postgres.Config{URL: server.URL(), Schema: foreign}, "already exists", "choose another"},
	} {
		_, err := postgres.Open(t.Context(), c.config)
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
			continue
		}
		wantHint(t, err, c.hint)
	}
}

// Tables that somebody drops, and a disk that is full, are told from a server that is away: no call waits for them.
func TestFailuresThatDoNotPass(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{Patience: time.Hour})
	mustPut(t, s, "a", "", 0)
	execute(t, pgtest.Shared(t).URL(), "DROP TABLE "+s.Schema()+".entries")
	_, err := s.Get(t.Context(), "a")
	wantHint(t, err, "restore")
	_, err = s.Put(t.Context(), "b", nil, 0)
	wantHint(t, err, "restore")
	if strings.Contains(err.Error(), "may have happened") {
		t.Errorf("a change that the server refused: %v", err)
	}
	execute(t, pgtest.Shared(t).URL(), "DROP SCHEMA "+s.Schema()+" CASCADE")
	_, err = s.Put(t.Context(), "b", nil, 0)
	wantHint(t, err, "start anew")

	full := postgres.Explained(&pgconn.PgError{Severity: "ERROR", Code: "53100", Message: "could not extend file"})
	if !errors.Is(full, store.ErrFull) || postgres.Passing(full) {
		t.Errorf("a full disk: %v", full)
	}
	wantHint(t, full, "make room")
}

func TestConfigNamesTheFieldAtFault(t *testing.T) {
	t.Parallel()
	const url = "postgres://a:b@127.0.0.1:1/c"
	for want, config := range map[string]postgres.Config{
		"URL is missing": {},
		"URL is not":     {URL: "postgres://a:b@host:port/c"},
		"Connections -1": {URL: url, Connections: -1},
		"Patience -1ns":  {URL: url, Patience: -1},
		"MaxLog -1":      {URL: url, MaxLog: -1},
		"MaxLogBytes -1": {URL: url, MaxLogBytes: -1},
	} {
		if _, err := postgres.Open(t.Context(), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", config, err, want)
		}
	}
}

func TestHostileSchemaNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		`a"; DROP SCHEMA public CASCADE; --`, "a.b", "A", "1a", "a b", "é", "a\x00", "pg_catalog", "pg_x", "information_schema",
		strings.Repeat("a", 41), "-", "'", "$1", "a\n",
	} {
		_, err := postgres.Open(t.Context(), postgres.Config{URL: pgtest.Shared(t).URL(), Schema: name})
		if err == nil || !strings.Contains(err.Error(), "schema") {
			t.Errorf("schema %q: %v", name, err)
		}
	}
	for _, name := range []string{"select", "user", "table", "_", strings.Repeat("a", 40)} { // words of SQL are names like others
		mustPut(t, open(t, postgres.Config{Schema: name}), pgtest.Name(), "", 0)
	}
}

func wantHint(t *testing.T, err error, want string) {
	t.Helper()
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), want) {
		t.Errorf("the hint of %v is not about %q", err, want)
	}
}
