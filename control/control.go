// Package control lets whoever runs a network look after it while it runs: an HTTP API with JSON bodies, on a
// Unix socket in the state directory. [Server] serves it, and [Client] asks it.
//
//	GET  /v1/approvals       {"approvals": [REQUEST, …]}   calls that wait; with ?ended=true, "ended" has some that do not
//	GET  /v1/approvals/{id}  REQUEST
//	POST /v1/approvals/{id}  {"decision": "allow" | "deny", "note": TEXT, "as": NAME}  → REQUEST
//
//	GET  /v1/tasks           {"tasks": [TASK, …], "next": CURSOR}   a page; the query is that of [TaskQuery]
//	GET  /v1/tasks/{id}      TASK, with its content
//	POST /v1/tasks/{id}      {"action": "requeue" | "cancel", "note": TEXT, "as": NAME}  → TASK
//
//	GET  /v1/keys/quarantine          {"agents": [QUARANTINE, …], "total": NUMBER}
//	POST /v1/keys/quarantine/{agent}  {"action": "release", "note": TEXT, "as": NAME}  → QUARANTINE
//	POST /v1/keys/statements          {"statement": TEXT, "note": TEXT, "as": NAME}  → APPLIED
//
// A REQUEST is the JSON form of [approval.Request], a TASK that of [Task] or [TaskDetail], a QUARANTINE that of
// [Quarantine], and APPLIED that of [Applied]. An error is {"error": TEXT, "code": CODE}, see [Code].
//
// The socket has mode 0600, and only its owner and root are served: where the system says who is at the other end
// (Linux, macOS, FreeBSD), it is asked, and what it says is who decided, or did it. Elsewhere the modes of the socket and
// its directory are all that protects it. The name that "as" gives is kept as one that was only claimed.
//
// Connections are bounded in number, time and size, so that a client that hangs does not keep others out for long. What a
// client has asked to be done is carried through though the client vanishes, until the server ends.
package control

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/identity"
)

// SocketName is the name of the socket in the state directory.
const SocketName = "control.sock"

// Bounds of what is served.
const (
	MaxConnections = 32
	MaxBody        = 16 << 10 // bytes

	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 30 * time.Second
	handleTimeout = 20 * time.Second
)

// Errors that callers branch on.
var (
	ErrInUse      = errors.New("another process serves this state directory")
	ErrTooLong    = errors.New("the path of the socket is too long for this system")
	ErrNotRunning = errors.New("no network is running there")
	ErrOther      = errors.New("the network that runs there does not know this request: it is of another version of Converge")

	ErrInvalid   = errors.New("invalid request")
	ErrNotFound  = errors.New("not found")
	ErrState     = errors.New("not possible as things stand")
	ErrElsewhere = errors.New("not kept by this process")
)

// Approvals is what the server needs of an [approval.Service].
type Approvals interface {
	List(ctx context.Context) ([]approval.Request, error)
	Ended() []approval.Request
	Get(ctx context.Context, id string) (approval.Request, error)
	Decide(ctx context.Context, id string, d approval.Decision) (approval.Request, error)
}

// Author is who does something through the socket, for the records.
type Author struct {
	By      string // who it is, as the system says
	Claimed string // who they say that they are; may be "". At most [approval.MaxBy] bytes
	Note    string // why; may be "". At most [approval.MaxNote] bytes
}

// Code says what an error is about.
type Code string

// The codes, with the HTTP statuses that they come with.
const (
	CodeInvalid     Code = "invalid"     // 400: the request itself
	CodeUnknown     Code = "unknown"     // 404: no such approval
	CodeNotFound    Code = "not_found"   // 404: no such task or agent
	CodeDecided     Code = "decided"     // 409: somebody was first
	CodeState       Code = "state"       // 409: it is in a state in which that cannot be done
	CodeRolledBack  Code = "rolled_back" // 409: a later statement is known
	CodeRevoked     Code = "revoked"     // 409: the agent is revoked
	CodeQuarantined Code = "quarantined" // 409: the agent's root key contradicts itself
	CodeEnded       Code = "ended"       // 410: too late
	CodeElsewhere   Code = "elsewhere"   // 421: another process has it
	CodeFailed      Code = "failed"      // 500
)

var statuses = map[Code]int{
	CodeInvalid: http.StatusBadRequest, CodeUnknown: http.StatusNotFound, CodeNotFound: http.StatusNotFound,
	CodeDecided: http.StatusConflict, CodeState: http.StatusConflict,
	CodeRolledBack: http.StatusConflict, CodeRevoked: http.StatusConflict, CodeQuarantined: http.StatusConflict,
	CodeEnded: http.StatusGone, CodeElsewhere: http.StatusMisdirectedRequest, CodeFailed: http.StatusInternalServerError,
}

// causes are the errors that codes stand for, at both ends.
var causes = map[Code]error{
	CodeInvalid: ErrInvalid, CodeUnknown: approval.ErrUnknown, CodeNotFound: ErrNotFound,
	CodeDecided: approval.ErrDecided, CodeState: ErrState,
	CodeRolledBack: identity.ErrRolledBack, CodeRevoked: identity.ErrRevoked, CodeQuarantined: identity.ErrQuarantined,
	CodeEnded: approval.ErrEnded, CodeElsewhere: ErrElsewhere,
}

// The bodies of the API.
type (
	listBody struct {
		Approvals []approval.Request `json:"approvals"`
		Ended     []approval.Request `json:"ended,omitempty"`
	}
	decisionBody struct {
		Decision string `json:"decision"`
		Note     string `json:"note,omitempty"`
		As       string `json:"as,omitempty"`
	}
	actionBody struct {
		Action string `json:"action"`
		Note   string `json:"note,omitempty"`
		As     string `json:"as,omitempty"`
	}
	statementBody struct {
		Statement string `json:"statement"`
		Note      string `json:"note,omitempty"`
		As        string `json:"as,omitempty"`
	}
	errorBody struct {
		Error string `json:"error"`
		Code  Code   `json:"code"`
	}
)

// socketPath returns the path of the socket, as short as it can be written.
func socketPath(dir string) string {
	path := filepath.Join(dir, SocketName)
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	here, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	for _, other := range []string{abs, relative(here, abs)} {
		if other != "" && len(other) < len(path) {
			path = other
		}
	}
	return path
}

func relative(from, to string) string {
	path, err := filepath.Rel(from, to)
	if err != nil {
		return ""
	}
	return path
}
