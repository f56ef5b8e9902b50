package tcp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/tcp"
)

const (
	alice byte = iota + 1
	bob
	mallory // a stranger, or a peer of bob's that turned bad
)

// malloryIsAPeer lets mallory in.
func malloryIsAPeer(t testing.TB, c tcp.Config) tcp.Config {
	c.Peers = append(c.Peers, tcp.Peer{ID: person(t, mallory).ID()})
	return c
}

// TestHandshakesThatAreRefused attacks bob's listener; each attack is tried five times, which is one line
// in the log.
func TestHandshakesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		attack func(*testing.T, *node) // it returns when the listener has closed the connection
		reason peertls.Reason
	}{
		"a key of nobody that bob knows": {shaking(mallory, nil), peertls.UnknownPeer},
		"alice's certificate, stolen":    {shaking(alice, stolen), peertls.WrongKey},
		"an expired certificate":         {shaking(alice, expired), peertls.Certificate},
		"a certificate of the future":    {shaking(alice, future), peertls.Certificate},
		"a chain of certificates":        {shaking(alice, chain), peertls.Certificate},
		"another algorithm":              {shaking(alice, otherAlgorithm), peertls.Certificate},
		"signed by another":              {shaking(alice, signedByAnother), peertls.Certificate},
		"no certificate":                 {shaking(alice, noCertificate), peertls.NoCertificate},
		"TLS 1.2":                        {shaking(alice, tls12), peertls.Version},
		"another protocol":               {shaking(alice, http2), peertls.Handshake},
		"a call for another agent":       {shaking(alice, wrongName), peertls.UnknownAgent},
		"plain HTTP":                     {plainHTTP, peertls.NotTLS},
		"endless garbage":                {garbage, peertls.NotTLS},
	} {
		t.Run(name, func(t *testing.T) {
			alice, bob := pair(t, tcp.Config{})
			for range 5 {
				c.attack(t, bob)
			}
			bob.refused(c.reason, 5)
			bob.logged(c.reason)
			honest(t, alice, bob)
		})
	}
}

// shaking returns an attack by the agent as, with a configuration that is changed.
func shaking(as byte, change func(*testing.T, *tls.Config, *identity.Identity)) func(*testing.T, *node) {
	return func(t *testing.T, to *node) {
		id := person(t, as)
		config := peertls.Client(peertls.NewCredential(id, nil), to.ID(), mesh.Protocol)
		config.VerifyConnection = nil
		if change != nil {
			change(t, config, id)
		}
		conn := tls.Client(dial(t, to), config)
		err := conn.Handshake()
		if err == nil { // a client of TLS 1.3 hears of a refusal when it reads
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil {
			t.Error("the attack was accepted")
		}
	}
}

func show(c *tls.Config, shown tls.Certificate) {
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
}

func shownBy(t *testing.T, id *identity.Identity, now func() time.Time) tls.Certificate {
	t.Helper()
	made, err := peertls.Client(peertls.NewCredential(id, now), id.ID(), mesh.Protocol).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return *made
}

func stolen(t *testing.T, c *tls.Config, id *identity.Identity) {
	shown := shownBy(t, id, nil)
	shown.PrivateKey = shownBy(t, person(t, mallory), nil).PrivateKey
	show(c, shown)
}

func expired(t *testing.T, c *tls.Config, id *identity.Identity) {
	show(c, shownBy(t, id, func() time.Time { return time.Now().Add(-peertls.Lifetime - time.Hour) }))
}

func future(t *testing.T, c *tls.Config, id *identity.Identity) {
	show(c, shownBy(t, id, func() time.Time { return time.Now().Add(time.Hour) }))
}

func chain(t *testing.T, c *tls.Config, id *identity.Identity) {
	shown := shownBy(t, id, nil)
	shown.Certificate = append(shown.Certificate, shown.Certificate[0])
	show(c, shown)
}

func otherAlgorithm(t *testing.T, c *tls.Config, _ *identity.Identity) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	show(c, issue(t, key.Public(), key))
}

func signedByAnother(t *testing.T, c *tls.Config, id *identity.Identity) {
	authority := shownBy(t, person(t, mallory), nil).PrivateKey.(crypto.Signer)
	shown := issue(t, id.PublicKey(), authority)
	shown.PrivateKey = shownBy(t, id, nil).PrivateKey
	show(c, shown)
}

func issue(t *testing.T, public crypto.PublicKey, by crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: by}
}

func noCertificate(_ *testing.T, c *tls.Config, _ *identity.Identity) { show(c, tls.Certificate{}) }

func tls12(_ *testing.T, c *tls.Config, _ *identity.Identity) {
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
}

func http2(_ *testing.T, c *tls.Config, _ *identity.Identity) { c.NextProtos = []string{"h2"} }

func wrongName(t *testing.T, c *tls.Config, _ *identity.Identity) {
	c.ServerName = peertls.ServerName(person(t, mallory).ID())
}

func plainHTTP(t *testing.T, to *node) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://" + to.address())
	if err == nil {
		answer.Body.Close()
		t.Errorf("HTTP was answered: %s", answer.Status)
	}
}

func garbage(t *testing.T, to *node) {
	conn := dial(t, to)
	for block := bytes.Repeat([]byte("garbage "), 1000); ; {
		if _, err := conn.Write(block); err != nil {
			return
		}
	}
}

// TestOtherAgentAtAPeersAddressIsRefused: alice dials where she was told that bob is, and mallory answers.
func TestOtherAgentAtAPeersAddressIsRefused(t *testing.T) {
	credential := peertls.NewCredential(person(t, mallory), nil)
	config := peertls.Server{
		Credential: func(identity.ID) *peertls.Credential { return credential },
		Allowed:    func(identity.ID, identity.ID) bool { return true },
		Protocol:   mesh.Protocol,
	}.Config()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var answering sync.WaitGroup
	defer answering.Wait()
	defer l.Close()
	answering.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	})
	n := enter(t, alice, tcp.Config{
		MinBackoff: time.Hour, MaxBackoff: time.Hour,
		Peers: []tcp.Peer{{Name: "bob", ID: person(t, bob).ID(), Address: l.Addr().String()}},
	})
	n.refused(peertls.WrongKey, 1)
	n.logged(peertls.WrongKey)
	until(t, func() bool { return strings.Count(n.log.String(), "cannot reach peer yet") == 1 }, n.log.String)
}

// TestHandshakeThatTricklesIsReaped sends a byte now and then; the time for all of it is what counts.
func TestHandshakeThatTricklesIsReaped(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t, tcp.Config{HandshakeTimeout: 2 * time.Second}) // in which an honest one is made on a busy machine too
	conn := dial(t, bob)
	for _, b := range "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500) {
		if _, err := conn.Write([]byte{byte(b)}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	closed(t, conn)
	bob.refused(peertls.Timeout, 1)
	bob.logged(peertls.Timeout)
	honest(t, alice, bob)
}

// TestPeersThatTurnBad attacks bob from within, by a peer whose key is proved.
func TestPeersThatTurnBad(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 600)
	for name, c := range map[string]struct {
		attack func(*testing.T, *tls.Conn)
		reason peertls.Reason
	}{
		"a huge prefix":       {saying("\xff\xff\xff\xff\x00"), mesh.FrameTooLarge},
		"endless garbage":     {endlessly("garbage!"), mesh.Malformed},
		"HTTP in TLS":         {saying("GET / HTTP/1.1\r\n\r\n"), mesh.Malformed},
		"an unknown type":     {saying("\x00\x00\x00\x01\x63"), mesh.Malformed},
		"a truncated frame":   {saying(string(frame(0, long)[:300])), mesh.Stalled},
		"a frame that drips":  {dripping(string(frame(0, long))), mesh.Stalled},
		"a silent connection": {func(*testing.T, *tls.Conn) {}, mesh.Idle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alice, bob := pair(t, malloryIsAPeer(t, tcp.Config{
				ProgressTimeout: time.Second, IdleTimeout: 3 * time.Second, MinRate: 1 << 20,
			}))
			conn := impostor(t, mallory, bob)
			enters(t, conn)
			c.attack(t, conn)
			closed(t, conn)
			bob.refused(c.reason, 1)
			bob.logged(c.reason)
			honest(t, alice, bob)
		})
	}
}

func saying(text string) func(*testing.T, *tls.Conn) {
	return func(t *testing.T, conn *tls.Conn) { say(t, conn, []byte(text)) }
}

func endlessly(text string) func(*testing.T, *tls.Conn) {
	return func(_ *testing.T, conn *tls.Conn) {
		for block := []byte(strings.Repeat(text, 1000)); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
}

func dripping(text string) func(*testing.T, *tls.Conn) {
	return func(_ *testing.T, conn *tls.Conn) {
		for _, b := range []byte(text) {
			if _, err := conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestTruncatedFrameThenGone: the peer hangs up in the middle of a frame. Nothing of it is delivered.
func TestTruncatedFrameThenGone(t *testing.T) {
	alice, bob := pair(t, malloryIsAPeer(t, tcp.Config{}))
	conn := impostor(t, mallory, bob)
	enters(t, conn)
	say(t, conn, frame(0, strings.Repeat("x", 600))[:300])
	conn.NetConn().Close()
	until(t, func() bool { return bob.network.Stats().Closed == 1 }, func() string { return "the connection ends" })
	honest(t, alice, bob)
}

// TestHugePrefixesAllocateNothing has many connections announce the largest frame there is, and measures.
func TestHugePrefixesAllocateNothing(t *testing.T) {
	const connections, announced = 50, 64 << 20
	c := tcp.Config{MaxFrame: announced, ProgressTimeout: time.Minute}
	for i := range connections {
		c.Peers = append(c.Peers, tcp.Peer{ID: person(t, mallory+byte(i)).ID()})
	}
	alice, bob := pair(t, c)
	var conns []*tls.Conn
	for i := range connections {
		conn := impostor(t, mallory+byte(i), bob)
		enters(t, conn)
		conns = append(conns, conn)
	}
	before := heap()
	for _, conn := range conns {
		say(t, conn, []byte{announced >> 24, announced >> 16 & 0xff, announced >> 8 & 0xff, announced & 0xff, 0}, make([]byte, 1000))
	}
	until(t, func() bool { return bob.network.Stats().BytesIn >= connections*1005 }, func() string { return "the bytes arrive" })
	honest(t, alice, bob)
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("the heap grew by %d MiB for %d prefixes of %d MiB each", grown>>20, connections, announced>>20)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestDuplicateConnectionsReplaceEachOther: a peer has one connection, the last that it made.
func TestDuplicateConnectionsReplaceEachOther(t *testing.T) {
	alice, bob := pair(t, malloryIsAPeer(t, tcp.Config{}))
	var last *tls.Conn
	for range 10 {
		if last != nil {
			defer closed(t, last)
		}
		last = impostor(t, mallory, bob)
		enters(t, last)
	}
	until(t, func() bool { return bob.network.Stats().Connections == 2 }, func() string { return "one connection is left" })
	say(t, last, frame(0, "by the last"))
	if got, err := bob.Receive(t.Context()); err != nil || string(got.Data) != "by the last" {
		t.Errorf("received %q, %v", got.Data, err)
	}
	honest(t, alice, bob)
}

// TestPeerThatNeverReads: what is for it waits, is bounded, and ends; others are not delayed.
func TestPeerThatNeverReads(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t, malloryIsAPeer(t, tcp.Config{
		ProgressTimeout: time.Second, MinRate: 64 << 20, Grace: 2 * time.Second, Queue: 1 << 20,
	}))
	conn := impostor(t, mallory, bob)
	enters(t, conn)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	flood := make(chan error)
	go func() {
		var err error
		for err == nil {
			err = bob.Send(ctx, transport.Route{To: person(t, mallory).ID()}, make([]byte, 64<<10))
		}
		flood <- err
	}()
	for stuck := false; !stuck; { // meanwhile
		honest(t, alice, bob)
		select {
		case err := <-flood:
			stuck = true
			if !errors.Is(err, transport.ErrUnreachable) {
				t.Errorf("Send to a peer that never reads: %v", err)
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
	bob.refused(mesh.Stalled, 1)
	bob.logged(mesh.Stalled)
	if bob.network.Stats().Lost == 0 {
		t.Error("no frame was counted as lost")
	}
	honest(t, alice, bob)
}

// TestTooManyConnections: what is over the caps is refused, and there is room again when others leave.
func TestTooManyConnections(t *testing.T) {
	c := tcp.Config{MaxPerAddress: 3}
	for i := range byte(5) {
		c.Peers = append(c.Peers, tcp.Peer{ID: person(t, mallory+i).ID()})
	}
	alice, bob := pair(t, c)
	first := impostor(t, mallory, bob)
	enters(t, first)
	enters(t, impostor(t, mallory+1, bob))
	over := impostor(t, mallory+2, bob)
	say(t, over, greeting())
	closed(t, over)
	bob.refused(mesh.TooManyFromAddress, 1)
	bob.logged(mesh.TooManyFromAddress)
	first.NetConn().Close()
	until(t, func() bool { return bob.network.Stats().Closed == 1 }, func() string { return "the first leaves" })
	until(t, func() bool {
		conn := impostor(t, mallory+3, bob)
		say(t, conn, greeting())
		_, err := io.ReadFull(conn, make([]byte, 22))
		return err == nil
	}, func() string { return "there is room again" })
	honest(t, alice, bob)
}

// TestHandshakesThatNeverEndMakeRoom: an address that holds many connections open loses the oldest ones, and
// an honest agent of the same address gets in.
func TestHandshakesThatNeverEndMakeRoom(t *testing.T) {
	bob := enter(t, bob, tcp.Config{MaxHandshakesPerAddress: 10, Peers: []tcp.Peer{{ID: person(t, alice).ID()}}})
	var idle []net.Conn
	for range 30 {
		idle = append(idle, dial(t, bob))
	}
	bob.refused(mesh.Evicted, 20)
	bob.logged(mesh.Evicted)
	alice := enter(t, alice, tcp.Config{Peers: []tcp.Peer{bob.peer(bob.address())}})
	for _, conn := range idle[:20] {
		closed(t, conn)
	}
	honest(t, alice, bob)
}
