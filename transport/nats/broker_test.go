package nats_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

func secretFile(t *testing.T, content string) nats.Secret {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return nats.Secret{File: path}
}

// startError returns why an agent does not get in, and fails the test if it does.
func startError(t *testing.T, n *nats.Network) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := n.Endpoint(newIdentity(t)).Start(ctx)
	if err == nil {
		t.Fatal("the agent was let in")
	}
	return err
}

// gated is a broker that asks for a login.
func gated(t *testing.T, log *slog.Logger) (broker *nats.Network, url, seed string) {
	t.Helper()
	public, seed := newUser(t)
	broker = newNetwork(t, listening(nats.Config{Logger: log, Server: nats.Server{
		Users: []nats.User{{Name: "alice", Password: secretFile(t, "open sesame\n")}},
		Nkeys: []string{public},
	}}))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return broker, "nats://" + broker.Addr().String(), seed
}

func TestLoginByPasswordAndByNkey(t *testing.T) {
	broker, url, seed := gated(t, quiet)
	t.Setenv("CONVERGE_TEST_PASSWORD", "open sesame")
	inside := join(t, broker)
	for name, c := range map[string]nats.Config{
		"password in a file":     {URL: url, Username: "alice", Password: secretFile(t, "open sesame")},
		"password in a variable": {URL: url, Username: "alice", Password: nats.Secret{Env: "CONVERGE_TEST_PASSWORD"}},
		"nkey":                   {URL: url, Seed: seed},
	} {
		outside := join(t, newNetwork(t, c))
		inside.send(outside.route(), name)
		outside.expect(name)
	}
}

func TestWrongLoginIsRefusedAndCountedOnBothSides(t *testing.T) {
	var log logbook
	broker, url, _ := gated(t, log.logger(slog.LevelWarn))
	_, wrongSeed := newUser(t)
	attempts := map[string]nats.Config{
		"none":           {URL: url},
		"wrong password": {URL: url, Username: "alice", Password: secretFile(t, "hunter2")},
		"unknown user":   {URL: url, Username: "mallory", Password: secretFile(t, "hunter2")},
		"wrong token":    {URL: url, Token: secretFile(t, "hunter2")},
		"wrong nkey":     {URL: url, Seed: wrongSeed},
	}
	for name, c := range attempts {
		n := newNetwork(t, c)
		err := startError(t, n)
		if !strings.Contains(err.Error(), "Authorization Violation") || !strings.Contains(err.Error(), "check Credentials") {
			t.Errorf("%s: %v, want an error that says what to check", name, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
		if n.Stats().Refused["unauthorized"] != 1 {
			t.Errorf("%s: the client's side counts %v", name, n.Stats().Refused)
		}
	}
	if got := broker.Stats().Refused["unauthorized"]; got != uint64(len(attempts)) {
		t.Errorf("the embedded server counts %d refused logins, want %d", got, len(attempts))
	}
	if log.lines("refuses a login") == 0 || log.lines("hunter2") > 0 || log.lines("sesame") > 0 {
		t.Errorf("the log has %d lines on refused logins, and %d with a secret", log.lines("refuses a login"), log.lines("hunter2"))
	}
	alice, bob := join(t, broker), join(t, broker)
	alice.send(bob.route(), "still served")
	bob.expect("still served")
}

// TestLoginByCredentials uses a server with operator and accounts, as others run it.
func TestLoginByCredentials(t *testing.T) {
	operator, account := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount)
	claims := jwt.NewAccountClaims(publicKey(t, account))
	accountJWT, err := claims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(publicKey(t, account), accountJWT); err != nil {
		t.Fatal(err)
	}
	s := foreignServer(t, &server.Options{TrustedKeys: []string{publicKey(t, operator)}, AccountResolver: resolver})
	n := newNetwork(t, nats.Config{URL: s.ClientURL(), Credentials: newCredentials(t, account)})
	alice, bob := join(t, n), join(t, n)
	alice.send(bob.route(), "hello")
	bob.expect("hello")

	foreign := newCredentials(t, newKey(t, nkeys.CreateAccount))
	err = startError(t, newNetwork(t, nats.Config{URL: s.ClientURL(), Credentials: foreign}))
	if !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("credentials of another account: %v", err)
	}
	for name, file := range map[string]string{"missing": filepath.Join(t.TempDir(), "missing"), "rubbish": secretFile(t, "rubbish").File} {
		if err := startError(t, newNetwork(t, nats.Config{URL: s.ClientURL(), Credentials: file})); strings.Contains(err.Error(), "rubbish") {
			t.Errorf("%s credentials: the error shows what is in the file: %v", name, err)
		}
	}
}

// newCredentials returns a file with the credentials of a new user of an account.
func newCredentials(t *testing.T, account nkeys.KeyPair) string {
	t.Helper()
	user := newKey(t, nkeys.CreateUser)
	token, err := jwt.NewUserClaims(publicKey(t, user)).Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return secretFile(t, string(creds)).File
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func publicKey(t *testing.T, pair nkeys.KeyPair) string {
	t.Helper()
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// foreignServer is a server that somebody else runs.
func foreignServer(t *testing.T, o *server.Options) *server.Server {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

func TestServerThatIsNoNATSServer(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	rude, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rude.Close() })
	go func() {
		for {
			conn, err := rude.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			conn.Close()
		}
	}()
	for _, addr := range []string{web.Listener.Addr().String(), rude.Addr().String()} {
		err := startError(t, newNetwork(t, nats.Config{URL: "nats://" + addr, ConnectTimeout: 300 * time.Millisecond}))
		if !strings.Contains(err.Error(), "is this a NATS server?") || !strings.Contains(err.Error(), addr) {
			t.Errorf("Start: %v, want an error that names the address and asks whether it is a NATS server", err)
		}
	}
	err = startError(t, newNetwork(t, nats.Config{URL: "nats://127.0.0.1:1"}))
	if !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("nobody listens there: %v", err)
	}
}

func TestEndedContextAbandonsTheStart(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	n := newNetwork(t, nats.Config{URL: "nats://" + silent.Addr().String(), ConnectTimeout: time.Hour})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	returned := make(chan error, 1)
	e := n.Endpoint(newIdentity(t))
	go func() { returned <- e.Start(ctx) }()
	if _, err := silent.Accept(); err != nil { // it is in the handshake
		t.Fatal(err)
	}
	cancel(cause)
	if err := <-returned; !errors.Is(err, cause) {
		t.Errorf("Start: %v, want the cause of its context's end", err)
	}

	go func() { returned <- e.Start(context.Background()) }()
	if _, err := silent.Accept(); err != nil {
		t.Fatal(err)
	}
	e.Close()
	if err := <-returned; !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Start of an endpoint that was closed meanwhile: %v, want ErrClosed", err)
	}
}

// authority issues certificates for loopback.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.file = a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: "converge test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// pair returns files with a certificate and its key.
func (a *authority) pair() (cert, key string) {
	c, k := a.issue(&x509.Certificate{})
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write("cert.pem", "CERTIFICATE", c.Raw), a.write("key.pem", "PRIVATE KEY", der)
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a *authority) server() nats.ServerTLS {
	cert, key := a.pair()
	return nats.ServerTLS{Certificate: cert, Key: key, ClientCA: a.file}
}

func (a *authority) client() nats.TLS {
	cert, key := a.pair()
	return nats.TLS{CA: a.file, Certificate: cert, Key: key}
}

func TestMutualTLS(t *testing.T) {
	ours := newAuthority(t)
	broker := newNetwork(t, listening(nats.Config{Server: nats.Server{TLS: ours.server()}}))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := newNetwork(t, nats.Config{URL: "tls://" + broker.Addr().String(), TLS: ours.client()})
	alice, bob, inside := join(t, n), join(t, n), join(t, broker)
	frame := string(bytes.Repeat([]byte("x"), 1<<20))
	alice.send(bob.route(), frame)
	bob.expect(frame)
	inside.send(bob.route(), "from within")
	bob.expect("from within")
}

func TestForeignAuthorityAndMissingCertificateAreRefused(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	broker := newNetwork(t, listening(nats.Config{Server: nats.Server{TLS: ours.server()}}))
	if err := broker.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	url := "tls://" + broker.Addr().String()
	foreign := theirs.client()
	foreign.CA = ours.file
	misnamed := ours.client()
	misnamed.ServerName = "broker.example"
	for name, c := range map[string]nats.TLS{
		"the broker's authority is foreign":            theirs.client(),
		"the client's authority is foreign":            foreign,
		"the client has no certificate":                {CA: ours.file},
		"the broker's certificate is for another name": misnamed,
	} {
		n := newNetwork(t, nats.Config{URL: url, TLS: c, ConnectTimeout: 2 * time.Second})
		err := startError(t, n)
		if !strings.Contains(err.Error(), "check TLS") || n.Stats().Refused["certificate"] != 1 {
			t.Errorf("%s: %v, counted %v", name, err, n.Stats().Refused)
		}
	}
	until(t, "the embedded server counts handshakes that failed", func() bool { return broker.Stats().Refused["certificate"] >= 2 })
	err := startError(t, newNetwork(t, nats.Config{URL: url, TLS: nats.TLS{CA: filepath.Join(t.TempDir(), "missing")}}))
	if !strings.Contains(err.Error(), "nats.Config.TLS.CA") {
		t.Errorf("a CA file that is not there: %v", err)
	}
	open := newNetwork(t, listening(nats.Config{}))
	if err := open.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := startError(t, newNetwork(t, nats.Config{URL: "tls://" + open.Addr().String()})); !strings.Contains(err.Error(), "no TLS") {
		t.Errorf("TLS with a server that has none: %v", err)
	}
}

func TestBrokersLimitOnFramesCounts(t *testing.T) {
	s := foreignServer(t, &server.Options{MaxPayload: 1000})
	n := newNetwork(t, nats.Config{URL: s.ClientURL()})
	alice, bob := join(t, n), join(t, n, "t")
	for _, route := range []transport.Route{bob.route(), topics("t"), {}} {
		err := alice.try(route, strings.Repeat("x", 1001))
		if !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "1000") {
			t.Errorf("Send of 1001 bytes to %s: %v, want ErrTooLarge and the broker's limit", route, err)
		}
		alice.send(route, "small")
		bob.expect("small")
	}
}

func TestEmbeddedServerThatCannotListenSaysWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	n := newNetwork(t, nats.Config{Server: nats.Server{Listen: taken.Addr().String()}})
	if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Start on a port that is taken: %v", err)
	}
}

func TestEmbeddedServersLogGoesToSlog(t *testing.T) {
	var log logbook
	n := newNetwork(t, nats.Config{Logger: log.logger(slog.LevelDebug), Server: nats.Server{Name: "tester"}})
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Close()
	if log.lines("Server is ready") != 1 || log.lines("level=DEBUG") == 0 || log.lines("level=WARN") != 0 {
		t.Errorf("the log is\n%s", log.text.String())
	}
}
