package transporttest

import (
	"errors"
	"io"
	"net"
	"time"
)

// historySize is how many bytes a proxy keeps of each flow, to repeat them.
const historySize = 64 << 10

// link is one connection through a proxy: two TCP connections, and a flow each way. The proxy's mutex
// guards all but the connections.
type link struct {
	dialler, target *net.TCPConn
	flows           [2]*flow
	gone            chan struct{} // closed when the link is reset
	budget          int64         // bytes until it is reset; 0 = any
	lost            bool          // bytes were swallowed
	stranded        bool
	over            Direction // the flows that have ended
}

// flow is one direction of a link.
type flow struct {
	direction Direction
	from, to  *net.TCPConn
	history   []byte
}

func newLink(dialler, target *net.TCPConn) *link {
	return &link{
		dialler: dialler, target: target, gone: make(chan struct{}),
		flows: [2]*flow{{direction: Forward, from: dialler, to: target}, {direction: Backward, from: target, to: dialler}},
	}
}

// carry moves the bytes of a flow to their end.
func (p *Proxy) carry(l *link, f *flow) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := f.from.Read(buffer[:p.piece(len(buffer))])
		if n > 0 {
			p.pass(l, f, buffer[:n])
		}
		if err != nil {
			p.end(l, f, err)
			return
		}
	}
}

// piece returns how many bytes to read at once: less on slow paths, so that they are slow evenly.
func (p *Proxy) piece(size int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.rate == 0 {
		return size
	}
	return min(size, max(1, p.faults.rate/50))
}

// pass writes data on, unless a fault has other plans for it.
func (p *Proxy) pass(l *link, f *flow, data []byte) {
	data, last, delay := p.judge(l, f, data)
	if len(data) > 0 {
		f.to.Write(data) // an error shows at the other flow, which reads there
	}
	if last {
		p.mu.Lock()
		p.reset(l)
		p.mu.Unlock()
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-l.gone:
		}
	}
}

// judge returns what passes of data, whether the link is reset after it, and how long to wait then.
func (p *Proxy) judge(l *link, f *flow, data []byte) (pass []byte, last bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent(l, f) {
		l.lost = true
		return nil, false, 0
	}
	if l.budget > 0 {
		data = data[:min(int64(len(data)), l.budget)]
		l.budget -= int64(len(data))
		last = l.budget == 0
	}
	f.history = append(f.history, data...)
	f.history = f.history[max(0, len(f.history)-historySize):]
	if p.faults.rate > 0 {
		delay = time.Duration(len(data)) * time.Second / time.Duration(p.faults.rate)
	}
	return data, last, delay
}

// silent reports whether a flow's bytes are swallowed; p.mu is held.
func (p *Proxy) silent(l *link, f *flow) bool {
	return l.stranded || p.faults.stalled&f.direction != 0
}

// end passes the end of a flow on: a FIN for a FIN, a RST for anything else, nothing if it is silent.
func (p *Proxy) end(l *link, f *flow, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.over |= f.direction
	switch {
	case l.over == Forward|Backward:
		p.drop(l, func(c *net.TCPConn) { c.Close() }) // what was written still arrives
	case p.silent(l, f):
		l.lost = true
	case errors.Is(err, io.EOF):
		f.to.CloseWrite()
	default:
		p.reset(l)
	}
}
