package network

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/nats"
)

type natsCarrier struct {
	*nats.Network
	log *slog.Logger
}

func (n *Network) newNATS(c *config.Config) (carrier, error) {
	s := c.NATS
	setup := nats.Config{
		Network: c.Network, URL: brokerURL(c),
		Credentials: s.Credentials, Seed: s.NKey, Username: s.User, Password: nats.Secret(s.Password), Token: nats.Secret(s.Token),
		TLS:      nats.TLS(s.TLS),
		MaxFrame: n.maxFrame(), WhenFull: whenFull(s.WhenFull), Grace: time.Duration(s.Grace),
		Durable: nats.Durable{
			Enabled: s.Durable, Replicas: s.Stream.Replicas, MaxAge: time.Duration(s.Stream.MaxAge),
			MaxBytes: int64(s.Stream.MaxBytes), Forget: time.Duration(s.Stream.Forget),
		},
		Logger: n.log,
	}
	if setup.URL == "" {
		setup.Server = n.brokerOf(c)
	}
	wires, err := nats.New(setup)
	if err != nil {
		return nil, err
	}
	return natsCarrier{wires, n.log}, nil
}

// brokerURL returns the servers that are there already, "" if this process has its own.
func brokerURL(c *config.Config) string {
	if c.Transport == config.TransportNATS {
		return ""
	}
	return c.Transport
}

// brokerOf returns the server of this process.
func (n *Network) brokerOf(c *config.Config) nats.Server {
	s, cluster := c.NATS.Server, c.NATS.Server.Cluster
	broker := nats.Server{
		Name: s.Name, Listen: c.Listen, TLS: nats.ServerTLS(s.TLS), Nkeys: s.NKeys, OpenUnsafe: c.Unsafe.OpenBroker,
		Cluster: nats.Cluster{
			Name: cluster.Name, Listen: cluster.Listen, Routes: cluster.Routes,
			Username: cluster.User, Password: nats.Secret(cluster.Password), TLS: nats.ServerTLS(cluster.TLS),
		},
	}
	for _, u := range s.Users {
		broker.Users = append(broker.Users, nats.User{Name: u.Name, Password: nats.Secret(u.Password)})
	}
	if c.NATS.Durable || c.StoreKind() == config.StoreNATS {
		broker.StoreDir = filepath.Join(n.dir, "nats")
	}
	return broker
}

func (c natsCarrier) start(ctx context.Context) error {
	err := c.Start(ctx)
	for what, addr := range map[string]net.Addr{"listening": c.Addr(), "listening for other servers": c.ClusterAddr()} {
		if addr != nil {
			c.log.Info(what, "transport", config.TransportNATS, "address", addr.String())
		}
	}
	return err
}

func (c natsCarrier) endpoint(id *identity.Identity) transport.Transport { return c.Endpoint(id) }
func (c natsCarrier) addr() net.Addr                                     { return c.Addr() }
