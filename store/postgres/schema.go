package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/converge-agents/converge/internal/advice"
)

// migrations make the schema; the first has version 1. A migration that was released is never altered. In their text,
// "converge." stands for the schema.
var migrations = []string{schema1}

const schema1 = `
CREATE TABLE converge.entries (
	key text COLLATE "C" PRIMARY KEY,
	value bytea NOT NULL,
	revision bigint NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE converge.changes (
	revision bigint PRIMARY KEY,
	total bigint NOT NULL, -- bytes of keys and values of all changes up to this one
	key text COLLATE "C" NOT NULL,
	value bytea            -- NULL for a deletion
) WITH (autovacuum_vacuum_scale_factor = 0.05);

ALTER TABLE converge.entries ALTER COLUMN value SET STORAGE EXTERNAL;
ALTER TABLE converge.changes ALTER COLUMN value SET STORAGE EXTERNAL;

-- One row: the last revision, the last one that the log of changes no longer has to hold, and the last total.
CREATE TABLE converge.counter (
	single boolean PRIMARY KEY DEFAULT true CHECK (single),
	revision bigint NOT NULL,
	compacted bigint NOT NULL,
	total bigint NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
INSERT INTO converge.counter (revision, compacted, total) VALUES (0, 0, 0);

-- Sessions that write: the last batch of each that happened, where its revisions start, and which of its changes won.
CREATE TABLE converge.writers (
	id bigint PRIMARY KEY,
	fenced boolean NOT NULL DEFAULT false, -- a fenced session writes no more
	batch bigint NOT NULL DEFAULT 0,
	base bigint NOT NULL DEFAULT 0,
	won int[] NOT NULL DEFAULT '{}',
	seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Applies a batch of changes, of which at most one has the same key and revision; a value that is NULL stands for a
-- deletion, which has no revision 0. It locks the
-- session first, so that a batch either happens before somebody fences its session or not at all, and then the
-- counter, so that revisions become visible in their order. The statement after that sees what is current.
CREATE FUNCTION converge.apply(p_writer bigint, p_batch bigint, p_log bigint, p_channel text,
	p_keys text[], p_revisions bigint[], p_values bytea[])
RETURNS TABLE (place int, held bigint, written bigint) LANGUAGE plpgsql AS $apply$
#variable_conflict use_column
DECLARE
	v_last bigint;
BEGIN
	PERFORM 1 FROM converge.writers WHERE id = p_writer AND NOT fenced FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'the session of the writer is gone' USING ERRCODE = 'CV001';
	END IF;
	PERFORM 1 FROM converge.counter FOR UPDATE;

	RETURN QUERY WITH asked AS MATERIALIZED (
		SELECT a.place, a.key, a.value, a.revision,
			(SELECT e.revision FROM converge.entries e WHERE e.key = a.key) AS held,
			octet_length(a.key) + coalesce(octet_length(a.value), 0) AS size
		FROM ROWS FROM (unnest(p_keys), unnest(p_revisions), unnest(p_values)) WITH ORDINALITY
			AS a (key, revision, value, place)
	), judged AS MATERIALIZED (
		SELECT a.place, a.key, a.value, a.held, coalesce(a.held, 0) = a.revision AS wins, -- a revision is never 0
			c.revision + count(*) FILTER (WHERE coalesce(a.held, 0) = a.revision) OVER (ORDER BY a.place) AS next,
			c.total + coalesce(sum(a.size) FILTER (WHERE coalesce(a.held, 0) = a.revision) OVER (ORDER BY a.place), 0) AS upto
		FROM asked a, converge.counter c
	), put AS (
		INSERT INTO converge.entries (key, value, revision)
		SELECT key, value, next FROM judged WHERE wins AND value IS NOT NULL
		ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision
	), deleted AS (
		DELETE FROM converge.entries WHERE key = ANY (ARRAY(SELECT key FROM judged WHERE wins AND value IS NULL))
	), logged AS (
		INSERT INTO converge.changes (revision, total, key, value) SELECT next, upto, key, value FROM judged WHERE wins
	), counted AS (
		UPDATE converge.counter SET
			revision = coalesce((SELECT max(next) FROM judged), revision),
			total = coalesce((SELECT max(upto) FROM judged), total),
			compacted = greatest(compacted, coalesce((SELECT max(next) FROM judged), revision) - p_log)
	), marked AS (
		UPDATE converge.writers SET batch = p_batch, seen = now(),
			base = (SELECT revision FROM converge.counter),
			won = ARRAY(SELECT place::int FROM judged WHERE wins ORDER BY place)
		WHERE id = p_writer
	)
	SELECT j.place::int, coalesce(j.held, 0), CASE WHEN j.wins THEN j.next ELSE 0 END FROM judged j;

	SELECT revision INTO v_last FROM converge.counter;
	PERFORM pg_notify(p_channel, v_last::text);
END
$apply$;
`

// migrateWithin bounds the time that making the schema takes, the wait for others that make it included.
const migrateWithin = time.Minute

// migrate makes the schema and brings it up to date. Of several processes that start together one does it while the
// others wait.
func (s *Store) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, migrateWithin, errPatience)
	defer cancel()
	err := s.migrateNow(ctx)
	if err != nil && ctx.Err() != nil {
		return gaveUp(ctx, connectError(err))
	}
	if err != nil && codeOf(err) == "" && advice.In(err) == "" && !errors.Is(err, ErrNewerSchema) && !errors.Is(err, ErrOldServer) {
		return advice.On(connectError(err), "is PostgreSQL running, and does the URL lead to it?")
	}
	return explained(err)
}

func (s *Store) migrateNow(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	version, err := s.version(ctx, conn)
	if err != nil || version == len(migrations) {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, s.lockNumber()); err != nil {
			return fmt.Errorf("wait for others that make the schema: %w", err)
		}
		version, err := s.version(ctx, tx) // again: they may have done it
		if err != nil {
			return err
		}
		return s.upgrade(ctx, tx, version)
	})
}

type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version returns that of the schema, 0 if there is none, or an error if this program does not know it.
func (s *Store) version(ctx context.Context, q queryer) (version int, err error) {
	var there bool
	err = q.QueryRow(ctx, thereSQL, s.config.Schema).Scan(&there)
	if err == nil && there {
		err = q.QueryRow(ctx, s.sql.text(`SELECT max(version) FROM converge.version`)).Scan(&version)
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of schema %q: %w", s.config.Schema, err)
	}
	if version > len(migrations) {
		return 0, advice.On(fmt.Errorf("%w: schema %q has version %d, this program knows up to %d", ErrNewerSchema, s.config.Schema, version, len(migrations)),
			"run the program that last used it, or a newer one")
	}
	return version, nil
}

// thereSQL reads the catalog itself: to_regclass may answer from a cache that does not know what others have just made.
const thereSQL = `SELECT EXISTS (
	SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = 'version')`

func (s *Store) upgrade(ctx context.Context, tx pgx.Tx, version int) error {
	if version == 0 {
		if err := s.createSchema(ctx, tx); err != nil {
			return fmt.Errorf("create schema %q: %w", s.config.Schema, err)
		}
	}
	for ; version < len(migrations); version++ {
		text := s.sql.text(migrations[version]) + s.sql.text(fmt.Sprintf(`INSERT INTO converge.version VALUES (%d);`, version+1))
		if _, err := tx.Conn().PgConn().Exec(ctx, text).ReadAll(); err != nil {
			return fmt.Errorf("bring schema %q to version %d: %w", s.config.Schema, version+1, err)
		}
	}
	return nil
}

// createSchema leaves a schema alone that an administrator has made: whoever may not create any may use that one.
func (s *Store) createSchema(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, s.config.Schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := tx.Exec(ctx, `CREATE SCHEMA `+s.sql.schema); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, s.sql.text(`CREATE TABLE converge.version (version int PRIMARY KEY)`))
	return err
}

// lockNumber is the advisory lock under which the schema is made.
func (s *Store) lockNumber() int64 {
	h := fnv.New64a()
	h.Write([]byte("converge schema " + s.config.Schema))
	return int64(h.Sum64())
}

// statements are the texts that the store sends, with its schema in them.
type statements struct {
	schema  string // quoted
	channel string // of notifications

	get, revision, page, list, changes, changesBelow, apply, open, fence, forget string
}

func newStatements(schema string) statements {
	q := statements{schema: pgx.Identifier{schema}.Sanitize(), channel: "converge_" + schema}
	q.get = q.text(`SELECT value, revision FROM converge.entries WHERE key = $1`)
	q.revision = q.text(`SELECT revision FROM converge.counter`)
	q.page = q.text(pageSQL)
	q.list = q.text(`SELECT key, value, revision FROM converge.entries WHERE key >= $1 AND key < $2 ORDER BY key`)
	q.changes = q.text(fmt.Sprintf(changesSQL, ""))
	q.changesBelow = q.text(fmt.Sprintf(changesSQL, "AND key >= $4 AND key < $5"))
	q.apply = q.text(`SELECT place, held, written FROM converge.apply($1, $2, $3, $4, $5, $6, $7)`)
	q.open = q.text(`INSERT INTO converge.writers (id) VALUES ($1)`)
	q.fence = q.text(`UPDATE converge.writers SET fenced = true WHERE id = $1 RETURNING batch, base, won`)
	q.forget = q.text(`DELETE FROM converge.writers WHERE id = $1`)
	return q
}

// changesSQL reads a page of the log: changes after $1, at most $2 of them, and no more once they exceed $3 bytes. Each row
// tells how far the log goes as well; there is one without a change if none is due.
const changesSQL = `SELECT c.compacted, c.revision, p.revision, p.key, p.value FROM converge.counter c LEFT JOIN LATERAL (
	SELECT revision, key, value, sum(coalesce(octet_length(value), 0)) OVER (ORDER BY revision) - coalesce(octet_length(value), 0) AS before FROM (
		SELECT revision, key, value FROM converge.changes WHERE revision > $1 %s ORDER BY revision LIMIT $2
	) page
) p ON p.before < $3 ORDER BY p.revision`

// pageSQL reads entries from $1 to before $2, with the same bounds, and the revision of the moment.
const pageSQL = `SELECT c.revision, p.key, p.value, p.revision FROM converge.counter c LEFT JOIN LATERAL (
	SELECT key, value, revision, sum(octet_length(value)) OVER (ORDER BY key) - octet_length(value) AS before FROM (
		SELECT key, value, revision FROM converge.entries WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3
	) page
) p ON p.before < $4 ORDER BY p.key`

// text puts the schema into a statement.
func (q statements) text(sql string) string {
	return strings.ReplaceAll(sql, "converge.", q.schema+".")
}
