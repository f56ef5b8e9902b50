package websocket

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

// Serve implements [mesh.Kind]: an HTTP server that answers nothing but upgrades.
func (k kind) Serve(l net.Listener, n *mesh.Network) {
	arrivals := k.arrivals(l, n)
	defer arrivals.running.Wait()
	var open sync.WaitGroup
	patience := 2 * k.handshakeTimeout() // the listener's deadline ends before, and is counted
	server := &http.Server{
		Handler:           k.mux(),
		ReadHeaderTimeout: patience,
		ReadTimeout:       patience,
		WriteTimeout:      patience,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // what it would say is counted and logged by us
		ConnState:         count(&open),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, arrivalKey{}, c)
		},
	}
	server.Serve(arrivals)
	server.Close()
	open.Wait()
}

func (k kind) mux() http.Handler {
	served := door{network: k.Network, proof: k.config.Proof}
	mux := http.NewServeMux()
	mux.Handle(k.config.Path, served)
	mux.HandleFunc("/", served.refuseElsewhere)
	return mux
}

// count holds open above zero while the server has connections of its own: such that were not hijacked.
func count(open *sync.WaitGroup) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateHijacked, http.StateClosed:
			open.Done()
		}
	}
}

var errNotHTTP = errors.New("no request of HTTP, or one with headers beyond the limit")

// handshakeTimeout is Config.HandshakeTimeout, for what does not come by the mesh's listener.
func (n *Network) handshakeTimeout() time.Duration {
	return cmp.Or(n.config.HandshakeTimeout, 5*time.Second)
}

// refuse counts and logs what was turned away.
func (n *Network) refuse(remote net.Addr, err error) { n.mesh.Refuse(remote, refusalOf(err)) }

// turnAway ends a connection whose ends did not prove who they are, and returns why.
func (n *Network) turnAway(ws *websocket.Conn, w *wire, err error) error {
	r := refusalOf(err)
	farewellTo(ws, w, codeOf(r.Reason))
	return r
}

// arrivals is a listener that gives out connections whose handshake of TLS is done, if there is to be one, so
// that none waits for another's, and each failure is counted.
type arrivals struct {
	net.Listener
	network *Network
	tls     *tls.Config // nil for plain HTTP
	ready   chan net.Conn
	closed  chan struct{}
	running sync.WaitGroup
}

func (k kind) arrivals(l net.Listener, n *mesh.Network) *arrivals {
	a := &arrivals{Listener: l, network: k.Network, ready: make(chan net.Conn), closed: make(chan struct{})}
	if k.config.Proof == Certificate {
		a.tls = peertls.Server{Credential: n.Credential, Allowed: n.Allowed, Protocol: protocol, Now: n.Now}.Config()
	}
	a.running.Go(a.run)
	return a
}

func (a *arrivals) run() {
	defer close(a.closed)
	for {
		raw, err := a.Listener.Accept()
		if err != nil {
			return
		}
		a.running.Go(func() { a.greet(raw) })
	}
}

func (a *arrivals) greet(raw net.Conn) {
	at := &arrival{Conn: raw, network: a.network}
	if a.tls != nil {
		conn := tls.Server(raw, a.tls)
		if err := conn.HandshakeContext(context.Background()); err != nil { // the listener's deadline ends it
			conn.Close()
			a.network.mesh.Refuse(raw.RemoteAddr(), err)
			return
		}
		state := conn.ConnectionState()
		at.Conn, at.tls = conn, &state
	}
	select {
	case a.ready <- at:
	case <-a.closed:
		at.Close()
	}
}

// Accept implements [net.Listener].
func (a *arrivals) Accept() (net.Conn, error) {
	select {
	case conn := <-a.ready:
		return conn, nil
	case <-a.closed:
		return nil, net.ErrClosed
	}
}

// arrival is a connection that the HTTP server gets.
type arrival struct {
	net.Conn
	network *Network
	tls     *tls.ConnectionState // nil for plain HTTP
	asked   atomic.Bool          // a request has come
}

// arrivalKey is the key of the arrival in the context of its requests.
type arrivalKey struct{}

// arrivalOf returns the connection of a request, if it came by our listener.
func arrivalOf(r *http.Request) *arrival {
	at, _ := r.Context().Value(arrivalKey{}).(*arrival)
	return at
}

// NetConn returns the connection beneath.
func (at *arrival) NetConn() net.Conn { return at.Conn }

// Write implements [net.Conn]. What the server writes before there is a request says that what came is none.
func (at *arrival) Write(b []byte) (int, error) {
	n, err := at.Conn.Write(b)
	if err == nil && at.asked.CompareAndSwap(false, true) {
		at.network.refuse(at.RemoteAddr(), &peertls.Refusal{Reason: reasonNotWebSocket, Err: errNotHTTP})
	}
	return n, err
}
