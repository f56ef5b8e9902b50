package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/converge-agents/converge/internal/peertls"
	"github.com/converge-agents/converge/message"
)

// read is the reader.
func (l *link) read() {
	defer l.p.e.running.Done()
	defer close(l.done)
	l.end(l.readFrames())
	l.kill(nil) // its cause is known by now
	l.in = reader{}
	<-l.wrote
}

func (l *link) readFrames() error {
	if !l.wait(l.previousDone) {
		return l.cause
	}
	for {
		if err := l.takeFrames(); err != nil {
			return err
		}
		if err := l.fill(); err != nil {
			return err
		}
	}
}

// takeFrames takes the complete frames that the reader has.
func (l *link) takeFrames() error {
	var batch [64][]byte
	frames, control := batch[:0], 0
	for {
		t, payload, ok, err := l.in.next()
		if err != nil {
			l.deliver(frames, control)
			return refusalOf(err)
		}
		if !ok {
			return l.deliver(frames, control)
		}
		l.started = time.Time{}
		if t == typeData {
			frames = append(frames, payload)
			continue
		}
		control++
		if err := l.handle(t, payload); err != nil {
			l.deliver(frames, control)
			return err
		}
	}
}

func refusalOf(err error) error {
	reason := Malformed
	if errors.Is(err, errFrameTooLarge) {
		reason = FrameTooLarge
	}
	return &peertls.Refusal{Reason: reason, Err: err}
}

// deliver hands frames over, at the rate that the connection may bring.
func (l *link) deliver(frames [][]byte, control int) error {
	if len(frames)+control == 0 {
		return nil
	}
	n := l.p.e.n
	n.ledger.framesIn.Add(uint64(len(frames)))
	if pause := l.bucket.take(len(frames)+control, 0); pause > 0 && !l.sleep(pause) {
		return l.cause
	}
	if len(frames) == 0 || l.p.e.inbox.put(l.killed, frames) {
		return nil
	}
	if l.p.e.isClosing() { // the agent wants no more, but the peer may still take what is queued for it
		return nil
	}
	return l.cause
}

// sleep returns false if the link is killed meanwhile.
func (l *link) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.killed:
		return false
	}
}

// fill reads once, within the time that the state of things allows.
func (l *link) fill() error {
	deadline, partial := l.deadline()
	l.stream.SetReadDeadline(deadline)
	if l.hasEnded() {
		return l.drain()
	}
	n, err := l.in.fill()
	l.p.e.n.ledger.bytesIn.Add(uint64(n))
	if err != nil {
		return readError(err, partial)
	}
	l.probed.Store(false)
	pause := l.bucket.take(0, n)
	if pause > 0 && !l.sleep(pause) {
		return l.cause
	}
	if !l.started.IsZero() {
		l.started = l.started.Add(pause) // which is not the peer's fault
	}
	return nil
}

// drain reads what has arrived by the time that the link ended.
func (l *link) drain() error {
	if l.drained > drainTime {
		return l.cause
	}
	begin := time.Now()
	l.stream.SetReadDeadline(begin.Add(drainGap))
	n, err := l.in.fill()
	l.drained += time.Since(begin)
	l.p.e.n.ledger.bytesIn.Add(uint64(n))
	return err
}

// deadline returns when the next bytes have to be here, and whether a frame has arrived in part.
func (l *link) deadline() (time.Time, bool) {
	c := &l.p.e.n.c
	now := time.Now()
	have, size := l.in.pending()
	if have == 0 {
		l.started = time.Time{}
		return now.Add(c.IdleTimeout), false
	}
	if l.started.IsZero() {
		l.started = now
	}
	whole := l.started.Add(c.ProgressTimeout + atRate(size, c.MinRate))
	if next := now.Add(c.ProgressTimeout); next.Before(whole) {
		return next, true
	}
	return whole, true
}

func readError(err error, partial bool) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && partial:
		return &peertls.Refusal{Reason: Stalled, Err: errors.New("a frame does not arrive")}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &peertls.Refusal{Reason: Idle, Err: errors.New("the peer is silent")}
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the peer closed the connection: %w", err)
	}
	return err
}

// handle acts on a control frame.
func (l *link) handle(t frameType, payload []byte) error {
	switch t {
	case typeSubscribe, typeUnsubscribe:
		return l.handleChange(t, payload)
	case typeAck:
		change, rest, err := parseChange(payload)
		if err != nil || rest != "" {
			return refusalOf(fmt.Errorf("%w: ack of %d bytes", errMalformed, len(payload)))
		}
		l.p.e.subs.acknowledged(l, change)
		l.heard.Store(true)
		l.rouse()
	case typePing:
		l.in.shrink()
		l.mu.Lock()
		l.pong = true
		l.mu.Unlock()
		l.rouse()
	case typePong:
	case typeBye:
		return errBye
	case typeKeys:
		return l.handleKeys(payload)
	default:
		return refusalOf(fmt.Errorf("%w: type %d at this place", errMalformed, t))
	}
	return nil
}

func (l *link) handleChange(t frameType, payload []byte) error {
	change, text, err := parseChange(payload)
	if err != nil {
		return refusalOf(err)
	}
	pattern, err := message.ParsePattern(text)
	if err != nil {
		return refusalOf(fmt.Errorf("%w: %w", errMalformed, err))
	}
	if !l.p.heard(l, t == typeSubscribe, pattern) {
		return refusalOf(fmt.Errorf("%w: more than %d subscriptions", errMalformed, MaxPatterns))
	}
	l.mu.Lock()
	l.ack = change
	l.mu.Unlock()
	l.rouse()
	return nil
}

// awaitHello reads the first frame of the other end, which has to be a hello.
func (l *link) awaitHello(ctx context.Context, deadline time.Time) (h hello, err error) {
	l.stream.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() { l.stream.Close() })()
	for {
		t, payload, ok, err := l.in.next()
		switch {
		case err != nil:
			return h, refusalOf(err)
		case !ok:
			if _, err := l.in.fill(); err != nil {
				return h, err
			}
		case t == typeHello:
			h, err = parseHello(payload)
			if err != nil {
				err = refusalOf(err)
			}
			return h, err
		case t == typeBye && payload[0] == byeDuplicate:
			return h, errDuplicate
		case t == typeBye:
			return h, errBye
		default:
			return h, refusalOf(fmt.Errorf("%w: type %d where a hello is due", errMalformed, t))
		}
	}
}
