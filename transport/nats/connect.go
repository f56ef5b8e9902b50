package nats

import (
	"context"
	"fmt"
	"strings"
	"time"

	client "github.com/nats-io/nats.go"
)

// Connect returns a connection of its own to the broker, with the login of the configuration, for somebody who
// keeps things there besides frames: a store, say. It starts the embedded server if there is one, which
// has streams only if Server.StoreDir is set. The connection comes back by itself whenever it breaks; what
// is published meanwhile is an error at once. name is what the broker calls it.
//
// The caller closes it, before the Network. Ending ctx ends the attempt.
func (n *Network) Connect(ctx context.Context, name string) (*client.Conn, error) {
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	c := &n.config
	o := client.GetDefaultOptions()
	o.Name = "converge " + name
	o.IgnoreDiscoveredServers = true
	o.IgnoreAuthErrorAbort = true
	o.MaxReconnect = -1
	o.ReconnectBufSize = -1
	o.CustomReconnectDelayCB = c.backoff
	o.Timeout = c.ConnectTimeout
	o.PingInterval = max(c.IdleTimeout/3, time.Millisecond)
	o.MaxPingsOut = 2
	if b := n.embedded(); b != nil {
		o.InProcessServer = b.server
		b.options(&o)
	} else if err := c.reach(&o); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, &o)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, c.connectError(&n.counters, err))
	}
	return conn, nil
}

// reach sets the servers that are there already, and how to log in.
func (c *Config) reach(o *client.Options) (err error) {
	if o.Servers, err = serverURLs(c.URL); err != nil {
		return err
	}
	if err := c.secure(o); err != nil {
		return err
	}
	return c.login(o)
}

// maxDials is how often a broker is dialled that pings before it has let us in.
const maxDials = 3

// dial is o.Connect, once more if the broker pinged before it had let us in: it pings who takes two seconds for that, and
// the library takes the ping for a wrong answer.
func dial(o *client.Options) (conn *client.Conn, err error) {
	for range maxDials {
		if conn, err = o.Connect(); err == nil || !strings.HasSuffix(err.Error(), "expected 'PONG', got 'PING'") {
			break
		}
	}
	return conn, err
}

// connect is o.Connect that ends with ctx. A connection that is made after that is closed.
func connect(ctx context.Context, o *client.Options) (*client.Conn, error) {
	type made struct {
		conn *client.Conn
		err  error
	}
	done := make(chan made, 1)
	go func() {
		conn, err := dial(o)
		done <- made{conn, err}
	}()
	select {
	case m := <-done:
		return m.conn, m.err
	case <-ctx.Done():
		go func() {
			if m := <-done; m.conn != nil {
				m.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}
