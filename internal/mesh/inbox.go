package mesh

import (
	"context"
	"slices"
	"sync"

	"github.com/converge-agents/converge/transport"
)

// inbox holds the frames that wait for one agent to receive them. It differs from a queue.Queue in
// what connections need: many frames are put at once, bytes are bounded too, and a connection that
// waits for room is woken when half of it is free, once instead of for each frame. Those who wait are
// served in turn.
type inbox struct {
	maxFrames, maxBytes int

	mu      sync.Mutex
	ring    [][]byte // the frames, from head on and around; the length is 0 or a power of two
	head    int
	frames  int
	bytes   int
	closed  bool
	end     chan struct{} // closed with the inbox
	dropped uint64

	getters int           // Gets that wait
	ready   chan struct{} // holds a token if a Get should look
	putters []*putter     // Puts that wait, in the order of their arrival
	turn    bool          // one was woken, and has not looked yet
}

// putter is a put that waits for room.
type putter struct {
	next  int // size of its next frame
	woken chan struct{}
}

func newInbox(frames, bytes int) *inbox {
	return &inbox{maxFrames: frames, maxBytes: bytes, end: make(chan struct{}), ready: make(chan struct{}, 1)}
}

// put appends the frames and waits for room where there is none, until done is closed. It returns
// false if some of them were not taken, because of done or since the inbox was closed.
func (q *inbox) put(done <-chan struct{}, frames [][]byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait := len(q.putters) > 0 || q.turn // then line up behind them
	for len(frames) > 0 && !q.closed {
		if wait && !q.await(done, len(frames[0])) {
			break
		}
		frames = q.take(frames)
		wait = true
	}
	q.pass()
	return len(frames) == 0
}

// await waits for a turn; q.mu is held before and after. It returns false if there will be none.
func (q *inbox) await(done <-chan struct{}, next int) bool {
	p := &putter{next, make(chan struct{})}
	q.putters = append(q.putters, p)
	q.pass()
	q.mu.Unlock()
	open := true
	select {
	case <-p.woken:
	case <-q.end:
		open = false
	case <-done:
		open = false
	}
	q.mu.Lock()
	if i := slices.Index(q.putters, p); i >= 0 {
		q.putters = slices.Delete(q.putters, i, i+1)
	} else {
		q.turn = false // it was ours
	}
	return open
}

// pass wakes the next put that waits, once there is room worth its while.
func (q *inbox) pass() {
	if q.turn || len(q.putters) == 0 {
		return
	}
	half := q.frames <= q.maxFrames/2 && q.bytes <= q.maxBytes/2 && q.bytes+q.putters[0].next <= q.maxBytes
	if half || q.frames == 0 {
		q.turn = true
		close(q.putters[0].woken)
		q.putters = slices.Delete(q.putters, 0, 1)
	}
}

// tryPut appends a frame if there is room for it at once and nobody waits for that room.
func (q *inbox) tryPut(frame []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.closed && len(q.putters) == 0 && !q.turn && len(q.take([][]byte{frame})) == 0
}

// refuse counts a frame that was dropped for want of room.
func (q *inbox) refuse() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped++
}

// take appends as many of the frames as there is room for, and returns the others.
func (q *inbox) take(frames [][]byte) [][]byte {
	taken := 0
	for _, f := range frames {
		if q.closed || q.frames == q.maxFrames || q.frames > 0 && q.bytes+len(f) > q.maxBytes {
			break
		}
		q.push(f)
		taken++
	}
	if taken > 0 && q.getters > 0 {
		q.signal()
	}
	return frames[taken:]
}

// get removes the oldest frame, and waits for one if there is none.
func (q *inbox) get(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.closed:
			return nil, transport.ErrClosed
		case q.frames > 0:
			f := q.pop()
			q.pass()
			if q.frames > 0 && q.getters > 0 {
				q.signal()
			}
			return f, nil
		}
		if err := q.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait waits until there may be a frame; q.mu is held before and after.
func (q *inbox) wait(ctx context.Context) (err error) {
	if len(q.ring) > 256 {
		q.ring, q.head = nil, 0
	}
	q.getters++
	q.mu.Unlock()
	select {
	case <-q.ready:
	case <-q.end:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	q.mu.Lock()
	q.getters--
	return err
}

func (q *inbox) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// close drops what is left and ends all waiting.
func (q *inbox) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	close(q.end)
	q.ring, q.head, q.frames, q.bytes = nil, 0, 0, 0
}

func (q *inbox) push(f []byte) {
	if q.frames == len(q.ring) {
		ring := make([][]byte, max(4, 2*len(q.ring)))
		n := copy(ring, q.ring[q.head:])
		copy(ring[n:], q.ring[:q.head])
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.frames)&(len(q.ring)-1)] = f
	q.frames++
	q.bytes += len(f)
}

func (q *inbox) pop() []byte {
	f := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.frames--
	q.bytes -= len(f)
	return f
}
