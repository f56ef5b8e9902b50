package nats

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// Defaults of a [Config].
const (
	DefaultMaxFrame       = message.DefaultMaxSize + 64<<10
	DefaultPending        = 64 << 10
	DefaultPendingBytes   = 64 << 20
	DefaultWindow         = 4 << 20
	DefaultConnectTimeout = 5 * time.Second
	DefaultReadyTimeout   = 30 * time.Second
	DefaultWriteTimeout   = 10 * time.Second
	DefaultIdleTimeout    = 45 * time.Second
	DefaultGrace          = 5 * time.Second
	DefaultBackoffMin     = 100 * time.Millisecond
	DefaultBackoffMax     = 10 * time.Second
)

// Config configures a [Network]. Only Network is required: the zero value of all else is an embedded
// server that listens nowhere, for the agents of this process.
type Config struct {
	// Network names the network; see message.CheckNetwork. Agents of different networks do not hear of
	// each other on one broker.
	Network string

	// URL is the broker: "nats://host:port" or "tls://host:port", several servers of one cluster separated
	// by commas ("nats://a,b,c"). Only these are dialled, never an address that a server names. It holds no
	// credentials. Empty means the embedded server, which Server configures.
	URL string
	// Credentials is a file with a user's JWT and seed.
	Credentials string
	// Seed is a file with the seed of a user's nkey.
	Seed string
	// Username and Password, or Token, log in with a secret that the broker gets to see.
	Username string
	Password Secret
	Token    Secret
	// TLS is for the connection to URL. It is used if the URL says tls, or if any of its fields is set.
	TLS TLS

	// Server configures the embedded server. It has to be zero if URL is set.
	Server Server
	// Durable switches to frames that are stored until they are acknowledged.
	Durable Durable

	// MaxFrame is the size of the largest frame, in bytes; 0 means DefaultMaxFrame. An external broker's
	// max_payload should be 16 KiB more, or its limit counts. Larger frames that come in are dropped and
	// counted.
	MaxFrame int
	// Pending and PendingBytes bound the frames that wait for one agent to receive them; 0 means
	// DefaultPending and DefaultPendingBytes. One sender gets half of the room, and all together who are no
	// agents an eighth. Frames beyond are dropped and counted (core mode).
	Pending      int
	PendingBytes int
	// Window is how many bytes (and at most 4,096 frames) may be on their way from one agent of this
	// network to another that has not taken them in; 0 means DefaultWindow. See WhenFull. Over a long
	// path, speed is at most Window a round trip.
	Window int
	// WhenFull says what direct frames for an agent that does not receive meet. With transport.Block, the
	// default, their senders wait when Window is full. With transport.DropNewest they do not, and the
	// agent's connection drops what exceeds Pending. In the durable mode it says what Send does when the
	// stream has no room: wait, or return transport.ErrQueueFull.
	WhenFull transport.WhenFull

	// ConnectTimeout bounds one attempt to connect to one server, login included, and the wait for a sign of
	// life of an agent before the first frame to it; 0 means DefaultConnectTimeout. The latter is told at
	// once if nobody listens for the agent.
	ConnectTimeout time.Duration
	// ReadyTimeout bounds how long Start waits for the embedded server, and in the durable mode for a
	// cluster that has a quorum; 0 means DefaultReadyTimeout.
	ReadyTimeout time.Duration
	// WriteTimeout is after what time of a broker that does not read the connection is given up; 0 means
	// DefaultWriteTimeout.
	WriteTimeout time.Duration
	// IdleTimeout is after what time without a byte from the broker the connection is given up; the broker
	// is asked for a sign of life at each third of it. 0 means DefaultIdleTimeout.
	IdleTimeout time.Duration
	// Grace is how long Send waits for a broker that is away, counted from when the connection broke; after
	// that Send fails at once. Close takes as long at most. 0 means DefaultGrace.
	Grace time.Duration
	// BackoffMin and BackoffMax bound the pause between attempts to connect again; it doubles, and any part
	// of it is taken at random. 0 means DefaultBackoffMin and DefaultBackoffMax.
	BackoffMin, BackoffMax time.Duration

	// Logger gets lost connections, what is turned away (see transport.Stats.Refused) and what the embedded
	// server warns of at warn, one line of each sort a second, and the rest at debug; nil means
	// slog.Default.
	Logger *slog.Logger
}

// TLS is a client's side of TLS 1.3.
type TLS struct {
	CA          string // file with the certificates of the authorities to believe; "" means the system's
	Certificate string // file with the client's certificate; "" means none
	Key         string // file with the certificate's key
	ServerName  string // what the broker's certificate has to be for; "" means the URL's host
}

// Secret says where a secret is: in a file (blanks and line ends around it do not count) or in an
// environment variable. It is read when it is used, and never logged. At most one of the fields is set.
type Secret struct {
	File string
	Env  string
}

// maxSecret bounds a secret's size in bytes.
const maxSecret = 4 << 10

func (s Secret) isZero() bool { return s == Secret{} }

// Read returns the secret. Errors name the place, never the content.
func (s Secret) Read() (string, error) {
	if s.Env != "" {
		secret := os.Getenv(s.Env)
		if secret == "" {
			return "", fmt.Errorf("environment variable %s: not set", s.Env)
		}
		return secret, nil
	}
	data, err := os.ReadFile(s.File)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" || len(secret) > maxSecret {
		return "", fmt.Errorf("%s: a secret has 1 to %d bytes", s.File, maxSecret)
	}
	return secret, nil
}

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	c.MaxFrame = cmp.Or(c.MaxFrame, DefaultMaxFrame)
	c.Pending = cmp.Or(c.Pending, DefaultPending)
	c.PendingBytes = cmp.Or(c.PendingBytes, DefaultPendingBytes)
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultConnectTimeout)
	c.ReadyTimeout = cmp.Or(c.ReadyTimeout, DefaultReadyTimeout)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	c.BackoffMin = cmp.Or(c.BackoffMin, DefaultBackoffMin)
	c.BackoffMax = cmp.Or(c.BackoffMax, max(DefaultBackoffMax, c.BackoffMin))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Server = c.Server.withDefaults()
	c.Durable = c.Durable.withDefaults()
	return c
}

// check returns every mistake. It is meant for a configuration with defaults.
func (c Config) check() error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("nats.Config."+field+": "+format, args...))
	}
	if err := message.CheckNetwork(c.Network); err != nil {
		wrong("Network", "%w", err)
	}
	for _, size := range []struct {
		field string
		n     int
	}{{"MaxFrame", c.MaxFrame}, {"Pending", c.Pending}, {"PendingBytes", c.PendingBytes}, {"Window", c.Window}} {
		if size.n < 1 || size.n > math.MaxInt32/2 {
			wrong(size.field, "%d is not between 1 and %d", size.n, math.MaxInt32/2)
		}
	}
	for _, time := range []struct {
		field string
		d     time.Duration
	}{
		{"ConnectTimeout", c.ConnectTimeout}, {"ReadyTimeout", c.ReadyTimeout}, {"WriteTimeout", c.WriteTimeout},
		{"IdleTimeout", c.IdleTimeout}, {"Grace", c.Grace}, {"BackoffMin", c.BackoffMin},
	} {
		if time.d < 0 {
			wrong(time.field, "%v is negative", time.d)
		}
	}
	if c.BackoffMax < c.BackoffMin {
		wrong("BackoffMax", "%v is less than BackoffMin, %v", c.BackoffMax, c.BackoffMin)
	}
	c.checkLogin(wrong)
	c.checkBroker(wrong)
	c.Durable.check(wrong)
	return errors.Join(errs...)
}

type complain = func(field, format string, args ...any)

func (c Config) checkLogin(wrong complain) {
	ways := 0
	for _, set := range []bool{c.Credentials != "", c.Seed != "", c.Username != "", !c.Token.isZero()} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		wrong("Credentials", "use one of Credentials, Seed, Username and Token")
	case ways > 0 && c.URL == "":
		wrong("URL", "required with Credentials, Seed, Username and Token: the embedded server knows its own agents")
	}
	if (c.Username == "") != c.Password.isZero() {
		wrong("Password", "Username and Password go together")
	}
	c.Password.check("Password", wrong)
	c.Token.check("Token", wrong)
}

func (s Secret) check(field string, wrong complain) {
	if s.File != "" && s.Env != "" {
		wrong(field, "use File or Env, not both")
	}
}

func (c Config) checkBroker(wrong complain) {
	if c.URL == "" {
		if c.TLS != (TLS{}) {
			wrong("TLS", "is for an external broker; set URL, or Server.TLS")
		}
		c.Server.check(c.Durable.Enabled, wrong)
		return
	}
	if !c.Server.isZero() {
		wrong("Server", "is for the embedded server, but URL names another one")
	}
	if _, err := serverURLs(c.URL); err != nil {
		wrong("URL", "%w", err)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		wrong("TLS", "Certificate and Key go together")
	}
}

// serverURLs returns the servers of a URL with several hosts.
func serverURLs(text string) ([]string, error) {
	scheme, hosts, found := strings.Cut(text, "://")
	if !found || scheme != "nats" && scheme != "tls" {
		return nil, errors.New(`want "nats://host:port" or "tls://host:port", several hosts separated by commas`)
	}
	var urls []string
	for host := range strings.SplitSeq(hosts, ",") {
		host = strings.TrimPrefix(strings.TrimSpace(host), scheme+"://")
		if strings.Contains(host, "@") {
			return nil, errors.New("holds credentials, which would get into logs; use Username and Password, Token, Seed or Credentials")
		}
		u, err := url.Parse(scheme + "://" + host)
		if err != nil || u.Hostname() == "" || u.Host != host {
			return nil, fmt.Errorf("%.80q is no host and port", host)
		}
		urls = append(urls, u.String())
	}
	return urls, nil
}
