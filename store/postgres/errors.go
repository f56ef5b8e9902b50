package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/store"
)

// Errors that callers branch on with [errors.Is], besides those of package store.
var (
	// ErrUnavailable means that the server did not answer within Config.Patience. A change that ended so may
	// have happened only if its error says so.
	ErrUnavailable = errors.New("PostgreSQL does not answer")

	// ErrNewerSchema means that a newer version of this package has changed the schema.
	ErrNewerSchema = errors.New("the schema is newer than this program")

	ErrOldServer = errors.New("PostgreSQL is too old")
	ErrUnsynced  = errors.New("PostgreSQL does not sync what it acknowledges")
)

// Causes of contexts that end within the package, and refusals of the function that applies changes.
var (
	errPatience = errors.New("patience is over")
	errStalled  = errors.New("the loop over a long list stood still for too long")
	errReadOnly = advice.On(errors.New("the server takes no writes"), hints["25006"])
)

// doubtful is the error of a change that may have happened.
func doubtful(cause error) error { return fmt.Errorf("the change may have happened: %w", cause) }

// connectError replaces the driver's error, which carries the whole configuration with the password in it.
func connectError(err error) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	text := strings.Join(strings.Fields(redact(connect.Error(), connect.Config.Password)), " ")
	cause := &causeError{text: text}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		cause.answer = answer
	}
	if errors.Is(err, pgconn.ErrReadOnlyConnection) {
		return advice.On(cause, hints["25006"])
	}
	return cause
}

// causeError is what is left of an error without its secrets.
type causeError struct {
	text   string
	answer error // of the server, or nil
}

func (e *causeError) Error() string { return e.text }
func (e *causeError) Unwrap() error { return e.answer }

// redact keeps a password out of a text in which it should not be anyway.
func redact(text, password string) string {
	if password == "" {
		return text
	}
	return strings.ReplaceAll(text, password, "[password]")
}

// explained returns err without secrets, as an error of package store where there is one that fits, and with advice
// where there is some.
func explained(err error) error {
	err = connectError(err)
	code := codeOf(err)
	if code == "53100" {
		return advice.On(fmt.Errorf("%w: %w", store.ErrFull, err), "the disk of PostgreSQL is full: make room there")
	}
	if hint := hints[code]; hint != "" && advice.In(err) == "" {
		return advice.On(err, hint)
	}
	return err
}

var hints = map[string]string{
	"28P01": "check user and password of the URL",
	"28000": "check the user of the URL, and whether pg_hba.conf lets it in from here (with TLS, perhaps)",
	"3D000": "create the database first: createdb NAME",
	"42501": "the user of the URL has to own the schema, or be allowed to create it: GRANT CREATE ON DATABASE … TO …",
	"42P01": "tables of the schema are gone: restore them, or drop the schema and start anew",
	"42883": "the function of the schema is gone: restore it, or drop the schema and start anew",
	"3F000": "the schema is gone: restore it, or start anew",
	"42P07": "the schema holds tables of something else: choose another with Schema",
	"53300": "raise max_connections of the server, or lower Connections",
	"25006": "the server takes no writes: name the primary, or all servers, in the URL",
}

// codeOf returns the SQLSTATE of the server's answer, "" if there was none.
func codeOf(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// decided reports whether the server said that a transaction did not happen. An answer that ends the session says
// nothing about it.
func decided(err error) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return pgconn.SafeToRetry(err)
	}
	severity := answer.SeverityUnlocalized
	if severity == "" {
		severity = answer.Severity
	}
	return severity == "ERROR"
}

// passing reports whether a failure may be gone at the next attempt: no answer, or one that speaks of a server in
// trouble, starting or ending, of a lock, or of a standby.
func passing(err error) bool {
	if errors.Is(err, ErrOldServer) || errors.Is(err, ErrUnsynced) || errors.Is(err, ErrNewerSchema) {
		return false
	}
	code := codeOf(err)
	if code == "" || code == "25006" || code == "55P03" || code == "57014" {
		return true
	}
	switch code[:2] {
	case "08", "40", "57", "58", "XX":
		return true
	case "53":
		return code != "53100"
	}
	return false
}

// gaveUp says why a call ended that waited for the server: its context, Close, or patience with the last failure.
func gaveUp(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if cause != errPatience {
		return cause
	}
	if last == nil {
		return ErrUnavailable
	}
	err := fmt.Errorf("%w: %w", ErrUnavailable, last)
	if advice.In(last) != "" {
		return err
	}
	return advice.On(err, "is PostgreSQL running, and does the URL lead to it?")
}
