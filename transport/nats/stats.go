package nats

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/converge-agents/converge/internal/stat"
	"github.com/converge-agents/converge/transport"
)

// reason is why a connection or a frame was turned away; its text is a key of transport.Stats.Refused.
type reason uint8

const (
	refusedMalformed    reason = iota + 1 // headers, subjects or protocol that make no sense
	refusedTooLarge                       // a frame above MaxFrame
	refusedSlowConsumer                   // a frame for which an agent had no room, or a connection that did not read
	refusedUnauthorized                   // a login that failed, ours or one at the embedded server
	refusedPermission                     // something that the broker does not let us publish or subscribe to
	refusedCertificate                    // a TLS handshake that failed, ours or one at the embedded server
)

var reasonWords = [...]string{
	refusedMalformed:    "malformed",
	refusedTooLarge:     "frame_too_large",
	refusedSlowConsumer: "slow_consumer",
	refusedUnauthorized: "unauthorized",
	refusedPermission:   "permission",
	refusedCertificate:  "certificate",
}

// String returns the reason's word.
func (r reason) String() string {
	if int(r) < len(reasonWords) {
		return reasonWords[r]
	}
	return ""
}

// counters are what a Network counts.
type counters struct {
	connections         atomic.Int64
	opened, closed      stat.Counter
	framesIn, framesOut stat.Counter
	bytesIn, bytesOut   stat.Counter
	lost                stat.Counter
	refused             stat.Vec[reason]
	quiet               [len(reasonWords)]occasion
	log                 *slog.Logger
}

func (c *counters) snapshot() transport.Stats {
	return transport.Stats{
		Connections: int(c.connections.Load()),
		Opened:      c.opened.Load(),
		Closed:      c.closed.Load(),
		FramesIn:    c.framesIn.Load(),
		FramesOut:   c.framesOut.Load(),
		BytesIn:     c.bytesIn.Load(),
		BytesOut:    c.bytesOut.Load(),
		Lost:        c.lost.Load(),
		Refused:     c.refused.Snapshot(),
	}
}

func (c *counters) connected()    { c.connections.Add(1); c.opened.Inc() }
func (c *counters) disconnected() { c.connections.Add(-1); c.closed.Inc() }

func (c *counters) received(bytes int) { c.framesIn.Inc(); c.bytesIn.Add(uint64(bytes)) }
func (c *counters) sent(bytes int)     { c.framesOut.Inc(); c.bytesOut.Add(uint64(bytes)) }

// refuse counts something that was turned away, and logs one of each sort a second.
func (c *counters) refuse(r reason, what string, args ...any) {
	c.refused.Inc(r)
	if c.quiet[r].now() {
		c.log.Warn("nats: "+what, append([]any{"reason", r.String()}, args...)...)
	}
}

// occasion comes once a second at most.
type occasion struct{ last atomic.Int64 }

func (o *occasion) now() bool {
	now := time.Now().UnixNano()
	last := o.last.Load()
	return (last == 0 || now-last >= int64(time.Second)) && o.last.CompareAndSwap(last, now)
}
