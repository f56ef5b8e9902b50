//go:build !unix

package pgtest

import "testing"

// Server is a PostgreSQL server; there is none on this system.
type Server struct{ Addr string }

const nowhere = "tests start PostgreSQL on Unix only"

func Shared(t testing.TB) *Server           { unavailable(t, nowhere); return nil }
func New(t testing.TB, _ ...string) *Server { unavailable(t, nowhere); return nil }
func Stop()                                 {}
func (s *Server) Start() error              { return nil }
func (s *Server) Stop()                     {}
func (s *Server) Kill()                     {}
func (s *Server) Pause() []int              { return nil }
func (s *Server) Resume()                   {}
func (s *Server) LogFile() string           { return "" }
