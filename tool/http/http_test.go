package http_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/held"
	"github.com/converge-agents/converge/tool"
	toolhttp "github.com/converge-agents/converge/tool/http"
)

func TestParamsStayInTheirPlaces(t *testing.T) {
	s := newServer(t, echo)
	c := s.config("/v1/{a}/x-{b}?q={a}&n={b}&fixed=1")
	for value, want := range map[string]string{
		"x":            "/v1/x/x-x?q=x&n=x&fixed=1",
		"a/b":          "/v1/a%2Fb/x-a%2Fb?q=a%2Fb&n=a%2Fb&fixed=1",
		"../../admin":  "/v1/..%2F..%2Fadmin/x-..%2F..%2Fadmin?q=..%2F..%2Fadmin&n=..%2F..%2Fadmin&fixed=1",
		"?x=1&y=2#z":   "/v1/%3Fx=1&y=2%23z/x-%3Fx=1&y=2%23z?q=%3Fx%3D1%26y%3D2%23z&n=%3Fx%3D1%26y%3D2%23z&fixed=1",
		"%2e%2e":       "/v1/%252e%252e/x-%252e%252e?q=%252e%252e&n=%252e%252e&fixed=1",
		"a b\r\nX: y":  "/v1/a%20b%0D%0AX:%20y/x-a%20b%0D%0AX:%20y?q=a+b%0D%0AX%3A+y&n=a+b%0D%0AX%3A+y&fixed=1",
		"{a}":          "/v1/%7Ba%7D/x-%7Ba%7D?q=%7Ba%7D&n=%7Ba%7D&fixed=1",
		"@evil.com":    "/v1/@evil.com/x-@evil.com?q=%40evil.com&n=%40evil.com&fixed=1",
		"\\..\\":       "/v1/%5C..%5C/x-%5C..%5C?q=%5C..%5C&n=%5C..%5C&fixed=1",
		"ü":            "/v1/%C3%BC/x-%C3%BC?q=%C3%BC&n=%C3%BC&fixed=1",
		"//evil.com/x": "/v1/%2F%2Fevil.com%2Fx/x-%2F%2Fevil.com%2Fx?q=%2F%2Fevil.com%2Fx&n=%2F%2Fevil.com%2Fx&fixed=1",
	} {
		got, err := run(t, c, map[string]any{"a": value, "b": value})
		if err != nil || got != "GET "+want {
			t.Errorf("%q: %s, %v; want %s", value, got, err, want)
		}
	}
	for _, value := range []string{".", "..", ""} {
		_, err := run(t, c, map[string]any{"a": value, "b": "x"})
		wantErr(t, err, tool.ErrInvalidParams, `"a" would make another path`)
	}
	_, err := run(t, s.config("/{a}{b}"), map[string]any{"a": ".", "b": "."})
	wantErr(t, err, tool.ErrInvalidParams, "another path")
}

func TestParamsThatDoNotFitAreRefusedByName(t *testing.T) {
	it := newTool(t, toolhttp.Config{Name: "it", URL: "https://example.com/{a}", JSON: map[string]any{"b": "{b}"}})
	for params, want := range map[string]string{
		``:                           `param "a" is missing`,
		`{"a":"hunter2"}`:            `param "b" is missing`,
		`{"a":1,"b":2,"c":3}`:        `unknown param "c"`,
		`{"a":["hunter2"],"b":1}`:    `param "a" is neither`,
		`[]`:                         `not a JSON object`,
		`null`:                       `not a JSON object`,
		`{"a":null,"b":"hunter2"}`:   `param "a" is neither`,
		`{"a":"..","b":"hunter2\n"}`: `another path`,
	} {
		_, err := it.Run(t.Context(), json.RawMessage(params))
		wantErr(t, err, tool.ErrInvalidParams, want)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error holds a value: %v", err)
		}
	}
}

func TestHeaderInjectionIsRefused(t *testing.T) {
	s := newServer(t, echo)
	c := s.config("/")
	c.Headers = map[string]string{"X-Name": "it is {v}", "Accept": "text/plain"}
	for _, value := range []string{"a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00", "\x7f", "a\x1b"} {
		_, err := run(t, c, map[string]any{"v": value})
		wantErr(t, err, tool.ErrInvalidParams, "X-Name")
	}
	if s.count() != 0 {
		t.Error("a call was made")
	}
	if _, err := run(t, c, map[string]any{"v": "ü {v}"}); err != nil || s.last().Header.Get("X-Name") != "it is ü {v}" || s.last().Header.Get("X-Evil") != "" {
		t.Errorf("headers %v, error %v", s.last().Header, err)
	}
}

func TestBodies(t *testing.T) {
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("Content-Type"), body)
	})
	c := s.config("/")
	c.JSON = map[string]any{"text": "say {a}", "whole": "{b}", "list": []any{"{a}", 1, nil, true, "{{x}}"}, "{a}": 2.5}
	got, err := run(t, c, map[string]any{"a": `"},{"x":"`, "b": map[string]any{"deep": []int{1}}})
	want := `POST application/json {"list":["\"},{\"x\":\"",1,null,true,"{x}"],"text":"say \"},{\"x\":\"","whole":{"deep":[1]},"{a}":2.5}`
	if err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	c.JSON, c.Body, c.Method, c.Headers = nil, "a={a}", "PUT", map[string]string{"content-type": "text/x-mine"}
	if got, err := run(t, c, map[string]any{"a": "1\n2"}); err != nil || got != "PUT text/x-mine a=1\n2" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Setenv("HTTP_TEST_SHORT", "short")
	t.Setenv("HTTP_TEST_LINES", "several\nlines")
	t.Setenv("HTTP_TEST_GOOD", "hunter2-hunter2")
	for name, c := range map[string]struct {
		change func(*toolhttp.Config)
		want   string
	}{
		"no name":             {func(c *toolhttp.Config) { c.Name = "" }, "Name is required"},
		"no address":          {func(c *toolhttp.Config) { c.URL = "" }, "field URL"},
		"plain http":          {func(c *toolhttp.Config) { c.URL = "http://example.com/" }, "UnsafeHTTP"},
		"other scheme":        {func(c *toolhttp.Config) { c.URL = "file://etc/passwd" }, "want https"},
		"no scheme":           {func(c *toolhttp.Config) { c.URL = "example.com" }, "field URL"},
		"param as host":       {func(c *toolhttp.Config) { c.URL = "https://{h}/" }, "may not choose where"},
		"param in host":       {func(c *toolhttp.Config) { c.URL = "https://{h}.example.com/" }, "may not choose where"},
		"param as port":       {func(c *toolhttp.Config) { c.URL = "https://example.com:{p}/" }, "may not choose where"},
		"param as scheme":     {func(c *toolhttp.Config) { c.URL = "{s}://example.com/" }, "may not choose where"},
		"user":                {func(c *toolhttp.Config) { c.URL = "https://me:hunter2@example.com/" }, "without a user"},
		"line end":            {func(c *toolhttp.Config) { c.URL = "https://example.com/x\n" }, "line end"},
		"fragment":            {func(c *toolhttp.Config) { c.URL = "https://example.com/#{a}" }, "fragment"},
		"dots":                {func(c *toolhttp.Config) { c.URL = "https://example.com/../x" }, "dots"},
		"open brace":          {func(c *toolhttp.Config) { c.URL = "https://example.com/{" }, "{{"},
		"method":              {func(c *toolhttp.Config) { c.Method = "CONNECT" }, `Method is "CONNECT"`},
		"body of GET":         {func(c *toolhttp.Config) { c.Method, c.Body = "GET", "x" }, "has no body"},
		"two bodies":          {func(c *toolhttp.Config) { c.JSON, c.Body = 1, "x" }, "JSON and Body"},
		"odd body":            {func(c *toolhttp.Config) { c.JSON = map[string]any{"a": []any{struct{}{}}} }, `"a": [0]: struct {}`},
		"timeout":             {func(c *toolhttp.Config) { c.Timeout = -1 }, "Timeout"},
		"host header":         {func(c *toolhttp.Config) { c.Headers = map[string]string{"host": "x"} }, `Headers["host"]`},
		"header's name":       {func(c *toolhttp.Config) { c.Headers = map[string]string{"a b": "x"} }, "not a header's name"},
		"header of lines":     {func(c *toolhttp.Config) { c.Headers = map[string]string{"A": "x\ny"} }, "no line"},
		"header twice":        {func(c *toolhttp.Config) { c.Headers = map[string]string{"A": "", "a": ""} }, "twice"},
		"proxy header":        {func(c *toolhttp.Config) { c.Headers = map[string]string{"Proxy-Authorization": ""} }, "not for tools"},
		"secret from nowhere": {func(c *toolhttp.Config) { c.Secrets = map[string]toolhttp.Secret{"A": {}} }, "Env and File"},
		"secret not set":      {func(c *toolhttp.Config) { c.Secrets = map[string]toolhttp.Secret{"A": {Env: "HTTP_TEST_UNSET"}} }, "HTTP_TEST_UNSET is empty"},
		"short secret":        {func(c *toolhttp.Config) { c.Secrets = map[string]toolhttp.Secret{"A": {Env: "HTTP_TEST_SHORT"}} }, "8 to"},
		"secret of lines":     {func(c *toolhttp.Config) { c.Secrets = map[string]toolhttp.Secret{"A": {Env: "HTTP_TEST_LINES"}} }, "no line"},
		"missing file":        {func(c *toolhttp.Config) { c.Secrets = map[string]toolhttp.Secret{"A": {File: "/none"}} }, `"/none"`},
		"secret and header": {func(c *toolhttp.Config) {
			c.Headers, c.Secrets = map[string]string{"a": ""}, map[string]toolhttp.Secret{"A": {Env: "HTTP_TEST_GOOD"}}
		}, "in Headers too"},
		"host of redirects": {func(c *toolhttp.Config) { c.Hosts = []string{"https://example.com"} }, "Hosts[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			config := toolhttp.Config{Name: "it", URL: "https://example.com/"}
			c.change(&config)
			_, err := toolhttp.New(config)
			wantErr(t, err, nil, "http tool", c.want)
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "several")) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
}

// TestSecretIsNotRepeatedInPartsOrBesides has the server repeat it where it is cut off, and in a header.
func TestSecretIsNotRepeatedInPartsOrBesides(t *testing.T) {
	t.Setenv("HTTP_TEST_TOKEN", "hunter2-hunter2")
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/type" {
			w.Header().Set("Content-Type", "text/plain; for="+r.Header.Get("X-Key"))
			return
		}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, strings.Repeat("x", toolhttp.MaxErrorBody-7), r.Header.Get("X-Key"))
	})
	c := s.config("/")
	c.Secrets = map[string]toolhttp.Secret{"X-Key": {Env: "HTTP_TEST_TOKEN"}}
	_, err := run(t, c, nil)
	if status, ok := errors.AsType[*toolhttp.StatusError](err); !ok || strings.Contains(status.Body, "hunter") || len(status.Body) != toolhttp.MaxErrorBody {
		t.Errorf("%d bytes that end in %q", len(status.Body), status.Body[len(status.Body)-10:])
	}
	c.URL = s.URL + "/type"
	it, err := toolhttp.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if output, err := it.Run(t.Context(), nil); err != nil || strings.Contains(output.ContentType, "hunter") {
		t.Errorf("%q, %v", output.ContentType, err)
	}
}

// TestSecretsAreTakenOutWhole has the server repeat a secret so often that the last time is cut off, and two of which one
// begins with the other.
func TestSecretsAreTakenOutWhole(t *testing.T) {
	short := "hunter2-hunter2"
	long := short + strings.Repeat("-and-more", 20)
	t.Setenv("HTTP_TEST_SHORT", short)
	t.Setenv("HTTP_TEST_LONG", long)
	said := long
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/status" {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprint(w, said)
	})
	c := s.config("/")
	c.Secrets = map[string]toolhttp.Secret{"A": {Env: "HTTP_TEST_SHORT"}, "B": {Env: "HTTP_TEST_LONG"}}
	if got, err := run(t, c, nil); err != nil || got != "[secret]" {
		t.Errorf("output %q, %v", got, err)
	}
	said = strings.Repeat(long, 200)
	c.URL = s.URL + "/status"
	_, err := run(t, c, nil)
	if status, ok := errors.AsType[*toolhttp.StatusError](err); !ok || strings.Contains(status.Body, "hunt") || !strings.HasPrefix(status.Body, "[secret][secret]") {
		t.Errorf("error %v, body %q", err, status.Body)
	}
}

func TestStatusIsAnError(t *testing.T) {
	t.Setenv("HTTP_TEST_TOKEN", "hunter2-hunter2")
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "\xff no coffee for %s %s", r.Header.Get("Authorization"), strings.Repeat("x", 10_000))
	})
	c := s.config("/")
	c.Secrets = map[string]toolhttp.Secret{"Authorization": {Env: "HTTP_TEST_TOKEN", Prefix: "Bearer "}}
	_, err := run(t, c, nil)
	status, ok := errors.AsType[*toolhttp.StatusError](err)
	if !ok || status.Status != 418 || !strings.HasPrefix(status.Body, "\ufffd no coffee for Bearer [secret] xxx") || len(status.Body) > toolhttp.MaxErrorBody+10 {
		t.Errorf("error %#v", err)
	}
	if text := err.Error(); !strings.Contains(text, "status 418 I'm a teapot") || strings.Contains(text, "coffee") {
		t.Errorf("error %q", text)
	}
}

func TestContentTypeIsKept(t *testing.T) {
	for given, want := range map[string]string{"application/json": "application/json", "text/html; charset=utf-8": "text/html; charset=utf-8", ";;": "application/octet-stream", "": "application/octet-stream"} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) { w.Header()["Content-Type"] = []string{given} })
		if out, err := newTool(t, s.config("/")).Run(t.Context(), nil); err != nil || out.ContentType != want {
			t.Errorf("%q: %q, %v", given, out.ContentType, err)
		}
	}
}

func TestSecretsStayWithTheirServer(t *testing.T) {
	const secret = "hunter2-hunter2"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("  "+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header) })
	var to string
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" {
			fmt.Fprintf(w, "you said %s", r.Header.Get("X-Key"))
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	var log strings.Builder
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	c := s.config("/start/{p}")
	c.RootCAs.AddCert(other.Certificate())
	c.Secrets = map[string]toolhttp.Secret{"X-Key": {File: file}, "Authorization": {File: file, Prefix: "Bearer "}}
	c.Hosts = []string{strings.TrimPrefix(other.URL, "https://")}

	to = other.URL + "/x"
	got, err := run(t, c, map[string]any{"p": "hidden"})
	if err != nil || strings.Contains(got, secret) || other.last().Header.Get("Authorization")+other.last().Header.Get("X-Key")+other.last().Header.Get("Referer") != "" {
		t.Errorf("the other server was told %q, error %v", got, err)
	}
	if s.last().Header.Get("X-Key") != secret || s.last().Header.Get("Authorization") != "Bearer "+secret {
		t.Errorf("the server was told %v", s.last().Header)
	}
	to = s.URL + "/echo"
	if got, err := run(t, c, map[string]any{"p": "x"}); err != nil || got != "you said [secret]" {
		t.Errorf("output %q, %v", got, err)
	}
	to = "https://" + secret + "/%zz"
	_, err = run(t, c, map[string]any{"p": "hidden"})
	if wantErr(t, err, nil); strings.Contains(err.Error()+log.String(), secret) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("error %v, log %s", err, log.String())
	}
}

func TestRedirectsStayOnTheList(t *testing.T) {
	listed := newServer(t, echo)
	other := newServer(t, echo)
	to := ""
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			echo(w, r)
			return
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	})
	c := s.config("/")
	c.RootCAs.AddCert(listed.Certificate())
	c.Hosts = []string{strings.TrimPrefix(listed.URL, "https://")}
	for target, want := range map[string]error{
		"/end":            nil,
		listed.URL + "/x": nil,
		other.URL:         toolhttp.ErrRedirect, // another port of the same host
		"//evil.example/": toolhttp.ErrRedirect,
		"http://" + s.Listener.Addr().String() + "/end":                   toolhttp.ErrRedirect,
		strings.Replace(s.URL, "https://", "https://me:you@", 1) + "/end": toolhttp.ErrRedirect,
		"file:///etc/passwd":       toolhttp.ErrRedirect,
		"https://169.254.169.254/": toolhttp.ErrRedirect,
		"/loop":                    toolhttp.ErrRedirect,
	} {
		to = target
		_, err := run(t, c, nil)
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: error %v; want %v", target, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "evil") {
			t.Errorf("the error holds what the server wrote: %v", err)
		}
	}
	if other.count() != 0 {
		t.Error("a server that is not on the list was asked")
	}
}

func TestPrivateAddressesAreNotReached(t *testing.T) {
	s := newServer(t, echo)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, host := range []string{
		"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "0.0.0.0", "[::]",
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "224.0.0.1", "[ff02::1]",
		"255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "[2001:db8::1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::127.0.0.1]", "[fec0::1]",
	} {
		c := s.config("/")
		c.URL, c.PrivateAddresses = "https://"+host+":"+port+"/", nil
		c.Timeout = 5 * time.Second
		_, err := run(t, c, nil)
		wantErr(t, err, toolhttp.ErrAddress, "not public")
	}
	// Numbers that are names of other forms of loopback are none: they are looked up, or refused.
	for _, host := range []string{"2130706433", "0x7f000001", "127.1", "017700000001"} {
		c := s.config("/")
		c.URL, c.PrivateAddresses = "https://"+host+":"+port+"/", nil
		c.Timeout = time.Second
		_, err := run(t, c, nil)
		wantErr(t, err, nil)
	}
	if s.count() != 0 {
		t.Error("the server was asked")
	}
	if got, err := run(t, s.config("/"), nil); err != nil || got != "GET /" {
		t.Errorf("named: %q, %v", got, err)
	}
}

// resolver answers each question for an IPv4 address with the next of its list; the last one stays.
func resolver(t *testing.T, answers ...string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			question := buf[12:n]
			end := strings.IndexByte(string(question), 0) + 5
			kind := binary.BigEndian.Uint16(question[end-4:])
			reply := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question[:end]...)
			if kind == 1 {
				reply[7] = 1
				addr := netip.MustParseAddr(answers[min(int(next.Add(1)), len(answers))-1]).As4()
				reply = append(append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), addr[:]...)
			}
			conn.WriteTo(reply, from)
		}
	})
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		serving.Wait()
	})
}

// A name that has been harmless leads to another address at the next call, or has a harmless address beside the other.
func TestDNSRebindingIsRefused(t *testing.T) {
	resolver(t, "127.0.0.1", "127.0.0.2")
	s := newServer(t, echo)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	victim, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil && os.Getenv("CONVERGE_REQUIRE_SERVICES") != "1" {
		t.Skipf("this system has one loopback address: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	c := s.config("/")
	c.URL = "https://example.com:" + port + "/" // the name in the certificate of httptest
	it := newTool(t, c)
	if _, err := it.Run(t.Context(), nil); err != nil || s.count() != 1 {
		t.Fatalf("error %v, %d calls", err, s.count())
	}
	_, err = it.Run(t.Context(), nil)
	wantErr(t, err, toolhttp.ErrAddress, "127.0.0.2 is not public")
}

func TestProxiesOfTheEnvironmentAreIgnored(t *testing.T) {
	proxy := newServer(t, echo)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	resolver(t, "127.0.0.1")
	s := newServer(t, echo)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	c := s.config("/")
	c.URL = "https://example.com:" + port + "/" // proxies are never used for localhost
	if _, err := run(t, c, nil); err != nil || proxy.count() != 0 || s.count() != 1 {
		t.Errorf("error %v; the proxy was asked %d times, the server %d times", err, proxy.count(), s.count())
	}
}

func TestOtherCertificateIsRefused(t *testing.T) {
	s := newServer(t, echo)
	c := s.config("/")
	c.RootCAs = nil
	_, err := run(t, c, nil)
	if wantErr(t, err, nil, "certificate"); s.count() != 0 {
		t.Error("the server was asked")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   error
		text   string
	}{
		"endless body": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write(make([]byte, 1<<16))
			}
		}, tool.ErrOutputTooLarge, "1048576 bytes"},
		"endless headers": {func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := fmt.Fprintf(conn, "X-%s: x\r\n", strings.Repeat("a", 1000)); err != nil {
					return
				}
			}
		}, nil, "no valid answer"},
		"compressed": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("bomb"))
		}, nil, "encoded"},
		"cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("x"))
		}, nil, ""},
		"silence": {func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}, context.DeadlineExceeded, "no answer within"},
		"no answer": {func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			fmt.Fprint(conn, "hunter2\r\n\r\n")
			conn.Close()
		}, nil, "no valid answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newServer(t, c.answer).config("/")
			config.Timeout = time.Second
			if name != "silence" {
				config.Timeout = time.Minute
			}
			_, err := run(t, config, nil)
			wantErr(t, err, c.want, c.text)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error holds what the server wrote: %v", err)
			}
		})
	}
}

func TestSchemaComesFromTheTemplates(t *testing.T) {
	it := newTool(t, toolhttp.Config{Name: "it", Description: "does it", Method: "DELETE", URL: "https://example.com/{id}?q={q}", Headers: map[string]string{"X": "{h}"}})
	text, err := json.Marshal(it.InputSchema())
	scalar := `{"type":["string","number","boolean"]}`
	want := `{"type":"object","properties":{"h":` + scalar + `,"id":` + scalar + `,"q":` + scalar + `},"required":["h","id","q"],"additionalProperties":false}`
	if err != nil || string(text) != want {
		t.Errorf("schema %s, %v", text, err)
	}
	if a := it.Annotations(); !a.Destructive || a.ReadOnly || !a.OpenWorld || it.Description() != "does it" {
		t.Errorf("annotations %+v", a)
	}
	get := newTool(t, toolhttp.Config{Name: "it", URL: "https://example.com/"})
	if a := get.Annotations(); a.Destructive || !a.ReadOnly {
		t.Errorf("annotations %+v", a)
	}
	body := newTool(t, toolhttp.Config{Name: "it", URL: "https://example.com/{b}", JSON: []any{"{a}", "{b}"}})
	if text, _ := json.Marshal(body.InputSchema().Properties["a"]); string(text) != "true" {
		t.Errorf("a whole value is %s", text)
	}
}

// Servers that hang leave nothing behind. Both ends are in this process: with the tag soak there are 1,000.
func TestHungServersLeaveNothingBehind(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	var accepting sync.WaitGroup
	var conns []net.Conn
	accepting.Go(func() {
		for {
			conn, err := hung.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			accepted.Add(1)
		}
	})
	it := newTool(t, toolhttp.Config{Name: "it", URL: "http://" + hung.Addr().String(), UnsafeHTTP: true, PrivateAddresses: loopback})
	g := guard(t, it, tool.Options{})
	before := held.Now(t)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range hungServers {
		calls.Go(func() {
			if _, err := g.Run(ctx, "it", nil); !errors.Is(err, tool.ErrCancelled) {
				t.Errorf("error %v", err)
			}
		})
	}
	for accepted.Load() < hungServers {
		time.Sleep(time.Millisecond) // the kernel's doing, which no fake time reaches
	}
	most := held.Now(t)
	cancel()
	calls.Wait()
	if err := g.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	left := before.Plus(held.Held{Descriptors: hungServers}).AtMost(t) // the servers' ends, which still hang
	t.Logf("%d servers hang: before, %v; meanwhile, %v; given up, %v", hungServers, before, most, left)
	hung.Close()
	accepting.Wait()
	for _, conn := range conns { // each sees its end
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(err)
		}
		conn.Close()
	}
}
