package mesh

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/transport"
)

// Reasons for which a mesh itself turns away or ends a connection; those of handshakes are in peertls.
const (
	TooMany            peertls.Reason = "too_many"              // connections, in all
	TooManyFromAddress peertls.Reason = "too_many_from_address" // connections, from one address
	Evicted            peertls.Reason = "evicted"               // a handshake, by younger ones
	Accepting          peertls.Reason = "accept"                // the system gave no connection: out of descriptors
	FrameTooLarge      peertls.Reason = "frame_too_large"       // a frame was announced that is over the limit
	Malformed          peertls.Reason = "malformed"             // not a frame of ours
	Stalled            peertls.Reason = "stalled"               // a frame, or the taking of ours, made no progress
	Idle               peertls.Reason = "idle"                  // nothing came, not even a ping
	Duplicate          peertls.Reason = "duplicate"             // a second connection of a pair
)

// Reasons lists all of them, and those of peertls.
var Reasons = append([]peertls.Reason{TooMany, TooManyFromAddress, Evicted, Accepting, FrameTooLarge, Malformed,
	Stalled, Idle, Duplicate}, peertls.Reasons...)

// quiet are the reasons that any passer-by can cause, and those that are part of ordinary life: they are
// logged at debug, the others at warn.
var quiet = []peertls.Reason{peertls.NotTLS, peertls.Timeout, peertls.Handshake, Evicted, Duplicate}

// logPause is the least time between two lines of the log for one reason.
const logPause = time.Second

// ledger counts what happens, and logs some of it.
type ledger struct {
	log     *slog.Logger
	refused map[peertls.Reason]*stat.Counter

	opened, closed                         stat.Counter
	framesIn, framesOut, bytesIn, bytesOut stat.Counter
	lost                                   stat.Counter

	mu    sync.Mutex
	lines map[peertls.Reason]*line
}

// line is the log's memory of one reason.
type line struct {
	last       time.Time
	suppressed int
}

func newLedger(log *slog.Logger, k Kind) *ledger {
	l := &ledger{log: log, refused: map[peertls.Reason]*stat.Counter{}, lines: map[peertls.Reason]*line{}}
	reasons := Reasons
	if own, ok := k.(Reasoner); ok {
		reasons = slices.Concat(reasons, own.Reasons())
	}
	for _, r := range reasons {
		l.refused[r] = &stat.Counter{}
		l.lines[r] = &line{}
	}
	return l
}

// refuse counts and logs that something was turned away.
func (l *ledger) refuse(reason peertls.Reason, err error, attrs ...slog.Attr) {
	if l.refused[reason] == nil {
		reason = peertls.Handshake
	}
	l.refused[reason].Inc()
	suppressed, due := l.due(reason)
	if !due {
		return
	}
	level := slog.LevelWarn
	if slices.Contains(quiet, reason) {
		level = slog.LevelDebug
	}
	attrs = append(attrs, slog.String("reason", string(reason)), slog.Any("error", err), slog.Int("suppressed", suppressed))
	l.log.LogAttrs(context.Background(), level, "connection refused", attrs...)
}

// due says whether there may be a line for that reason now, and how many there might have been since the
// last one.
func (l *ledger) due(reason peertls.Reason) (suppressed int, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, now := l.lines[reason], time.Now()
	if !at.last.IsZero() && now.Sub(at.last) < logPause {
		at.suppressed++
		return 0, false
	}
	suppressed = at.suppressed
	at.last, at.suppressed = now, 0
	return suppressed, true
}

func (l *ledger) stats() transport.Stats {
	opened, closed := l.opened.Load(), l.closed.Load()
	s := transport.Stats{
		Opened: opened, Closed: closed, Connections: int(max(0, int64(opened-closed))),
		FramesIn: l.framesIn.Load(), FramesOut: l.framesOut.Load(),
		BytesIn: l.bytesIn.Load(), BytesOut: l.bytesOut.Load(),
		Lost: l.lost.Load(), Refused: map[string]uint64{},
	}
	for reason, counter := range l.refused {
		s.Refused[string(reason)] = counter.Load()
	}
	return s
}
