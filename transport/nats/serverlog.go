package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// serverLog takes the embedded server's log. What a server calls a notice is debug here; warnings and
// errors are at warn, one of each a second, since strangers can cause them. It also counts what the server
// turns away, of which it tells in no other way.
type serverLog struct {
	log      *slog.Logger
	counters *counters
	warned   occasion
	failed   occasion
	fatal    atomic.Pointer[string]
}

// Noticef implements server.Logger.
func (l *serverLog) Noticef(format string, v ...any) {
	if strings.Contains(format, "Slow Consumer") && !strings.Contains(format, "Recovered") {
		l.counters.refuse(refusedSlowConsumer, "the embedded server gives up a connection that does not read", "server_says", text(format, v))
		return
	}
	l.debug(format, v)
}

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords") {
		return // it means its configuration file; here they come from secrets
	}
	if l.warned.now() {
		l.log.Warn("nats: embedded server: " + text(format, v))
	}
}

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) {
	said := text(format, v)
	switch {
	case strings.Contains(said, "authentication error"):
		l.counters.refuse(refusedUnauthorized, "the embedded server refuses a login", "server_says", said)
	case strings.Contains(said, "TLS handshake error"):
		l.counters.refuse(refusedCertificate, "the embedded server refuses a TLS handshake", "server_says", said)
	case strings.Contains(said, "parser ERROR"), strings.Contains(said, "maximum control line"), strings.Contains(said, "maximum payload"):
		l.counters.refuse(refusedMalformed, "the embedded server refuses what is not its protocol", "server_says", said)
	case l.failed.now():
		l.log.Warn("nats: embedded server: " + said)
	}
}

// Fatalf implements server.Logger. It does not end the process.
func (l *serverLog) Fatalf(format string, v ...any) {
	said := text(format, v)
	l.fatal.CompareAndSwap(nil, &said)
	l.log.Error("nats: embedded server: " + said)
}

// Debugf implements server.Logger.
func (l *serverLog) Debugf(format string, v ...any) { l.debug(format, v) }

// Tracef implements server.Logger.
func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) debug(format string, v []any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("nats: embedded server: " + text(format, v))
	}
}

// worst returns why the server does not start, if it said so.
func (l *serverLog) worst() error {
	if said := l.fatal.Load(); said != nil {
		return errors.New(*said)
	}
	return nil
}

// maxSaid bounds a line of the server's log: strangers' bytes may be in it.
const maxSaid = 500

func text(format string, v []any) string {
	said := strings.TrimSpace(fmt.Sprintf(format, v...))
	if len(said) > maxSaid {
		said = said[:maxSaid] + "…"
	}
	return said
}
