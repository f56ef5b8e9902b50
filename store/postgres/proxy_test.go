package postgres_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between store and server, and does harm to the first request that holds a needle.
type proxy struct {
	listener net.Listener
	server   string
	all      sync.WaitGroup

	mu     sync.Mutex
	needle []byte
	harm   harm
	conns  map[net.Conn]bool
	held   []func() // hands on what was held back
	cuts   int
}

type harm int

const (
	loseAnswer  harm = iota // the server gets the request; its answer is lost, and so is the connection
	cutRequest              // the server gets half of the request
	delayBeyond             // the client loses the connection, the server gets the request when release is called
)

func newProxy(t *testing.T, server string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: server, conns: map[net.Conn]bool{}}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.all.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.all.Go(func() { p.answers(client, server) })
		p.all.Go(func() { p.requests(client, server) })
	}
}

func (p *proxy) answers(client, server net.Conn) {
	defer client.Close()
	io.Copy(client, server)
}

func (p *proxy) requests(client, server net.Conn) {
	chunk := make([]byte, 1<<20)
	for {
		n, err := client.Read(chunk)
		if err == nil && p.strikes(chunk[:n]) {
			p.strike(client, server, bytes.Clone(chunk[:n]))
			return
		}
		if err == nil {
			_, err = server.Write(chunk[:n])
		}
		if err != nil {
			server.Close()
			return
		}
	}
}

// strikes tells whether this request is the one, of which there is one only.
func (p *proxy) strikes(request []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.needle) == 0 || !bytes.Contains(request, p.needle) {
		return false
	}
	p.needle = nil
	p.cuts++
	return true
}

func (p *proxy) strike(client, server net.Conn, request []byte) {
	switch p.harm {
	case loseAnswer:
		client.Close() // first, so that answers has nowhere to go
		server.Write(request)
		server.(*net.TCPConn).CloseWrite() // the server reads on to the end of what it got
	case cutRequest:
		server.Write(request[:len(request)/2])
		client.Close()
		server.Close()
	case delayBeyond:
		p.mu.Lock()
		p.held = append(p.held, func() { server.Write(request) })
		p.mu.Unlock()
		client.Close()
	}
}

// arm chooses the request and what happens to it.
func (p *proxy) arm(needle string, h harm) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.needle, p.harm = []byte(needle), h
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hand := range p.held {
		hand()
	}
	p.held = nil
}

func (p *proxy) struck() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}
