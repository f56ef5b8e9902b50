package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/converge-agents/converge/internal/advice"
)

// oldest version of PostgreSQL that will do.
const oldest = 130000

// connect makes a connection of its own, ready for use.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	link := s.link.Copy()
	if err := s.authenticate(ctx, link); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, link)
	if err != nil {
		return nil, connectError(err)
	}
	if err := s.prepare(ctx, conn); err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

func (s *Store) newPool(config *pgxpool.Config) (*pgxpool.Pool, error) {
	config.BeforeConnect = s.authenticate
	config.AfterConnect = s.prepare
	return pgxpool.NewWithConfig(context.Background(), config) // it connects when it has to
}

func (s *Store) authenticate(ctx context.Context, link *pgx.ConnConfig) error {
	if s.config.Password == nil {
		return nil
	}
	password, err := s.config.Password(ctx)
	if err != nil {
		return fmt.Errorf("ask for the password: %w", err)
	}
	link.Password = password
	return nil
}

// prepare asserts what every session has to have.
func (s *Store) prepare(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var fsync, commit string
	if err := conn.QueryRow(ctx, sessionSQL).Scan(&version, &fsync, &commit); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	if err := suits(version, fsync, commit, s.config.UnsyncedUnsafe); err != nil {
		return err
	}
	if _, err := conn.PgConn().Exec(ctx, settingsSQL).ReadAll(); err != nil {
		return fmt.Errorf("set up the session: %w", err)
	}
	return nil
}

// sessionSQL switches synchronous_commit on where it is weaker, and tells what it is then.
const sessionSQL = `SELECT current_setting('server_version_num')::int, current_setting('fsync'),
	CASE WHEN current_setting('synchronous_commit') IN ('on', 'remote_apply') THEN current_setting('synchronous_commit')
	ELSE set_config('synchronous_commit', 'on', false) END`

// suits says what is wrong with a server.
func suits(version int, fsync, commit string, unsynced bool) error {
	switch {
	case version < oldest:
		return fmt.Errorf("%w: it is of version %d, and 13 is the oldest that will do", ErrOldServer, version/10000)
	case fsync != "on" && !unsynced:
		return advice.On(fmt.Errorf("%w: fsync is %q", ErrUnsynced, fsync), "set fsync = on in postgresql.conf and reload it")
	case commit != "on" && commit != "remote_apply":
		return fmt.Errorf("%w: synchronous_commit is %q", ErrUnsynced, commit)
	}
	return nil
}

// settingsSQL asks for plans that cost the same in an empty and in a full table, whatever the statistics say, and that
// are not made anew for each call. Keepalives let the server notice a client that is gone, and so release what that
// client has locked.
const settingsSQL = `SET search_path = pg_catalog; SET client_encoding = 'UTF8'; SET jit = off;
	SET plan_cache_mode = force_generic_plan;
	SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off;
	SET enable_hashjoin = off; SET enable_mergejoin = off;
	SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`
