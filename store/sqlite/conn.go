package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"modernc.org/sqlite"
)

// setting is a PRAGMA that a connection has to have, with the value that it then answers.
type setting struct {
	name string
	want any
}

// common are the settings of every connection. They are made and then read back: SQLite ignores
// what it does not know or cannot do.
var common = []setting{
	{"busy_timeout", int64(10_000)}, // ms; only a program from outside can hold the database
	{"journal_mode", "wal"},
	{"synchronous", int64(2)}, // FULL: a commit is on the disk when it returns
	{"fullfsync", int64(1)},   // and on macOS past the disk's cache
	{"checkpoint_fullfsync", int64(1)},
	{"locking_mode", "normal"},
	{"trusted_schema", int64(0)}, // a schema that somebody else wrote calls no functions
	{"cell_size_check", int64(1)},
	{"mmap_size", int64(0)}, // an error of the disk is an error and no SIGBUS
	{"temp_store", int64(2)},
}

var (
	writerSettings = append([]setting{
		{"cache_size", int64(-64 << 10)},    // KiB
		{"wal_autocheckpoint", int64(8192)}, // pages, so 32 MiB
	}, common...)
	readerSettings = append([]setting{
		{"cache_size", int64(-2 << 10)},
		{"wal_autocheckpoint", int64(0)},
		{"query_only", int64(1)},
	}, common...)
)

// conn is a connection to the database. It is not safe for concurrent use.
//
// database/sql is left out: it would cost a lock, a channel and some allocations a statement, and its pool
// hides which connection a statement runs on.
type conn struct {
	raw   driverConn
	stmts []*stmt
}

type driverConn interface {
	driver.Conn
	driver.ExecerContext
	driver.QueryerContext
	driver.ConnPrepareContext
}

// dial opens a connection with settings that hold.
func dial(path string, settings []setting) (*conn, error) {
	raw, err := (&sqlite.Driver{}).Open(dsn(path)) // a driver of our own has nobody's functions and hooks
	if err != nil {
		return nil, err
	}
	c := &conn{raw: raw.(driverConn)}
	for _, s := range settings {
		if err := c.set(s); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func dsn(path string) string {
	path = filepath.ToSlash(path)
	if filepath.VolumeName(path) != "" {
		path = "/" + path
	}
	name := url.URL{Scheme: "file", OmitHost: true, Path: path}
	return name.String() + "?mode=rw&_defensive=1&_dqs=0&_error_rc=1"
}

func (c *conn) set(s setting) error {
	if err := c.exec(fmt.Sprintf("PRAGMA %s = %v", s.name, s.want)); err != nil {
		return fmt.Errorf("set %s: %w", s.name, err)
	}
	got, err := c.value("PRAGMA " + s.name)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.name, err)
	}
	if got != s.want && !absent(s.name, got) {
		return fmt.Errorf("%s is %v and cannot be set to %v", s.name, got, s.want)
	}
	return nil
}

// absent tells whether a setting is one that a build of SQLite may lack without harm.
func absent(name string, got any) bool { return name == "mmap_size" && got == nil }

func (c *conn) exec(sql string) error {
	_, err := c.raw.ExecContext(context.Background(), sql, nil)
	return err
}

// value returns the first column of the first row that a query gives, nil if there is none.
func (c *conn) value(sql string) (any, error) { return c.valueContext(context.Background(), sql) }

func (c *conn) valueContext(ctx context.Context, sql string) (any, error) {
	rows, err := c.raw.QueryContext(ctx, sql, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	return first(rows)
}

func (c *conn) integer(sql string) (int64, error) {
	v, err := c.value(sql)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok {
		return 0, fmt.Errorf("%s gives %v where a number is due", sql, v)
	}
	return n, nil
}

func first(rows driver.Rows) (any, error) {
	row := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); errors.Is(err, io.EOF) || err == nil && len(row) == 0 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return row[0], nil
}

// close finalizes the statements, without which SQLite would keep the file open, and closes.
func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.raw.Close())
	}
	return errors.Join(append(errs, c.raw.Close())...)
}

// stmt is a prepared statement.
type stmt struct {
	raw  driverStmt
	args []driver.NamedValue
}

type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

func (c *conn) prepare(sql string) (*stmt, error) {
	raw, err := c.raw.PrepareContext(context.Background(), sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", sql, err)
	}
	s := &stmt{raw: raw.(driverStmt)}
	c.stmts = append(c.stmts, s)
	return s, nil
}

// exec returns the number of rows that changed.
func (s *stmt) exec(args ...driver.Value) (int64, error) {
	result, err := s.raw.ExecContext(context.Background(), s.named(args))
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (s *stmt) query(args ...driver.Value) (driver.Rows, error) {
	return s.raw.QueryContext(context.Background(), s.named(args))
}

func (s *stmt) named(args []driver.Value) []driver.NamedValue {
	s.args = s.args[:0]
	for i, v := range args {
		s.args = append(s.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return s.args
}
