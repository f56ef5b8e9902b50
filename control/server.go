package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/converge-agents/converge/approval"
)

// Config configures a [Server].
type Config struct {
	Dir       string       // the state directory; required, and there
	Approvals Approvals    // required
	Tasks     Tasks        // nil: they are not served
	Keys      Keys         // nil: they are not served
	Logger    *slog.Logger // nil means slog.Default
}

// Server serves the API of one network. Run it once, or close it.
type Server struct {
	approvals Approvals
	tasks     Tasks
	keys      Keys
	log       *slog.Logger
	listener  *guarded
	release   func() error
}

// Listen takes the socket of the state directory; nothing is served before [Server.Run]. Its error wraps
// [ErrInUse] if a live process has the socket, and [ErrTooLong] for a path that the system cannot have; errors may
// have a method Hint() string.
func Listen(c Config) (*Server, error) {
	switch {
	case c.Dir == "":
		return nil, errors.New("control: Dir is required")
	case c.Approvals == nil:
		return nil, errors.New("control: Approvals is required")
	}
	listener, release, err := listen(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &Server{approvals: c.Approvals, tasks: c.Tasks, keys: c.Keys, log: cmp.Or(c.Logger, slog.Default())}
	s.release = sync.OnceValue(release)
	s.listener = &guarded{UnixListener: listener, refused: func(why string, p peer) {
		s.log.Warn("control connection refused", "peer", p.String(), "reason", why)
	}}
	return s, nil
}

// Addr returns the path of the socket.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, gives those that are being served a moment, and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	acts, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := &http.Server{
		Handler:           s.handler(acts),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, conn.(*guardedConn).peer)
		},
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	var err error
	select {
	case err = <-served:
		_ = server.Close() // those that are being served; the listener has failed
	case <-ctx.Done():
		err = shutdown(server)
		<-served
	}
	return errors.Join(err, s.Close())
}

// shutdown ends a server, at once if it takes long.
func shutdown(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

// Close gives the socket back. Run does it too; closing twice is fine.
func (s *Server) Close() error { return s.release() }

type peerKey struct{}

// handler serves the API. What a request does to the network is cut short at the end of acts at the latest.
func (s *Server) handler(acts context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/approvals", s.list)
	mux.HandleFunc("GET /v1/approvals/{id}", s.get)
	mux.HandleFunc("POST /v1/approvals/{id}", s.decide)
	if s.tasks != nil {
		mux.HandleFunc("GET /v1/tasks", s.listTasks)
		mux.HandleFunc("GET /v1/tasks/{id}", s.getTask)
		mux.HandleFunc("POST /v1/tasks/{id}", s.actOnTask)
	}
	if s.keys != nil {
		mux.HandleFunc("GET /v1/keys/quarantine", s.listQuarantined)
		mux.HandleFunc("POST /v1/keys/quarantine/{agent}", s.actOnQuarantine)
		mux.HandleFunc("POST /v1/keys/statements", s.applyStatement)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := timeOf(r, acts)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

// timeOf returns the context of a request. Only to look ends with the client: what was begun for one that vanishes is
// carried through, so that a revocation that is in force here is told to others.
func timeOf(r *http.Request, acts context.Context) (context.Context, context.CancelFunc) {
	if r.Method == http.MethodGet {
		return context.WithTimeout(r.Context(), handleTimeout)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), handleTimeout)
	stop := context.AfterFunc(acts, cancel)
	return ctx, func() { stop(); cancel() }
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	all, err := s.approvals.List(r.Context())
	body := listBody{Approvals: all}
	if r.URL.Query().Get("ended") == "true" {
		body.Ended = s.approvals.Ended()
	}
	s.answer(w, body, err)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	found, err := s.approvals.Get(r.Context(), r.PathValue("id"))
	s.answer(w, found, err)
}

func (s *Server) decide(w http.ResponseWriter, r *http.Request) {
	d, err := readDecision(r)
	if err != nil {
		invalid(w, err)
		return
	}
	decided, err := s.approvals.Decide(r.Context(), r.PathValue("id"), d)
	s.answer(w, decided, err)
}

// readDecision takes who decides from the connection, and the rest from the body.
func readDecision(r *http.Request) (approval.Decision, error) {
	var body decisionBody
	if err := readBody(r, &body, "decision"); err != nil {
		return approval.Decision{}, err
	}
	if body.Decision != "allow" && body.Decision != "deny" {
		return approval.Decision{}, fmt.Errorf("decision is allow or deny, not %.32q", body.Decision)
	}
	a, err := authorOf(r, body.Note, body.As)
	return approval.Decision{Allow: body.Decision == "allow", By: a.By, Claimed: a.Claimed, Note: a.Note}, err
}

// readAction is readDecision for one of several acts.
func readAction(r *http.Request, possible ...string) (action string, a Author, err error) {
	var body actionBody
	if err := readBody(r, &body, "action"); err != nil {
		return "", a, err
	}
	if !slices.Contains(possible, body.Action) {
		return "", a, fmt.Errorf("action is %s, not %.32q", strings.Join(possible, " or "), body.Action)
	}
	a, err = authorOf(r, body.Note, body.As)
	return body.Action, a, err
}

// readBody reads a body that is one JSON object of known fields, and nothing else.
func readBody(r *http.Request, body any, what string) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(body); err != nil {
		return fmt.Errorf("the body is no %s: %w", what, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the body is more than one %s", what)
	}
	return nil
}

// authorOf returns who has sent a request: the connection says it, and what the body says is kept as claimed.
func authorOf(r *http.Request, note, as string) (Author, error) {
	if len(note) > approval.MaxNote || len(as) > approval.MaxBy {
		return Author{}, fmt.Errorf("note has at most %d bytes, and as %d", approval.MaxNote, approval.MaxBy)
	}
	by, _ := r.Context().Value(peerKey{}).(peer)
	return Author{By: by.String(), Claimed: as, Note: note}, nil
}

func invalid(w http.ResponseWriter, err error) {
	reply(w, http.StatusBadRequest, errorBody{err.Error(), CodeInvalid})
}

// answer tells what was found or done, or the error.
func (s *Server) answer(w http.ResponseWriter, body any, err error) {
	if err != nil {
		s.fail(w, err)
		return
	}
	reply(w, http.StatusOK, body)
}

// fail tells an error, and the log what is wrong here.
func (s *Server) fail(w http.ResponseWriter, err error) {
	for code, cause := range causes {
		if errors.Is(err, cause) {
			reply(w, statuses[code], errorBody{err.Error(), code})
			return
		}
	}
	s.log.Error("control request failed", "error", err)
	reply(w, statuses[CodeFailed], errorBody{err.Error(), CodeFailed})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked has gone
}
