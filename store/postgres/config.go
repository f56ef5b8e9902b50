package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config says where a store is and what it may use. URL is required.
type Config struct {
	// URL names server, login and database: postgres://user:password@host:5432/database?sslmode=verify-full, or
	// keywords and values ("host=… dbname=…"). Several hosts are tried in turn until one takes writes. What it
	// leaves out comes from the variables and files of libpq (PGHOST, ~/.pgpass). A host that is not local
	// should have sslmode=verify-full: the default, prefer, encrypts and does not authenticate the server.
	URL string

	// Password returns the password each time that a connection is made, instead of the one in URL. Optional.
	Password func(context.Context) (string, error)

	// Schema is the schema of the database that holds the store's tables: 1 to 40 lower-case letters, digits
	// and '_', not starting with a digit or "pg_". "" means "converge". Stores in different schemas are independent.
	Schema string

	// Connections is the most connections that read at the same time; 0 means 8. Besides them there is
	// one that writes, one that follows changes, and one for each long List under way, at most 16.
	Connections int

	// Patience is how long a call waits for a server that does not answer; 0 means 15 s. Then its error wraps
	// ErrUnavailable. A context that ends sooner ends it sooner.
	Patience time.Duration

	// MaxLog is how many changes are kept for watchers; 0 means 262,144. MaxLogBytes bounds the bytes of their
	// keys and values; 0 means 256 MiB. The bytes may be exceeded by an eighth, and the newest change is always
	// kept. Of processes that share a store and differ, the smallest bound counts.
	MaxLog      int
	MaxLogBytes int64

	// UnsyncedUnsafe accepts a server with fsync=off, which loses acknowledged changes in a power cut, or its
	// whole database.
	UnsyncedUnsafe bool

	// Logger hears of lost and regained connections. nil means slog.Default.
	Logger *slog.Logger

	poll time.Duration // how often the log is read without a notification
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// check returns c with its zeros replaced and what it says of the connection, or an error that names the field
// at fault.
func (c Config) check() (Config, *pgxpool.Config, error) {
	c.Schema = cmp.Or(c.Schema, "converge")
	if !schemaName.MatchString(c.Schema) || len(c.Schema) > 2 && c.Schema[:3] == "pg_" || c.Schema == "information_schema" {
		return c, nil, fmt.Errorf("schema %.60q: want 1 to 40 lower-case letters, digits and '_', and no name of PostgreSQL's own", c.Schema)
	}
	if c.Connections < 0 || c.Patience < 0 || c.MaxLog < 0 || c.MaxLogBytes < 0 {
		return c, nil, fmt.Errorf("a bound is negative: Connections %d, Patience %s, MaxLog %d, MaxLogBytes %d",
			c.Connections, c.Patience, c.MaxLog, c.MaxLogBytes)
	}
	c.Connections = min(cmp.Or(c.Connections, 8), 1<<15)
	c.Patience = cmp.Or(c.Patience, 15*time.Second)
	c.MaxLog = cmp.Or(c.MaxLog, 1<<18)
	c.MaxLogBytes = cmp.Or(c.MaxLogBytes, 256<<20)
	c.poll = cmp.Or(c.poll, 3*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	pool, err := c.parse()
	return c, pool, err
}

var errURL = errors.New("URL is not that of a PostgreSQL database: want postgres://user:password@host:5432/database; special characters in the password are written as %XX")

// parse reads the URL. What a parser says of a malformed one may hold parts of the password, so nothing of that
// gets into the error.
func (c Config) parse() (*pgxpool.Config, error) {
	if c.URL == "" {
		return nil, errors.New("URL is missing: want postgres://user:password@host:5432/database")
	}
	pool, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, errURL
	}
	link := pool.ConnConfig
	if link.ConnectTimeout == 0 {
		link.ConnectTimeout = 5 * time.Second
	}
	if link.ValidateConnect == nil {
		link.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	link.RuntimeParams["application_name"] = cmp.Or(link.RuntimeParams["application_name"], "converge")
	pool.MaxConns, pool.MinConns, pool.MinIdleConns = int32(c.Connections), 0, 0
	pool.PingTimeout = c.Patience / 3
	return pool, nil
}
