package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// clientOptions returns the options of one agent's connection.
func (c *Config) clientOptions(l *link) (client.Options, error) {
	o := client.GetDefaultOptions()
	o.Name = "converge " + l.agent
	o.NoEcho = true
	o.IgnoreDiscoveredServers = true
	o.IgnoreAuthErrorAbort = true // a login that is refused today may be accepted tomorrow
	o.SkipSubjectValidation = true
	o.MaxReconnect = -1
	o.ReconnectBufSize = -1 // a frame is written or it is an error
	o.CustomReconnectDelayCB = c.backoff
	o.Timeout = c.ConnectTimeout
	o.PingInterval = max(c.IdleTimeout/3, time.Millisecond)
	o.MaxPingsOut = math.MaxInt32 // guard.Read knows better
	o.InboxPrefix = newSubjects(c.Network).inbox()
	l.listen(&o)
	if l.broker != nil {
		o.InProcessServer = l
		l.broker.options(&o)
		return o, nil
	}
	o.CustomDialer = l
	return o, c.reach(&o)
}

// backoff returns the pause before the servers are tried again.
func (c *Config) backoff(attempts int) time.Duration {
	pause := c.BackoffMin << min(attempts-1, 16)
	if pause > c.BackoffMax || pause < c.BackoffMin {
		pause = c.BackoffMax
	}
	return rand.N(pause) + 1
}

// listen has what happens to the connection logged and counted.
func (l *link) listen(o *client.Options) {
	log := l.config.Logger.With("agent", l.agent)
	var warned occasion
	o.DisconnectedErrCB = func(_ *client.Conn, err error) {
		if err != nil && warned.now() {
			log.Warn("nats: connection lost", "error", err)
		}
	}
	o.ReconnectedCB = func(conn *client.Conn) {
		l.enter()
		log.Debug("nats: connected again", "server", conn.ConnectedServerName())
		l.back()
	}
	o.ReconnectErrCB = func(_ *client.Conn, err error) {
		log.Debug("nats: not connected", "error", err)
	}
	o.AsyncErrorCB = func(_ *client.Conn, _ *client.Subscription, err error) {
		l.troubled(log, err)
	}
}

// troubled takes what the client's library reports on the side.
func (l *link) troubled(log *slog.Logger, err error) {
	switch {
	case errors.Is(err, client.ErrSlowConsumer): // guard.Read is to prevent it
		l.counters.refuse(refusedSlowConsumer, "the client's library drops frames", "agent", l.agent)
	case errors.Is(err, client.ErrBadHeaderMsg): // counted where the frame is looked at
	case errors.Is(err, client.ErrPermissionViolation):
		l.counters.refuse(refusedPermission, "the broker refuses a subject", "error", err)
	case isLoginError(err):
		l.counters.refuse(refusedUnauthorized, "the broker refuses the login", "error", err)
	default:
		log.Debug("nats: the client's library reports", "error", err)
	}
}

func isLoginError(err error) bool {
	for _, refusal := range []error{
		client.ErrAuthorization, client.ErrAuthExpired, client.ErrAuthRevoked, client.ErrAccountAuthExpired, client.ErrNkeysNotSupported,
	} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// connectError says what could not be connected to, and counts why.
func (c *Config) connectError(n *counters, err error) error {
	broker := c.URL
	if broker == "" {
		broker = "the embedded server"
	}
	var hint string
	_, foreign := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case isLoginError(err):
		n.refused.Inc(refusedUnauthorized)
		hint = " (check Credentials, Seed, Username or Token)"
	case foreign, isTLSAlert(err), errors.Is(err, client.ErrTLS):
		n.refused.Inc(refusedCertificate)
		hint = " (check TLS)"
	case errors.Is(err, client.ErrNoInfoReceived), strings.Contains(err.Error(), "timeout"):
		hint = " (is this a NATS server?)"
	case errors.Is(err, client.ErrSecureConnWanted):
		hint = " (the server has no TLS)"
	}
	return fmt.Errorf("connect to %s: %w%s", broker, err, hint)
}

func isTLSAlert(err error) bool {
	if _, alert := errors.AsType[tls.AlertError](err); alert {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

func (c *Config) secure(o *client.Options) error {
	if c.TLS == (TLS{}) && !strings.HasPrefix(c.URL, "tls:") {
		return nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: c.TLS.ServerName}
	var err error
	if c.TLS.CA != "" {
		if t.RootCAs, err = readPool(c.TLS.CA); err != nil {
			return fmt.Errorf("nats.Config.TLS.CA: %w", err)
		}
	}
	if c.TLS.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
		if err != nil {
			return fmt.Errorf("nats.Config.TLS.Certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	o.Secure, o.TLSConfig = true, t
	return nil
}

func readPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return pool, nil
}

// login sets how the broker gets to know who we are.
func (c *Config) login(o *client.Options) (err error) {
	field := "Credentials"
	switch {
	case c.Credentials != "":
		if _, err = os.Stat(c.Credentials); err == nil {
			err = client.UserCredentials(c.Credentials)(o)
		}
	case c.Seed != "":
		field = "Seed"
		var option client.Option
		if option, err = client.NkeyOptionFromSeed(c.Seed); err == nil {
			err = option(o)
		}
	case c.Username != "":
		field = "Password"
		o.User = c.Username
		o.Password, err = c.Password.Read()
	case !c.Token.isZero():
		field = "Token"
		o.Token, err = c.Token.Read()
	}
	if err != nil {
		return fmt.Errorf("nats.Config.%s: %w", field, err)
	}
	return nil
}

// pass is a login for the embedded server that exists in this process only.
type pass struct {
	public string
	pair   nkeys.KeyPair
}

func newPass() (pass, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return pass{}, err
	}
	public, err := pair.PublicKey()
	return pass{public, pair}, err
}

func (p pass) use(o *client.Options) {
	o.Nkey = p.public
	o.SignatureCB = p.pair.Sign
}
