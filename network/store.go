package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/memory"
	"github.com/converge-agents/converge/store/natskv"
	"github.com/converge-agents/converge/store/postgres"
	"github.com/converge-agents/converge/store/sqlite"
	"github.com/converge-agents/converge/transport/nats"
)

// openStore opens the store of the configuration. That of a NATS cluster waits for the cluster.
func (n *Network) openStore(ctx context.Context) (err error) {
	switch n.config.StoreKind() {
	case config.StoreSQLite:
		n.store, err = opened(sqlite.Open(ctx, sqlite.Config{Path: n.config.StorePath(), Logger: n.log}))
	case config.StorePostgres:
		n.store, err = n.openPostgres(ctx)
	case config.StoreNATS:
		n.store, err = n.openBucket(ctx)
	default:
		n.store, err = opened(memory.New(memory.Config{}))
	}
	if err != nil {
		return fmt.Errorf("open store (store): %w", err)
	}
	return nil
}

// withStore returns a network of which nothing runs but its store, and what that needs.
func withStore(ctx context.Context, c *config.Config, o Options) (*Network, error) {
	n := newNetwork(c, o)
	steps := []func() error{n.makeDir, func() error { return n.openStore(ctx) }}
	if c.StoreKind() == config.StoreNATS {
		steps = slices.Insert(steps, 1, n.addTransport)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// opened keeps a nil pointer from becoming a store that is there.
func opened[S store.Store](s S, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (n *Network) openPostgres(ctx context.Context) (store.Store, error) {
	c := postgres.Config{URL: n.config.Store, Schema: n.config.Postgres.Schema, Logger: n.log}
	if secret := nats.Secret(n.config.Postgres.Password); secret != (nats.Secret{}) {
		c.Password = func(context.Context) (string, error) { return secret.Read() }
	}
	s, err := postgres.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	n.metrics.Require("store", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
		defer cancel()
		return s.Healthy(ctx) == nil
	})
	return s, nil
}

const (
	// healthTimeout is how long a store may take to answer before the process does not count as ready.
	healthTimeout = 2 * time.Second
	// clusterPatience is how long the servers of a cluster may take to find each other.
	clusterPatience = 2 * time.Minute
	clusterRetry    = 200 * time.Millisecond
)

// openBucket opens a key-value bucket on the servers that carry the messages too.
func (n *Network) openBucket(ctx context.Context) (store.Store, error) {
	carrier, ok := n.transport.(natsCarrier)
	if !ok {
		return nil, errors.New("the transport is not nats")
	}
	conn, err := carrier.Connect(ctx, "store of "+n.config.Network)
	if err != nil {
		return nil, err
	}
	n.disconnect = conn.Close
	streams, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	b := n.config.NATS.Store
	c := natskv.Config{JetStream: streams, Bucket: b.Name, Replicas: b.Replicas, MaxBytes: int64(b.MaxBytes), Logger: n.log}
	if c.Bucket == "" {
		c.Bucket = "converge"
	}
	for giveUp := time.Now().Add(clusterPatience); ; {
		s, err := natskv.Open(ctx, c)
		if err == nil {
			if err = readable(ctx, s); err != nil {
				err = errors.Join(err, s.Close())
			}
		}
		if err == nil {
			n.metrics.Require("store", func() bool { return s.Healthy() == nil })
			return s, nil
		}
		if s == nil && !errors.Is(err, natskv.ErrUnavailable) || ctx.Err() != nil || time.Now().After(giveUp) {
			return nil, err
		}
		n.log.Info("waiting for the servers of the store", "error", err)
		select {
		case <-time.After(clusterRetry):
		case <-ctx.Done():
		}
	}
}

// readable reports why a store does not answer: the servers of a cluster that has just found each other may refuse
// for a moment.
func readable(ctx context.Context, s store.Store) error {
	for _, err := range s.List(ctx, "keys/") {
		return err
	}
	return nil
}

// closeStore ends the store, and its connection if it has one.
func (n *Network) closeStore() (err error) {
	if n.store != nil {
		err = n.store.Close()
	}
	if n.disconnect != nil {
		n.disconnect()
	}
	return err
}
