package websocket

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/mesh"
	"github.com/converge-agents/converge/internal/peertls"
)

// door turns requests into streams of the mesh: who asks too often, asks for something else, comes from a
// foreign web page or calls an agent that is not here gets an answer of HTTP, and no upgrade.
type door struct {
	network *Network
	proof   Proof
}

// ServeHTTP implements [http.Handler].
func (d door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !d.network.running.Begin() {
		answer(w, http.StatusServiceUnavailable)
		return
	}
	defer d.network.running.Done()
	v := d.visit(r)
	if status, err := v.admit(); err != nil {
		answer(w, status)
		d.network.refuse(v.addr(), err)
		return
	}
	v.serve(w)
}

// refuseElsewhere answers requests for other paths.
func (d door) refuseElsewhere(w http.ResponseWriter, r *http.Request) {
	v := d.visit(r)
	answer(w, http.StatusNotFound)
	d.network.refuse(v.addr(), &peertls.Refusal{Reason: reasonNotWebSocket, Err: errors.New("a request for another path")})
}

// visit is one request.
type visit struct {
	door
	request  *http.Request
	tls      *tls.ConnectionState // nil without TLS
	from     netip.Addr
	viaProxy bool
	callee   *peertls.Credential
}

func (d door) visit(r *http.Request) *visit {
	v := &visit{door: d, request: r, tls: r.TLS, from: addrOf(r.RemoteAddr)}
	if d.proof == Challenge { // with certificates, nobody in between can add to the request
		v.from, v.viaProxy = from(r, d.network.config.TrustedProxies)
	}
	if at := arrivalOf(r); at != nil {
		at.asked.Store(true)
		v.tls = at.tls
	}
	return v
}

// admit checks what can be checked before the upgrade. The status is for the client when err is not nil.
func (v *visit) admit() (status int, err error) {
	r := v.request
	if r.Header.Get("Upgrade") == "" {
		return http.StatusUpgradeRequired, &peertls.Refusal{Reason: reasonNotWebSocket, Err: fmt.Errorf("a request for %.20q without an upgrade", r.Method)}
	}
	self, err := v.called()
	if err != nil {
		return http.StatusNotFound, &peertls.Refusal{Reason: peertls.UnknownAgent, Err: errors.New("the request names no agent")}
	}
	if v.callee = v.network.mesh.Credential(self); v.callee == nil {
		return http.StatusServiceUnavailable, &peertls.Refusal{Reason: peertls.UnknownAgent, Err: fmt.Errorf("agent %s is called, which is not here", self)}
	}
	return 0, nil
}

// called returns the agent that the request is for.
func (v *visit) called() (identity.ID, error) {
	if v.proof == Challenge {
		return calledBy(v.request.URL.Query())
	}
	return peertls.Self(*v.tls)
}

// serve upgrades the request, has both ends prove who they are, and runs the connection to its end.
func (v *visit) serve(w http.ResponseWriter) {
	h := &hijacker{ResponseWriter: w, visit: v}
	ws, err := websocket.Accept(h, v.request, &websocket.AcceptOptions{OriginPatterns: v.network.config.OriginPatterns})
	if err != nil {
		v.network.refuse(v.addr(), &peertls.Refusal{Reason: h.reason(), Err: err})
		return
	}
	s, err := v.prove(ws, h.wire)
	if err != nil {
		v.network.refuse(v.addr(), v.network.turnAway(ws, h.wire, err))
		return
	}
	conn := v.network.newStream(ws, h.wire, v.addr())
	s.Conn = conn
	v.network.mesh.Accept(s)
	conn.Close()
	<-conn.gone
}

// prove returns who is at the other end; the stream has no Conn yet.
func (v *visit) prove(ws *websocket.Conn, w *wire) (s mesh.Stream, err error) {
	s.Self, s.Entry = v.callee.ID(), w.Conn
	if v.proof == Certificate {
		p, err := peertls.ProofOf(*v.tls)
		s.Peer, s.Key, s.Statement = p.ID, p.Key, p.Statement
		return s, err
	}
	client, err := v.challenge(ws)
	return client.into(s), err
}

// challenge runs the server's side of a challenge.
func (v *visit) challenge(ws *websocket.Conn) (client party, err error) {
	c := callee{me: v.callee.Identity(), now: v.network.mesh.Now, host: v.mayDial, known: func(peer identity.ID) bool {
		return v.network.mesh.Allowed(v.callee.ID(), peer)
	}}
	if !v.viaProxy {
		if c.binding, err = exporter(v.tls); err != nil {
			return party{}, err
		}
	}
	return c.prove(context.Background(), ws) // the deadline of the wire ends it
}

// mayDial reports whether a client may have dialled host in order to get here.
func (v *visit) mayDial(host string) bool {
	if hosts := v.network.config.Hosts; len(hosts) > 0 {
		for _, ours := range hosts {
			if plainHost(ours) == host {
				return true
			}
		}
		return false
	}
	return plainHost(hostOf(v.request, v.viaProxy)) == host
}

// addr returns the client's address; behind a proxy, its port is not known.
func (v *visit) addr() net.Addr {
	if direct, err := netip.ParseAddrPort(v.request.RemoteAddr); err == nil && !v.viaProxy {
		return net.TCPAddrFromAddrPort(direct)
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(v.from, 0))
}

// admitted has the mesh count the connection for the address that the request came from.
func (v *visit) admitted(conn net.Conn) (net.Conn, error) {
	return v.network.mesh.Admit(conn, v.from)
}

// answer answers a request that gets no upgrade; the connection ends with it.
func answer(w http.ResponseWriter, status int) {
	w.Header().Set("Connection", "close")
	http.Error(w, http.StatusText(status), status)
}

// hijacker keeps hold of the connection that the library takes over, and of the status that it answers.
type hijacker struct {
	http.ResponseWriter
	visit  *visit
	wire   *wire
	status int
}

// WriteHeader implements [http.ResponseWriter].
func (h *hijacker) WriteHeader(status int) {
	h.status = status
	if status != http.StatusSwitchingProtocols {
		h.Header().Set("Connection", "close")
	}
	h.ResponseWriter.WriteHeader(status)
}

// Hijack implements [http.Hijacker].
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if conn, err = h.visit.admitted(conn); err != nil {
		return nil, nil, err
	}
	h.wire = h.visit.network.newWire(conn)
	h.wire.SetDeadline(time.Now().Add(h.visit.network.handshakeTimeout()))
	return h.wire, bufio.NewReadWriter(buffered.Reader, bufio.NewWriter(h.wire)), nil
}

func (h *hijacker) reason() peertls.Reason {
	if h.status == http.StatusForbidden {
		return reasonOrigin
	}
	return reasonNotWebSocket
}
