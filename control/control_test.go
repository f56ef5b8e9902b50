//go:build unix

package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/policy"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/tool"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CONVERGE_TEST_DIAL"); path != "" {
		os.Exit(dialAs(path))
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// shortDir returns a folder whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type fixture struct {
	dir       string
	approvals *approval.Service
	client    *control.Client
	stop      func()
}

// me is what records say of the user of this test.
func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s (uid %s)", u.Username, u.Uid)
}

// serve runs a server of approvals until the test ends.
func serve(t *testing.T) *fixture {
	t.Helper()
	return serveWith(t, func(*control.Config) {})
}

func serveWith(t *testing.T, configure func(*control.Config)) *fixture {
	t.Helper()
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{dir: shortDir(t)}
	f.approvals, err = approval.New(approval.Config{Store: s, Policy: policy.BuiltIn(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	c := control.Config{Dir: f.dir, Approvals: f.approvals, Logger: quiet}
	configure(&c)
	server, err := control.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	f.client = control.NewClient(f.dir)
	f.stop = func() {
		f.client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(f.stop)
	return f
}

// ask begins a call and returns its request and where its end will be told.
func (f *fixture) ask(t *testing.T, task string) (approval.Request, <-chan error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		ended <- f.approvals.Approve(t.Context(), tool.Request{
			Agent: "ada", Tool: "wipe", Annotations: tool.Annotations{Destructive: true}, Params: json.RawMessage(`{"disk": "sda"}`), TaskID: task,
		})
	}()
	for {
		waiting, _, err := f.client.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range waiting {
			if r.TaskID == task {
				return r, ended
			}
		}
	}
}

func TestDecisionsComeThroughTheSocket(t *testing.T) {
	t.Parallel()
	f := serve(t)
	r, ended := f.ask(t, "t-1")
	if shown, err := f.client.Get(t.Context(), r.ID); err != nil || shown.Params != `{"disk":"sda"}` || shown.State != approval.Waiting {
		t.Errorf("shown is %+v, %v", shown, err)
	}
	decided, err := f.client.Decide(t.Context(), r.ID, true, "go ahead", "ada's boss")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("an allowed call: %v", err)
	}
	if want := me(t); decided.By != want || decided.Claimed != "ada's boss" || decided.Note != "go ahead" || decided.State != approval.Allowed {
		t.Errorf("decided by %q, want %q: %+v", decided.By, want, decided)
	}
	r, ended = f.ask(t, "t-2")
	if _, err := f.client.Decide(t.Context(), r.ID, false, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, approval.ErrRefused) {
		t.Errorf("a denied call: %v", err)
	}
	if _, past, err := f.client.List(t.Context()); err != nil || len(past) != 2 || past[0].State != approval.Allowed || past[1].State != approval.Denied {
		t.Errorf("ended are %+v, %v", past, err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	f := serve(t)
	if _, err := f.client.Decide(t.Context(), "0123456789abcdef", true, "", ""); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := f.client.Get(t.Context(), "../../etc"); !errors.Is(err, approval.ErrUnknown) {
		t.Errorf("no ID: %v", err)
	}
	r, ended := f.ask(t, "t-1")
	if _, err := f.client.Decide(t.Context(), r.ID, false, "", ""); err != nil {
		t.Fatal(err)
	}
	<-ended
	if _, err := f.client.Decide(t.Context(), r.ID, true, "", ""); !errors.Is(err, approval.ErrDecided) {
		t.Errorf("decided already: %v", err)
	}
	f.stop()
	if _, err := f.client.Decide(t.Context(), r.ID, true, "", ""); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(f.dir, control.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// raw sends bytes that the client would not send.
func (f *fixture) raw(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(f.dir, control.SocketName))
		},
	}}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestMalformedDecisionsDecideNothing(t *testing.T) {
	t.Parallel()
	f := serve(t)
	r, ended := f.ask(t, "t-1")
	for name, body := range map[string]string{
		"empty":         ``,
		"no decision":   `{}`,
		"another":       `{"decision": "allow!"}`,
		"unknown field": `{"decision": "allow", "uid": 0}`,
		"by others":     `{"decision": "allow", "by": "root (uid 0)"}`,
		"two":           `{"decision": "allow"} {"decision": "deny"}`,
		"too large":     `{"decision": "allow", "note": "` + strings.Repeat("x", control.MaxBody) + `"}`,
		"long note":     `{"decision": "allow", "note": "` + strings.Repeat("x", approval.MaxNote+1) + `"}`,
	} {
		if status, text := f.raw(t, "POST", "/v1/approvals/"+r.ID, body); status != http.StatusBadRequest || !strings.Contains(text, `"code":"invalid"`) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if status, _ := f.raw(t, method, "/v1/approvals/"+r.ID, `{"decision": "allow"}`); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, status)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the call ended: %v", err)
	default:
	}
	if _, err := f.client.Decide(t.Context(), r.ID, false, "", ""); err != nil {
		t.Error(err)
	}
	<-ended
}

func TestSocketIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	f := serve(t)
	info, err := os.Lstat(filepath.Join(f.dir, control.SocketName))
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestLiveSocketIsNotStolen(t *testing.T) {
	t.Parallel()
	f := serve(t)
	if _, err := control.Listen(control.Config{Dir: f.dir, Approvals: f.approvals, Logger: quiet}); !errors.Is(err, control.ErrInUse) {
		t.Errorf("a second server: %v", err)
	}
	if _, _, err := f.client.List(t.Context()); err != nil {
		t.Errorf("the first: %v", err)
	}
}

func TestSocketOfDeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, control.SocketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	client := control.NewClient(dir)
	defer client.Close()
	if _, _, err := client.List(t.Context()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("nobody serves: %v", err)
	}
	s, err := control.Listen(control.Config{Dir: dir, Approvals: new(approval.Service), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestPlacesThatCannotHaveASocket(t *testing.T) {
	t.Parallel()
	hint := func(err error) string {
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			return hinted.Hint()
		}
		return ""
	}
	dir := shortDir(t)
	deep := filepath.Join(dir, strings.Repeat("d", 120))
	taken, open := filepath.Join(dir, "taken"), filepath.Join(dir, "open")
	for _, d := range []string{deep, taken, open} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(taken, control.SocketName), []byte("precious"), 0o600), os.Chmod(open, 0o770)); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[string]string{deep: "shorter path", taken: "move it away", open: "chmod go-w"} {
		_, err := control.Listen(control.Config{Dir: d, Approvals: new(approval.Service), Logger: quiet})
		if err == nil || !strings.Contains(hint(err), want) || (d == deep) != errors.Is(err, control.ErrTooLong) {
			t.Errorf("%s: %v, hint %q", d, err, hint(err))
		}
	}
	if data, err := os.ReadFile(filepath.Join(taken, control.SocketName)); err != nil || !bytes.Equal(data, []byte("precious")) {
		t.Errorf("a file was in the way, and is now %q, %v", data, err)
	}
	if _, err := control.Listen(control.Config{Dir: filepath.Join(dir, "none"), Approvals: new(approval.Service)}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	client := control.NewClient(deep)
	defer client.Close()
	if _, _, err := client.List(t.Context()); !errors.Is(err, control.ErrTooLong) {
		t.Errorf("asking there: %v", err)
	}
}

func TestHangingConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	f := serve(t)
	path := filepath.Join(f.dir, control.SocketName)
	var hanging []net.Conn
	for range control.MaxConnections {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("GET /v1/app")); err != nil {
			t.Fatal(err)
		}
		hanging = append(hanging, conn)
	}
	next, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := next.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := next.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more connection is not closed: %v", err)
	}
	for _, conn := range hanging {
		conn.Close()
	}
	for giveUp := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		_, _, err := f.client.List(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(giveUp) {
			t.Fatal(err)
		}
	}
}

func TestConnectionsEndWhenTheListenerFails(t *testing.T) {
	dir := shortDir(t)
	s, err := memory.New(memory.Config{})
	if err != nil {
		t.Fatal(err)
	}
	approvals, err := approval.New(approval.Config{Store: s, Policy: policy.BuiltIn(), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	server, err := control.Listen(control.Config{Dir: dir, Approvals: approvals, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(context.Background()) }()
	conn, err := net.Dial("unix", filepath.Join(dir, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // idle connections are ended much later
	if _, err := io.WriteString(conn, "GET /v1/approvals HTTP/1.1\r\nHost: control\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("Run does not tell that its listener has failed")
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection goes on: %v", err)
	}
}
