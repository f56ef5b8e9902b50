package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
)

// broker is the embedded server.
type broker struct {
	server *server.Server
	pass   *pass // how the agents of this process log in; nil if nobody has to
}

// startBroker starts the embedded server and waits until it serves.
func startBroker(ctx context.Context, c *Config, n *counters) (*broker, error) {
	b := &broker{}
	options, err := c.serverOptions(b)
	if err != nil {
		return nil, err
	}
	if b.server, err = server.NewServer(options); err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	log := &serverLog{log: c.Logger.With("server", options.ServerName), counters: n}
	b.server.SetLoggerV2(log, false, false, false)
	if c.Server.OpenUnsafe {
		c.Logger.Warn("nats: the embedded server lets in EVERYBODY who reaches it", "listen", c.Server.Listen, "cluster", c.Server.Cluster.Listen)
	}
	if err := b.start(ctx, c.ReadyTimeout, log); err != nil {
		b.stop()
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	return b, nil
}

func (b *broker) start(ctx context.Context, limit time.Duration, log *serverLog) error {
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	b.server.Start()
	if err := log.worst(); err != nil {
		return err
	}
	if !b.server.ReadyForConnections(limit) {
		return errors.Join(fmt.Errorf("not ready within %v", limit.Round(time.Millisecond)), log.worst())
	}
	return nil
}

// stop ends the server and waits for it. Stopping one that never ran is fine.
func (b *broker) stop() {
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

// options sets how an agent of this process connects.
func (b *broker) options(o *client.Options) {
	if b != nil && b.pass != nil {
		b.pass.use(o)
	}
}

func (c *Config) serverOptions(b *broker) (*server.Options, error) {
	s := c.Server
	o := &server.Options{
		ServerName:             s.Name,
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
		MaxConn:                s.MaxConnections,
		MaxPayload:             int32(c.MaxFrame + headerRoom),
		MaxPending:             s.MaxPending,
		PingInterval:           max(c.IdleTimeout/3, time.Millisecond),
		MaxPingsOut:            2,
		WriteDeadline:          c.WriteTimeout,
		WriteTimeout:           server.WriteTimeoutPolicyRetry, // a slow reader is none that does not read
		AuthTimeout:            c.ConnectTimeout.Seconds(),
		TLSTimeout:             c.ConnectTimeout.Seconds(),
		MaxClosedClients:       100,
	}
	for _, part := range []func(*server.Options) error{s.listen, s.cluster, b.logins(s), c.store} {
		if err := part(o); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (s Server) listen(o *server.Options) error {
	if s.Listen == "" {
		return nil
	}
	o.DontListen = false
	var err error
	if o.Host, o.Port, err = hostPort(s.Listen); err != nil {
		return fmt.Errorf("nats.Config.Server.Listen: %w", err)
	}
	if o.TLSConfig, err = s.TLS.config(false); err != nil {
		return fmt.Errorf("nats.Config.Server.TLS: %w", err)
	}
	o.TLS, o.TLSVerify = o.TLSConfig != nil, s.TLS.ClientCA != ""
	return nil
}

// logins sets who may connect. Once anybody has to log in, the agents of this process do too.
func (b *broker) logins(s Server) func(*server.Options) error {
	return func(o *server.Options) error {
		if len(s.Users) == 0 && len(s.Nkeys) == 0 {
			return nil
		}
		p, err := newPass()
		if err != nil {
			return err
		}
		b.pass = &p
		for _, key := range append([]string{p.public}, s.Nkeys...) {
			o.Nkeys = append(o.Nkeys, &server.NkeyUser{Nkey: key})
		}
		for _, u := range s.Users {
			password, err := u.Password.Read()
			if err != nil {
				return fmt.Errorf("nats.Config.Server.Users: password of %q: %w", u.Name, err)
			}
			o.Users = append(o.Users, &server.User{Username: u.Name, Password: password})
		}
		return nil
	}
}

func (s Server) cluster(o *server.Options) error {
	c := s.Cluster
	if c.Listen == "" {
		return nil
	}
	var err error
	o.Cluster.Name = c.Name
	if o.Cluster.Host, o.Cluster.Port, err = hostPort(c.Listen); err != nil {
		return fmt.Errorf("nats.Config.Server.Cluster.Listen: %w", err)
	}
	o.Cluster.NoAdvertise = true
	if o.Cluster.TLSConfig, err = c.TLS.config(true); err != nil {
		return fmt.Errorf("nats.Config.Server.Cluster.TLS: %w", err)
	}
	var login *url.Userinfo
	if c.Username != "" {
		password, err := c.Password.Read()
		if err != nil {
			return fmt.Errorf("nats.Config.Server.Cluster.Password: %w", err)
		}
		o.Cluster.Username, o.Cluster.Password = c.Username, password
		login = url.UserPassword(c.Username, password)
	}
	for _, route := range c.Routes {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats-route", Host: route, User: login})
	}
	return nil
}

func (c *Config) store(o *server.Options) error {
	if c.Server.StoreDir == "" {
		return nil
	}
	o.JetStream = true
	o.StoreDir = c.Server.StoreDir
	o.SyncAlways = true
	o.JetStreamMaxStore = c.Server.MaxStore
	o.JetStreamMaxMemory = 64 << 20
	return nil
}

// hostPort reads an address; port 0 is -1 to the server.
func hostPort(address string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%.80q: port %w", address, errors.Unwrap(err))
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

// config returns nil if there is no TLS. Between servers, each is the client of others.
func (t ServerTLS) config(between bool) (*tls.Config, error) {
	if t.Certificate == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	if t.ClientCA == "" {
		return c, nil
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	if c.ClientCAs, err = readPool(t.ClientCA); err != nil {
		return nil, err
	}
	if between {
		c.RootCAs = c.ClientCAs
	}
	return c, nil
}
