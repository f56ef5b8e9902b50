package mesh

import (
	"errors"
	"os"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
)

// write is the writer: control frames first, then blocks, and a ping when there was nothing between two
// ticks, so after a third of the time at the latest.
func (l *link) write() {
	defer func() {
		if l.previousWrote != nil {
			<-l.previousWrote
		}
		close(l.wrote)
	}()
	ticker := time.NewTicker(l.p.e.n.c.IdleTimeout / 6)
	defer ticker.Stop()
	quiet := false
	for {
		wrote, err := l.writeWhatIsThere()
		if err != nil {
			l.end(err)
			return
		}
		quiet = quiet && !wrote
		select {
		case <-l.wake:
		case <-l.ended:
			return
		case <-ticker.C:
			if quiet {
				l.push(appendHeader(nil, typePing, 0))
			}
			quiet = true
		}
	}
}

// writeWhatIsThere writes until there is nothing more; then idle is set.
func (l *link) writeWhatIsThere() (wrote bool, err error) {
	for {
		l.idle.Store(true) // before looking, so that what comes while we look is not missed
		if control := l.takeControl(); len(control) > 0 {
			if err := l.writeAll(control); err != nil {
				return wrote, err
			}
			wrote = true
			continue
		}
		block, control := l.takeBlock()
		if control {
			continue
		}
		if block == nil {
			return wrote, l.sayBye()
		}
		l.idle.Store(false)
		if err := l.writeAll(block.buf); err != nil {
			return wrote, err
		}
		l.p.written(block)
		wrote = true
	}
}

// takeControl returns the control frames that are due.
func (l *link) takeControl() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	control := l.control
	l.control = nil
	if l.ack > 0 {
		control = appendChange(control, typeAck, l.ack, "")
		l.ack = 0
	}
	if l.pong {
		control = appendHeader(control, typePong, 0)
		l.pong = false
	}
	return control
}

// takeBlock returns the next block of data. It stays in the outbox until it has been written. If a control frame is
// there that may have been there before the data, it says so instead: a statement about a key goes before what is
// signed with it.
func (l *link) takeBlock() (data *block, control bool) {
	if !l.heard.Load() || !l.wait(l.previousWrote) {
		return nil, false
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.link != l {
		return nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.control) > 0 {
		return nil, true
	}
	return l.p.out.first(), false
}

// writeAll writes in pieces, each of which the other end has to take in time.
func (l *link) writeAll(b []byte) error {
	c := &l.p.e.n.c
	for len(b) > 0 {
		n := min(len(b), largeBlock)
		l.stream.SetWriteDeadline(time.Now().Add(c.ProgressTimeout + atRate(n, c.MinRate)))
		if l.hasEnded() { // which sets a deadline that we may just have undone
			return l.cause
		}
		if _, err := l.stream.Write(b[:n]); err != nil {
			return writeError(err)
		}
		l.p.e.n.ledger.bytesOut.Add(uint64(n))
		b = b[n:]
	}
	l.stream.SetWriteDeadline(time.Time{}) // what the stream writes by itself, such as answers to pings, has its own time
	if l.hasEnded() {
		l.stream.SetWriteDeadline(time.Now().Add(-time.Second)) // as it was
	}
	return nil
}

func atRate(bytes, rate int) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
}

func writeError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &peertls.Refusal{Reason: Stalled, Err: errors.New("the peer takes nothing")}
	}
	return err
}

// sayBye says bye if that is due and everything was written. The stream stays open until the peer
// closes it: closing it first could cost the peer what it has not read yet.
func (l *link) sayBye() error {
	if !l.byeIsDue() {
		return nil
	}
	return l.writeAll(append(appendHeader(nil, typeBye, 1), byeClosing))
}

func (l *link) byeIsDue() bool {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.finish || l.finished || !l.p.out.empty() { // which may have to wait until our hello was heard
		return false
	}
	l.finished = true
	return true
}

// finishUp makes the link say bye once everything has been written.
func (l *link) finishUp() {
	l.mu.Lock()
	l.finish = true
	l.mu.Unlock()
	l.rouse()
}
