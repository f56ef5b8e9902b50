package postgres

import (
	"context"
	"time"
)

// Bounds of one step of pruning, and how long a session that does not write is remembered.
const (
	pruneChunk  = 4096
	rememberFor = "1 day"
)

// count notes what was written, and asks for pruning when an eighth of a bound has come together.
func (w *writer) count(a *attempt) {
	w.written += int64(len(a.leaders))
	for _, c := range a.leaders {
		w.bytes += c.weight - changeBytes
	}
	if w.written < min(int64(w.s.config.MaxLog)/8, pruneChunk) && w.bytes < w.s.config.MaxLogBytes/8 {
		return
	}
	w.written, w.bytes = 0, 0
	select {
	case w.due <- struct{}{}:
	default:
	}
}

// prune removes changes beyond the bounds from the log when that is due.
func (w *writer) prune() {
	for {
		select {
		case <-w.due:
		case <-w.s.ctx.Done():
			return
		}
		if err := w.s.prune(w.s.ctx); err != nil && w.s.ctx.Err() == nil {
			w.s.log.Warn("postgres store: old changes were not removed from the log", "schema", w.s.config.Schema, "error", explained(err))
		}
	}
}

func (s *Store) prune(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := s.pool.Exec(ctx, s.sql.text(sweepSQL)); err != nil {
		return err
	}
	for {
		if _, err := s.pool.Exec(ctx, s.sql.text(compactSQL), pruneChunk, s.config.MaxLogBytes); err != nil {
			return err
		}
		gone, err := s.pool.Exec(ctx, s.sql.text(pruneSQL), pruneChunk)
		if err != nil || gone.RowsAffected() < pruneChunk {
			return err
		}
	}
}

// compactSQL forgets the oldest changes while the log holds too many bytes. It locks the counter only if there are any.
const compactSQL = `UPDATE converge.counter SET compacted = greatest(compacted, b.bound) FROM (
	SELECT max(p.revision) AS bound FROM converge.counter c, LATERAL (
		SELECT revision, total - octet_length(key) - coalesce(octet_length(value), 0) AS before
		FROM converge.changes ORDER BY revision LIMIT $1
	) p WHERE p.before < c.total - $2::bigint AND p.revision < c.revision
) b WHERE b.bound > compacted`

const pruneSQL = `DELETE FROM converge.changes WHERE revision <= (
	SELECT least(c.compacted, (SELECT max(p.revision) FROM (SELECT revision FROM converge.changes ORDER BY revision LIMIT $1) p))
	FROM converge.counter c)`

const sweepSQL = `DELETE FROM converge.writers WHERE seen < now() - interval '` + rememberFor + `'`
