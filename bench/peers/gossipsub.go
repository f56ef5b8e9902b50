package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

// gossipsub has two libp2p hosts that talk TLS over loopback TCP. Messages are signed by the publisher's
// Ed25519 key and verified by the other host, on all cores, which is what gossipsub does unless told
// otherwise. Its queues drop what finds no room, so they are made larger than the window.
func gossipsub(ctx context.Context, l load) (figure, error) {
	return drive(ctx, l, openGossipsub)
}

const topicName = "bench"

func openGossipsub(ctx context.Context, arrived func()) (*peerLink, error) {
	ctx, cancel := context.WithCancel(ctx)
	near, err := newHost()
	if err != nil {
		cancel()
		return nil, err
	}
	far, err := newHost()
	if err != nil {
		cancel()
		return nil, errors.Join(err, near.Close())
	}
	topic, err := connectHosts(ctx, near, far, arrived)
	p := &peerLink{
		send: func(ctx context.Context, _ int, body []byte) error {
			return topic.Publish(ctx, append([]byte(nil), body...))
		},
		close: func() {
			cancel()
			near.Close()
			far.Close()
		},
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func newHost() (host.Host, error) {
	return libp2p.New(
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(nil),
	)
}

// connectHosts has near receive what is published to the topic that it returns, which is far's.
func connectHosts(ctx context.Context, near, far host.Host, arrived func()) (*pubsub.Topic, error) {
	receiving, err := joinTopic(ctx, near)
	if err != nil {
		return nil, err
	}
	sub, err := receiving.Subscribe(pubsub.WithBufferSize(2 * window))
	if err != nil {
		return nil, err
	}
	sending, err := joinTopic(ctx, far)
	if err != nil {
		return nil, err
	}
	if err := far.Connect(ctx, peer.AddrInfo{ID: near.ID(), Addrs: near.Addrs()}); err != nil {
		return nil, err
	}
	for len(sending.ListPeers()) == 0 {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	go func() {
		for {
			m, err := sub.Next(ctx)
			if err != nil {
				return
			}
			if m.GetFrom() != far.ID() {
				panic(fmt.Sprintf("a message from %s", m.GetFrom()))
			}
			arrived()
		}
	}()
	return sending, nil
}

func joinTopic(ctx context.Context, h host.Host) (*pubsub.Topic, error) {
	ps, err := pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictSign),
		pubsub.WithPeerOutboundQueueSize(2*window),
		pubsub.WithValidateQueueSize(2*window),
		pubsub.WithValidateThrottle(2*window),
	)
	if err != nil {
		return nil, err
	}
	return ps.Join(topicName)
}
