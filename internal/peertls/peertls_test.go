package peertls_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/peertls"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const protocol = "converge/1"

// epoch is when these tests take place.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func agent(t testing.TB, seed byte) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// bob listens; alice may connect.
func bobs(t testing.TB) (server peertls.Server, alice, bob *peertls.Credential) {
	alice, bob = peertls.NewCredential(agent(t, 1), at(epoch)), peertls.NewCredential(agent(t, 2), at(epoch))
	return peertls.Server{
		Credential: func(id identity.ID) *peertls.Credential {
			if id != bob.ID() {
				return nil
			}
			return bob
		},
		Allowed:  func(self, peer identity.ID) bool { return self == bob.ID() && peer == alice.ID() },
		Protocol: protocol,
		Now:      at(epoch),
	}, alice, bob
}

// end is what one end of a handshake came to.
type end struct {
	state tls.ConnectionState
	err   error
}

// shake runs a handshake, and a byte each way, since a client hears of a refusal only when it reads.
func shake(t testing.TB, client, server *tls.Config) (atClient, atServer end) {
	t.Helper()
	c, s := net.Pipe()
	done := make(chan end)
	go func() { done <- talk(tls.Server(s, server)) }()
	atClient = talk(tls.Client(c, client))
	return atClient, <-done
}

func talk(conn *tls.Conn) end {
	defer conn.NetConn().Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return end{err: err}
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write([]byte("x"))
		wrote <- err
	}()
	_, err := io.ReadFull(conn, make([]byte, 1))
	err = errors.Join(err, <-wrote)
	return end{conn.ConnectionState(), err}
}

func TestBothEndsProveWhoTheyAre(t *testing.T) {
	server, alice, bob := bobs(t)
	atAlice, atBob := shake(t, peertls.Client(alice, bob.ID(), protocol), server.Config())
	if atAlice.err != nil || atBob.err != nil {
		t.Fatalf("at alice: %v, at bob: %v", atAlice.err, atBob.err)
	}
	for name, c := range map[string]struct {
		end  end
		peer *peertls.Credential
	}{"alice": {atAlice, bob}, "bob": {atBob, alice}} {
		id, key, err := peertls.ID(c.end.state)
		if err != nil || id != c.peer.ID() || !bytes.Equal(key, c.peer.Identity().PublicKey()) {
			t.Errorf("%s sees %s, %v", name, id, err)
		}
		if s := c.end.state; s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != protocol || s.DidResume {
			t.Errorf("at %s: version %x, protocol %q, resumed %t", name, s.Version, s.NegotiatedProtocol, s.DidResume)
		}
	}
	if self, err := peertls.Self(atBob.state); err != nil || self != bob.ID() {
		t.Errorf("called is %s, %v", self, err)
	}
}

func TestServerRefuses(t *testing.T) {
	_, alice, bob := bobs(t)
	mallory := peertls.NewCredential(agent(t, 3), at(epoch))
	honest := func() *tls.Config { return peertls.Client(alice, bob.ID(), protocol) }
	change := func(f func(*tls.Config)) *tls.Config {
		c := honest()
		f(c)
		return c
	}
	show := func(certificate tls.Certificate) *tls.Config {
		return change(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
		})
	}
	aged := func(d time.Duration) *tls.Config {
		c := peertls.Client(peertls.NewCredential(alice.Identity(), at(epoch.Add(d))), bob.ID(), protocol)
		c.VerifyConnection = nil // at that time bob's certificate is not valid either
		return c
	}
	for name, c := range map[string]struct {
		client *tls.Config
		want   peertls.Reason
	}{
		"a stranger":              {peertls.Client(mallory, bob.ID(), protocol), peertls.UnknownPeer},
		"an expired certificate":  {aged(-peertls.Lifetime - 2*peertls.Skew), peertls.Certificate},
		"one of the future":       {aged(3 * peertls.Skew), peertls.Certificate},
		"no certificate":          {change(func(c *tls.Config) { c.GetClientCertificate = nothing }), peertls.NoCertificate},
		"a stolen certificate":    {show(stolen(t, alice, mallory)), peertls.WrongKey},
		"a chain":                 {show(chain(t, alice)), peertls.Certificate},
		"ECDSA":                   {show(otherAlgorithm(t)), peertls.Certificate},
		"signed by another":       {show(signedByAnother(t, alice.Identity(), mallory.Identity())), peertls.Certificate},
		"garbage for certificate": {show(garbage(alice)), peertls.Certificate},
		"TLS 1.2": {change(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		}), peertls.Version},
		"an agent that is not here": {peertls.Client(alice, mallory.ID(), protocol), peertls.UnknownAgent},
		"no server name":            {change(func(c *tls.Config) { c.ServerName = "" }), peertls.UnknownAgent},
		"a name in the DNS":         {change(func(c *tls.Config) { c.ServerName = "example.org" }), peertls.UnknownAgent},
		"another protocol":          {peertls.Client(alice, bob.ID(), "h2"), peertls.Handshake},
		"no protocol":               {change(func(c *tls.Config) { c.NextProtos = nil }), peertls.Handshake},
	} {
		t.Run(name, func(t *testing.T) {
			server, _, _ := bobs(t)
			atClient, atServer := shake(t, c.client, server.Config())
			if atClient.err == nil || atServer.err == nil {
				t.Fatalf("accepted: at the client %v, at the server %v", atClient.err, atServer.err)
			}
			if got := peertls.Refuse(atServer.err).Reason; got != c.want {
				t.Errorf("refused as %q for %v, want %q", got, atServer.err, c.want)
			}
		})
	}
}

func TestClientRefuses(t *testing.T) {
	_, alice, bob := bobs(t)
	mallory := peertls.NewCredential(agent(t, 3), at(epoch))
	for name, c := range map[string]struct {
		answers *peertls.Credential
		change  func(*tls.Config)
		want    peertls.Reason
	}{
		"another agent":          {answers: mallory, want: peertls.WrongKey},
		"a stolen certificate":   {answers: bob, want: peertls.WrongKey, change: showing(stolen(t, bob, mallory))},
		"an expired certificate": {answers: peertls.NewCredential(bob.Identity(), at(epoch.Add(-peertls.Lifetime-2*peertls.Skew))), want: peertls.Certificate},
		"TLS 1.2":                {answers: bob, want: peertls.Version, change: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		"another protocol":       {answers: bob, want: peertls.Handshake, change: func(c *tls.Config) { c.NextProtos = nil; c.VerifyConnection = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			server, _, _ := bobs(t)
			server.Credential = func(identity.ID) *peertls.Credential { return c.answers }
			server.Allowed = func(identity.ID, identity.ID) bool { return true }
			config := server.Config()
			if c.change != nil {
				config = changed(config, c.change)
			}
			atClient, _ := shake(t, peertls.Client(alice, bob.ID(), protocol), config)
			if atClient.err == nil {
				t.Fatal("accepted")
			}
			if got := peertls.Refuse(atClient.err).Reason; got != c.want {
				t.Errorf("refused as %q for %v, want %q", got, atClient.err, c.want)
			}
		})
	}
}

func TestClocksMayDifferByTheSkew(t *testing.T) {
	_, alice, bob := bobs(t)
	for _, d := range []time.Duration{-peertls.Skew, peertls.Skew, 2 * peertls.Skew} { // NotBefore is a skew early already
		ahead := peertls.NewCredential(alice.Identity(), at(epoch.Add(d)))
		server, _, _ := bobs(t)
		if c, s := shake(t, peertls.Client(ahead, bob.ID(), protocol), server.Config()); s.err != nil {
			t.Errorf("a clock that is off by %s: %v, %v", d, c.err, s.err)
		}
	}
}

func TestNothingIsResumed(t *testing.T) {
	server, alice, bob := bobs(t)
	config := server.Config()
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	for range 3 {
		client := peertls.Client(alice, bob.ID(), protocol)
		client.SessionTicketsDisabled, client.ClientSessionCache = false, cache
		atClient, atServer := shake(t, client, config)
		if atServer.err != nil || atClient.state.DidResume || atServer.state.DidResume {
			t.Fatalf("resumed %t, %t: %v", atClient.state.DidResume, atServer.state.DidResume, atServer.err)
		}
	}
	if cache.puts > 0 {
		t.Errorf("the server gave %d tickets", cache.puts)
	}
}

type countingCache struct {
	tls.ClientSessionCache
	puts int
}

func (c *countingCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts++
	}
	c.ClientSessionCache.Put(key, s)
}

func TestCertificateIsMadeAnewBeforeItRunsOut(t *testing.T) {
	now := epoch
	clock := func() time.Time { return now }
	server, _, bob := bobs(t)
	server.Now = clock
	config := server.Config()
	client := peertls.Client(peertls.NewCredential(agent(t, 1), clock), bob.ID(), protocol)
	client.VerifyConnection = nil // bob's clock stands still here
	var first *x509.Certificate
	for day := range 30 {
		now = epoch.Add(time.Duration(day) * 24 * time.Hour)
		_, atServer := shake(t, client, config)
		if atServer.err != nil {
			t.Fatalf("after %d days: %v", day, atServer.err)
		}
		shown := atServer.state.PeerCertificates[0]
		if left := shown.NotAfter.Sub(now); left < 23*time.Hour || left > peertls.Lifetime {
			t.Errorf("after %d days the certificate has %s left", day, left)
		}
		if first == nil {
			first = shown
		}
		if same := shown.Equal(first); same != (day < 6) {
			t.Errorf("after %d days it is the first certificate: %t", day, same)
		}
	}
}

func TestWeakKeyIsRefused(t *testing.T) {
	server, _, bob := bobs(t)
	server.Allowed = func(identity.ID, identity.ID) bool { return true }
	weak := weakSigner{append(ed25519.PublicKey{1}, make([]byte, 31)...)}
	certificate := issue(t, weak.public, weak)
	client := changed(peertls.Client(bob, bob.ID(), protocol), showing(certificate))
	_, atServer := shake(t, client, server.Config())
	if got := peertls.Refuse(atServer.err).Reason; got != peertls.WrongKey || !errors.Is(atServer.err, identity.ErrWeakKey) {
		t.Errorf("refused as %q for %v", got, atServer.err)
	}
}

// weakSigner signs everything with the point of order 1, whose signatures anybody can make.
type weakSigner struct{ public ed25519.PublicKey }

func (w weakSigner) Public() crypto.PublicKey { return w.public }

func (w weakSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return append(bytes.Clone(w.public), make([]byte, 32)...), nil
}

func TestPlainHTTPIsRefusedAsSuch(t *testing.T) {
	server, _, _ := bobs(t)
	c, s := net.Pipe()
	go func() {
		c.Write([]byte("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"))
		io.Copy(io.Discard, c)
	}()
	err := tls.Server(s, server.Config()).HandshakeContext(t.Context())
	s.Close()
	c.Close()
	if got := peertls.Refuse(err).Reason; got != peertls.NotTLS {
		t.Errorf("refused as %q for %v", got, err)
	}
}

func TestSlowHandshakeIsATimeout(t *testing.T) {
	server, _, _ := bobs(t)
	c, s := net.Pipe()
	defer c.Close()
	defer s.Close()
	s.SetDeadline(time.Now())
	err := tls.Server(s, server.Config()).HandshakeContext(t.Context())
	if got := peertls.Refuse(err).Reason; got != peertls.Timeout {
		t.Errorf("refused as %q for %v", got, err)
	}
}

func TestServerNames(t *testing.T) {
	id := agent(t, 1).ID()
	name := peertls.ServerName(id)
	if parsed, err := peertls.ParseServerName(name); err != nil || parsed != id {
		t.Errorf("%q: %s, %v", name, parsed, err)
	}
	for _, label := range strings.Split(name, ".") {
		if len(label) > 63 {
			t.Errorf("label %q has %d characters", label, len(label))
		}
	}
	for _, wrong := range []string{"", "converge", strings.ToUpper(name), name + ".", "x" + name, strings.Replace(name, ".", "", 1),
		strings.TrimSuffix(name, ".converge"), name[:30] + "." + name[30:], "127.0.0.1"} {
		if id, err := peertls.ParseServerName(wrong); err == nil {
			t.Errorf("%q is taken for %s", wrong, id)
		}
	}
}

func FuzzParseServerName(f *testing.F) {
	f.Add("")
	f.Add(peertls.ServerName(identity.ID{1, 2, 3}))
	f.Fuzz(func(t *testing.T, name string) {
		if id, err := peertls.ParseServerName(name); err == nil && peertls.ServerName(id) != name {
			t.Errorf("%q is taken for %q", name, peertls.ServerName(id))
		}
	})
}

// changed returns the configuration that a connection meets, changed. A server's is made for each one.
func changed(c *tls.Config, f func(*tls.Config)) *tls.Config {
	c = c.Clone()
	if inner := c.GetConfigForClient; inner != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			hello.SupportedVersions = append(hello.SupportedVersions, tls.VersionTLS13)
			made, err := inner(hello)
			if err == nil {
				f(made)
			}
			return made, err
		}
	}
	f(c)
	return c
}

func showing(certificate tls.Certificate) func(*tls.Config) {
	return func(c *tls.Config) {
		c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
}

func nothing(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }

// certificateOf returns what an agent shows.
func certificateOf(t testing.TB, c *peertls.Credential) *tls.Certificate {
	t.Helper()
	shown, err := peertls.Client(c, c.ID(), protocol).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return shown
}

// stolen is the certificate of one agent in the hands of another.
func stolen(t testing.TB, victim, thief *peertls.Credential) tls.Certificate {
	c := *certificateOf(t, victim)
	c.PrivateKey = certificateOf(t, thief).PrivateKey
	return c
}

func chain(t testing.TB, c *peertls.Credential) tls.Certificate {
	made := *certificateOf(t, c)
	made.Certificate = [][]byte{made.Certificate[0], made.Certificate[0]}
	return made
}

func garbage(c *peertls.Credential) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{[]byte("no certificate")}, PrivateKey: key{c.Identity()}}
}

func otherAlgorithm(t testing.TB) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issue(t, k.Public(), k)
}

// signedByAnother is a certificate over an agent's key that another key has signed.
func signedByAnother(t testing.TB, id, authority *identity.Identity) tls.Certificate {
	made := issue(t, id.PublicKey(), key{authority})
	made.PrivateKey = key{id}
	return made
}

// issue makes a certificate over a key.
func issue(t testing.TB, public crypto.PublicKey, by crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: by}
}

// key is an identity as a crypto.Signer.
type key struct{ id *identity.Identity }

func (k key) Public() crypto.PublicKey { return k.id.PublicKey() }

func (k key) Sign(_ io.Reader, m []byte, _ crypto.SignerOpts) ([]byte, error) {
	return k.id.Sign(m), nil
}
