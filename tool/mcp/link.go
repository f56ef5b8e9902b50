package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/converge-agents/converge/internal/inflight"
)

const (
	floodRate   = 200  // messages a second that a server may send unasked in the long run
	floodBurst  = 2000 // and at once
	maxRefusals = 8    // answers to a server's requests under way
	refusalTime = 5 * time.Second
)

// link is a connection on which the server is asked, and does not ask. The SDK behind it sees answers only: it would
// queue all else without bound.
type link struct {
	sdk.Connection
	onChanged func()       // the list of tools has changed
	version   func(string) // of the protocol, once; may be nil; belongs to the reader

	mu      sync.Mutex
	replies map[jsonrpc.ID]*reply // of calls under way whose results are kept as they are
	readErr error
	givenUp uint64 // calls that nobody waits for any more, and that may still be answered
	gone    context.Context
	end     context.CancelFunc

	writes   inflight.Group
	refusals chan struct{} // an element for each that is under way
	unasked  bucket
	dropped  atomic.Uint64 // what the server said unasked
	refused  atomic.Uint64 // what it asked for
}

func newLink(c sdk.Connection) *link {
	l := &link{Connection: c, replies: map[jsonrpc.ID]*reply{}, refusals: make(chan struct{}, maxRefusals), unasked: bucket{tokens: floodBurst}}
	l.gone, l.end = context.WithCancel(context.Background())
	return l
}

// reply takes the result of one call, as the server sent it. The SDK's types would lose what they do not know.
type reply struct {
	id       jsonrpc.ID // not valid unless it was tried to send the call
	unsent   error      // why that failed
	answered bool
	result   json.RawMessage
}

type replyKey struct{}

// Read returns the next answer, and deals with all else.
func (l *link) Read(ctx context.Context) (jsonrpc.Message, error) {
	for {
		m, err := l.Connection.Read(ctx)
		if err != nil {
			return nil, l.lost(err)
		}
		switch m := m.(type) {
		case *jsonrpc.Response:
			l.learnVersion(m)
			answer, late := l.answer(m)
			if answer != nil {
				return answer, nil
			}
			if late {
				continue
			}
		case *jsonrpc.Request:
			l.unaskedRequest(m)
		}
		if !l.unasked.take(time.Now()) {
			return nil, l.lost(ErrFlood)
		}
	}
}

// lost remembers why nothing more is read.
func (l *link) lost(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readErr == nil {
		l.readErr = err
	}
	return l.readErr
}

// loss returns why the session has ended.
func (l *link) loss() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readErr == nil || errors.Is(l.readErr, io.EOF) {
		return fmt.Errorf("%w: it closed the connection", ErrEnded)
	}
	return fmt.Errorf("%w: %w", ErrEnded, plainly(l.readErr))
}

// answer returns what the SDK is to see of an answer: nil if nobody waits for it, and then whether it may be one that
// comes after its call was given up.
func (l *link) answer(m *jsonrpc.Response) (_ *jsonrpc.Response, late bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, asked := l.replies[m.ID]
	if !asked {
		late = l.givenUp > 0
		l.givenUp -= min(l.givenUp, 1)
		return nil, late
	}
	delete(l.replies, m.ID)
	if r == nil {
		return m, false
	}
	r.answered = true
	if m.Error != nil {
		return m, false
	}
	r.result = m.Result
	return &jsonrpc.Response{ID: m.ID, Result: json.RawMessage(`{"content":[]}`)}, false
}

// learnVersion passes on the version of the protocol, which the first answer names.
func (l *link) learnVersion(m *jsonrpc.Response) {
	var first struct {
		ProtocolVersion string `json:"protocolVersion"`
	}
	if l.version != nil && json.Unmarshal(m.Result, &first) == nil && first.ProtocolVersion != "" {
		l.version(first.ProtocolVersion)
		l.version = nil
	}
}

func (l *link) unaskedRequest(m *jsonrpc.Request) {
	switch {
	case m.IsCall():
		l.respond(m)
	case m.Method == "notifications/tools/list_changed":
		l.onChanged()
	default:
		l.dropped.Add(1)
	}
}

// respond answers a ping, and refuses all else. Where too many answers are under way, there is none.
func (l *link) respond(m *jsonrpc.Request) {
	r := &jsonrpc.Response{ID: m.ID, Result: json.RawMessage("{}")}
	if m.Method != "ping" {
		l.refused.Add(1)
		r = &jsonrpc.Response{ID: m.ID, Error: &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "refused: this client serves no requests"}}
	}
	select {
	case l.refusals <- struct{}{}:
	default:
		return
	}
	if !l.writes.Begin() {
		<-l.refusals
		return
	}
	go func() {
		defer l.writes.Done()
		defer func() { <-l.refusals }()
		ctx, cancel := context.WithTimeout(l.gone, refusalTime)
		defer cancel()
		_ = l.Connection.Write(ctx, r) // the server's loss
	}()
}

// Write sends m. It returns when ctx ends, and notices of cancelled calls also when the link is closed.
func (l *link) Write(ctx context.Context, m jsonrpc.Message) error {
	if !l.writes.Begin() {
		return ErrClosed
	}
	defer l.writes.Done()
	q, ok := m.(*jsonrpc.Request)
	if !ok || !q.IsCall() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(l.gone, cancel)()
		return l.Connection.Write(ctx, m)
	}
	r := l.expect(ctx, q.ID)
	err := l.Connection.Write(ctx, m)
	if err != nil {
		l.forget(q.ID)
		if r != nil {
			r.unsent = err
		}
	}
	return err
}

func (l *link) expect(ctx context.Context, id jsonrpc.ID) *reply {
	r, _ := ctx.Value(replyKey{}).(*reply)
	if r != nil {
		r.id = id
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replies[id] = r
	return r
}

func (l *link) forget(id jsonrpc.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, expected := l.replies[id]; expected {
		l.givenUp++
		delete(l.replies, id)
	}
}

// Close ends the connection and all writes that are under way.
func (l *link) Close() error {
	l.writes.Shut()
	l.end()
	err := l.Connection.Close()
	l.writes.Wait()
	return err
}

// bucket counts down what a server says unasked. It belongs to the reader.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	if !b.last.IsZero() {
		b.tokens = min(floodBurst, b.tokens+now.Sub(b.last).Seconds()*floodRate)
	}
	b.last = now
	b.tokens--
	return b.tokens >= 0
}

// outbox is a connection over pipes whose writes end with their context: the pipe of a server that does not read is
// full, and a write to it blocks.
type outbox struct {
	sdk.Connection
	slot chan struct{} // holds an element while a write is under way
	once sync.Once
	gone chan struct{}
}

func newOutbox(c sdk.Connection) *outbox {
	return &outbox{Connection: c, slot: make(chan struct{}, 1), gone: make(chan struct{})}
}

var errPipeClosed = errors.New("the pipe is closed")

// Write writes m whole, even if ctx ends while that is under way.
func (o *outbox) Write(ctx context.Context, m jsonrpc.Message) error {
	select {
	case o.slot <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-o.gone:
		return errPipeClosed
	}
	written := make(chan error, 1)
	go func() {
		defer func() { <-o.slot }()
		written <- o.Connection.Write(context.WithoutCancel(ctx), m)
	}()
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close closes the pipes, which ends the write that is under way, and waits for it.
func (o *outbox) Close() (err error) {
	o.once.Do(func() {
		close(o.gone)
		err = o.Connection.Close()
		o.slot <- struct{}{} // for ever
	})
	return err
}
