package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"runtime"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsByHand is what one writes who wants signed messages on NATS: the body after an Ed25519 signature
// of the standard library, which the subscription's callback verifies. There is no TLS, no check of age or
// replay, and no limit. Senders sign beside each other; one goroutine calls the callback of a
// subscription, so one core verifies.
func natsByHand(ctx context.Context, l load) (figure, error) { return natsSigned(ctx, l, 1) }

// natsAllCores is natsByHand by somebody who hands what arrives to as many goroutines as there are cores,
// and gives up its order for that.
func natsAllCores(ctx context.Context, l load) (figure, error) {
	return natsSigned(ctx, l, runtime.NumCPU())
}

func natsSigned(ctx context.Context, l load, verifiers int) (figure, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return figure{}, err
	}
	verify := func(m []byte) bool {
		return len(m) >= ed25519.SignatureSize && ed25519.Verify(public, m[ed25519.SignatureSize:], m[:ed25519.SignatureSize])
	}
	return drive(ctx, l, func(_ context.Context, arrived func()) (*peerLink, error) {
		n, err := openNATS()
		if err != nil {
			return nil, err
		}
		sign := func(body []byte) []byte { return append(ed25519.Sign(private, body), body...) }
		return n.link(sign, n.receiveSigned(verifiers, verify, arrived))
	})
}

// natsUnsigned is what NATS does by itself.
func natsUnsigned(ctx context.Context, l load) (figure, error) {
	return drive(ctx, l, func(_ context.Context, arrived func()) (*peerLink, error) {
		n, err := openNATS()
		if err != nil {
			return nil, err
		}
		return n.link(func(body []byte) []byte { return body }, n.receive(func(*nats.Msg) { arrived() }))
	})
}

const subject = "bench"

// natsLink is an embedded server, and both sides' connections to it over loopback TCP.
type natsLink struct {
	server  *server.Server
	in, out *nats.Conn
	stop    chan struct{}
}

func openNATS() (*natsLink, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		return nil, err
	}
	s.Start()
	n := &natsLink{server: s, stop: make(chan struct{})}
	if !s.ReadyForConnections(10 * time.Second) {
		err = errors.New("the embedded NATS server does not start")
	} else if n.in, err = nats.Connect(s.ClientURL()); err == nil {
		n.out, err = nats.Connect(s.ClientURL())
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// link is what drive drives, once the receiving side has subscribed.
func (n *natsLink) link(encode func([]byte) []byte, subscribed error) (*peerLink, error) {
	if subscribed != nil {
		n.close()
		return nil, subscribed
	}
	return &peerLink{
		send:  func(_ context.Context, _ int, body []byte) error { return n.out.Publish(subject, encode(body)) },
		flush: func() error { return n.out.Flush() },
		close: n.close,
	}, nil
}

func (n *natsLink) receive(f func(*nats.Msg)) error {
	sub, err := n.in.Subscribe(subject, f)
	if err != nil {
		return err
	}
	return errors.Join(sub.SetPendingLimits(-1, -1), n.in.Flush())
}

func (n *natsLink) receiveSigned(verifiers int, verify func([]byte) bool, arrived func()) error {
	check := func(m *nats.Msg) {
		if !verify(m.Data) {
			panic("a message does not verify")
		}
		arrived()
	}
	if verifiers == 1 {
		return n.receive(check)
	}
	messages := make(chan *nats.Msg, 2*window)
	for range verifiers {
		go n.each(messages, check)
	}
	_, err := n.in.ChanSubscribe(subject, messages)
	return errors.Join(err, n.in.Flush())
}

func (n *natsLink) each(messages <-chan *nats.Msg, f func(*nats.Msg)) {
	for {
		select {
		case m := <-messages:
			f(m)
		case <-n.stop:
			return
		}
	}
}

func (n *natsLink) close() {
	close(n.stop)
	for _, c := range []*nats.Conn{n.in, n.out} {
		if c != nil {
			c.Close()
		}
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
}
