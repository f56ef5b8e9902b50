package mesh

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why links end; other causes are those of their streams.
var (
	errReplaced  = errors.New("another connection of the pair stays")
	errRemoved   = errors.New("the peer was removed")
	errBye       = errors.New("the peer has left")
	errDuplicate = errors.New("the peer has another connection of the pair")
)

const (
	// drainGap and drainTime bound how a link that has ended reads what has reached this end already:
	// it stops at the first gap, and when it has waited for drainTime in all.
	drainGap  = 100 * time.Millisecond
	drainTime = time.Second
)

// link is a connection with a peer. One goroutine writes, one reads. It ends once, with the first cause:
// then nothing is written any more, the reader takes what has arrived already, and closes the stream.
type link struct {
	p       *peer
	stream  Stream
	dialled bool   // by this end
	number  uint64 // chosen by the end that was dialled
	in      reader
	bucket  bucket

	// Of the link that this one replaced: data waits for its writer and its reader, so that frames
	// stay in order. Nil if there was none.
	previousWrote, previousDone <-chan struct{}

	started  time.Time     // when the frame began that has arrived in part
	drained  time.Duration // how long the reader has read since the link ended
	ended    chan struct{} // closed by end
	killed   chan struct{} // closed by kill
	endOnce  sync.Once
	killOnce sync.Once
	cause    error
	wrote    chan struct{} // closed when the writer has ended
	done     chan struct{} // closed when the reader has ended
	wake     chan struct{} // holds a token if the writer should look
	idle     atomic.Bool   // the writer waits for one
	heard    atomic.Bool   // the other end has heard our hello: data may follow
	probed   atomic.Bool   // a sign of life is asked for, and has not come yet
	epoch    atomic.Uint64 // of the key that the other end has proved or told

	// Of the statements that the other end has told; the reader's.
	statement     string // the last one
	statements    int
	nextStatement time.Time

	mu       sync.Mutex // guards what follows; no other lock is taken under it
	control  []byte     // frames to be written before any data
	pong     bool       // one is due
	ack      uint64     // the change to acknowledge; 0 if none
	finish   bool       // say bye once everything has been written
	finished bool       // bye was said

	acked uint64 // what the peer has acknowledged; subscriptions.mu guards it
}

func newLink(p *peer, s Stream, dialled bool) *link {
	c := &p.e.n.c
	l := &link{
		p: p, stream: s, dialled: dialled,
		in:     reader{src: s.Conn, maxFrame: c.MaxFrame},
		bucket: newBucket(c.FrameRate, c.ByteRate),
		ended:  make(chan struct{}), killed: make(chan struct{}),
		wrote: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	l.heard.Store(dialled) // the answer to it says so
	if !dialled {
		l.number = randomNumber()
	}
	return l
}

func randomNumber() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:]) | 1
}

// run moves frames until the link ends, and returns when nothing is written any more; the reader may
// still be busy. Whoever installed the link has added the reader to what the endpoint waits for.
func (l *link) run() {
	l.p.arrived(l)
	go l.read()
	l.write()
	l.p.e.subs.detach(l)
	l.p.unlink(l, l.cause)
	l.p.e.n.parted(l)
}

// end ends the link; the first cause counts. The reader closes the stream.
func (l *link) end(cause error) {
	l.endOnce.Do(func() {
		l.cause = cause
		now := time.Now()
		close(l.ended)
		l.stream.SetReadDeadline(now.Add(drainGap))
		l.stream.SetWriteDeadline(now.Add(-time.Second))
	})
}

// kill ends the link at once; what has arrived is not waited for.
func (l *link) kill(cause error) {
	l.end(cause)
	l.killOnce.Do(func() {
		close(l.killed)
		l.stream.closeFor(l.cause)
	})
}

func (l *link) hasEnded() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// rouse tells the writer that there is something to write.
func (l *link) rouse() {
	if l.idle.Load() && l.idle.CompareAndSwap(true, false) {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// push appends control frames.
func (l *link) push(frames []byte) {
	l.mu.Lock()
	l.control = append(l.control, frames...)
	l.mu.Unlock()
	l.rouse()
}

// probe asks the peer for a sign of life soon: it says that it has lost this link. However often it says so, it does
// not put off the link's end.
func (l *link) probe() {
	if !l.probed.CompareAndSwap(false, true) {
		return
	}
	c := &l.p.e.n.c
	l.push(appendHeader(nil, typePing, 0))
	l.stream.SetReadDeadline(time.Now().Add(min(c.ProgressTimeout, c.IdleTimeout)))
}

// follow makes l take over from the link that it replaces: l writes and reads no data until old is done
// with that, so that frames stay in order. A link that has not come to reading yet, since it waits
// for draining itself, is closed at once: however often a peer dials, one old link at most is open. It
// returns that one.
func (l *link) follow(old, draining *link) *link {
	l.previousWrote, l.previousDone = old.wrote, old.done
	if old.mayRead() {
		old.end(errReplaced)
		return old
	}
	l.previousDone = old.previousDone
	old.kill(errReplaced)
	return draining
}

// mayRead reports whether the link that this one replaced has read everything.
func (l *link) mayRead() bool {
	if l.previousDone == nil {
		return true
	}
	select {
	case <-l.previousDone:
		return true
	default:
		return false
	}
}

// wait waits until done is closed, if it is not nil. It returns false if the link ends first.
func (l *link) wait(done <-chan struct{}) bool {
	if done == nil {
		return true
	}
	select {
	case <-done:
		return true
	case <-l.ended:
		return false
	}
}
