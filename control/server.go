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
	"sync"
	"time"

	"github.com/converge-agents/converge/approval"
)

// Config configures a [Server].
type Config struct {
	Dir       string       // the state directory; required, and there
	Approvals Approvals    // required
	Logger    *slog.Logger // nil means slog.Default
}

// Server serves the API of one network. Run it once, or close it.
type Server struct {
	approvals Approvals
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
	s := &Server{approvals: c.Approvals, log: cmp.Or(c.Logger, slog.Default())}
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
	server := &http.Server{
		Handler:           s.handler(),
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

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/approvals", s.list)
	mux.HandleFunc("GET /v1/approvals/{id}", s.get)
	mux.HandleFunc("POST /v1/approvals/{id}", s.decide)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), handleTimeout)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	all, err := s.approvals.List(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	body := listBody{Approvals: all}
	if r.URL.Query().Get("ended") == "true" {
		body.Ended = s.approvals.Ended()
	}
	reply(w, http.StatusOK, body)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	found, err := s.approvals.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		s.fail(w, err)
		return
	}
	reply(w, http.StatusOK, found)
}

func (s *Server) decide(w http.ResponseWriter, r *http.Request) {
	d, err := readDecision(r)
	if err != nil {
		reply(w, http.StatusBadRequest, errorBody{err.Error(), CodeInvalid})
		return
	}
	decided, err := s.approvals.Decide(r.Context(), r.PathValue("id"), d)
	if err != nil {
		s.fail(w, err)
		return
	}
	reply(w, http.StatusOK, decided)
}

// readDecision takes who decides from the connection, and the rest from the body.
func readDecision(r *http.Request) (approval.Decision, error) {
	var body decisionBody
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		return approval.Decision{}, fmt.Errorf("the body is no decision: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return approval.Decision{}, errors.New("the body is more than a decision")
	}
	if body.Decision != "allow" && body.Decision != "deny" {
		return approval.Decision{}, fmt.Errorf("decision is allow or deny, not %.32q", body.Decision)
	}
	if len(body.Note) > approval.MaxNote || len(body.As) > approval.MaxBy {
		return approval.Decision{}, fmt.Errorf("note has at most %d bytes, and as %d", approval.MaxNote, approval.MaxBy)
	}
	by, _ := r.Context().Value(peerKey{}).(peer)
	return approval.Decision{Allow: body.Decision == "allow", By: by.String(), Claimed: body.As, Note: body.Note}, nil
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
