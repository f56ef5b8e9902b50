// Package pgtest gives tests a real PostgreSQL server, from the packages of the operating system, in a
// temporary directory. It syncs as in production, but where there is a file system in memory that is large enough, and
// TMPDIR does not say otherwise, there is no disk to wait for.
//
// [Shared] is one server for all tests of a binary, whose TestMain calls [Stop]; each test uses a schema of
// its own ([Name]). [New] is a server for one test, which may be killed and started again. A test is skipped
// where PostgreSQL is not installed, and fails there if CONVERGE_REQUIRE_SERVICES is 1.
//
// A server is a child of the test binary. On Linux it ends with it, also when the binary crashes; its
// directory then stays until the next server starts.
package pgtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Login of the server's superuser. A test may look for the password where it must not appear.
const (
	User     = "converge"
	Password = "s3cret-Of-The-Tests"
)

// Name returns a name that nobody else has: for a schema, a database or a role.
func Name() string { return "t_" + strings.ToLower(rand.Text()) }

// URL returns how the superuser reaches the server, by way of addr if one is given.
func (s *Server) URL(addr ...string) string {
	host := s.Addr
	if len(addr) > 0 {
		host = addr[0]
	}
	return fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable", User, Password, host)
}

// unavailable ends a test that needs a server.
func unavailable(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CONVERGE_REQUIRE_SERVICES") == "1" {
		t.Fatalf("%s, and CONVERGE_REQUIRE_SERVICES is 1", why)
	}
	t.Skip(why)
}
