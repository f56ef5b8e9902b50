package sqlite

import (
	"path/filepath"
	"strings"
	"testing"
)

// made returns the path of an empty database.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "converge.db")
	if err := create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func connect(t *testing.T, path string, settings []setting) *conn {
	t.Helper()
	c, err := dial(path, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() })
	return c
}

// Whoever changes the settings meets this list again.
func TestEveryConnectionSyncsBeforeItAcknowledges(t *testing.T) {
	t.Parallel()
	path := made(t)
	for name, settings := range map[string][]setting{"writer": writerSettings, "reader": readerSettings} {
		c := connect(t, path, settings)
		for pragma, want := range map[string]any{
			"journal_mode": "wal", "synchronous": int64(2), "fullfsync": int64(1), "checkpoint_fullfsync": int64(1),
			"trusted_schema": int64(0), "cell_size_check": int64(1), "page_size": int64(pageSize),
		} {
			if got, err := c.value("PRAGMA " + pragma); err != nil || got != want {
				t.Errorf("%s of a %s is %v, %v, want %v", pragma, name, got, err, want)
			}
		}
	}
}

func TestSettingsThatDoNotHoldAreRefused(t *testing.T) {
	t.Parallel()
	path := made(t)
	for _, s := range []setting{{"no_such_pragma", int64(1)}, {"locking_mode", "nonsense"}, {"journal_mode", "off"}} {
		c, err := dial(path, []setting{s})
		if err == nil {
			c.close()
		}
		if err == nil || !strings.Contains(err.Error(), s.name) {
			t.Errorf("a connection with %s = %v gives %v", s.name, s.want, err)
		}
	}
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	path := made(t)
	connect(t, path, writerSettings)
	if err := connect(t, path, readerSettings).exec("DELETE FROM counter"); err == nil {
		t.Error("a connection for reading has written")
	}
}

func TestMigrationKeepsEntries(t *testing.T) {
	t.Parallel()
	c := connect(t, made(t), writerSettings)
	if err := c.exec("INSERT INTO entries VALUES ('a', 1, 0, x'01'); UPDATE counter SET revision = 1"); err != nil {
		t.Fatal(err)
	}
	steps := append(migrations[:len(migrations):len(migrations)],
		"ALTER TABLE entries ADD COLUMN added INTEGER NOT NULL DEFAULT 7",
		"CREATE TABLE more (id INTEGER) STRICT; INSERT INTO more SELECT added FROM entries")
	for range 2 { // the second time there is nothing to do
		if err := migrate(c, steps); err != nil {
			t.Fatal(err)
		}
	}
	version, err := c.integer("PRAGMA user_version")
	got, err2 := c.integer("SELECT id FROM more")
	if version != int64(len(steps)) || got != 7 || err != nil || err2 != nil {
		t.Errorf("version %d, %d carried over, %v, %v", version, got, err, err2)
	}
}

func TestMigrationThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	c := connect(t, made(t), writerSettings)
	steps := append(migrations[:len(migrations):len(migrations)], "DROP TABLE counter; SELECT * FROM nowhere")
	if err := migrate(c, steps); err == nil || !strings.Contains(err.Error(), "from version 1 to 2") {
		t.Errorf("migrate gives %v", err)
	}
	version, err := c.integer("PRAGMA user_version")
	count, err2 := c.integer("SELECT count(*) FROM counter")
	if version != 1 || count != 1 || err != nil || err2 != nil {
		t.Errorf("after a failed migration: version %d, %d counters, %v, %v", version, count, err, err2)
	}
}
