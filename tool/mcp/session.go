package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// protocolVersion is what the handshake begins with; see the package's documentation.
const protocolVersion = "2025-11-25"

// session is a connection on which the handshake is done.
type session struct {
	client  *sdk.ClientSession
	link    *link
	carrier *carrier
	gone    context.Context // ends with the session; the cause says why
	calls   atomic.Int64
	waiters sync.WaitGroup
	began   time.Time
}

// ready is a transport to a link that there is already.
type ready struct{ link *link }

func (t ready) Connect(context.Context) (sdk.Connection, error) { return t.link, nil }

// open connects to the server and shakes hands.
func (s *Server) open(ctx context.Context) (*session, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	x := &session{link: newLink(c.connection), carrier: c, began: time.Now()}
	x.link.onChanged, x.link.version = s.listChanged, c.version
	client := sdk.NewClient(&sdk.Implementation{Name: "converge", Version: "1"}, &sdk.ClientOptions{
		Capabilities:   &sdk.ClientCapabilities{}, // none, roots included
		MultiRoundTrip: &sdk.MultiRoundTripOptions{Disabled: true},
	})
	x.client, err = client.Connect(ctx, ready{x.link}, &sdk.ClientSessionOptions{ProtocolVersion: protocolVersion})
	if err != nil {
		x.release()
		return nil, x.startError(err)
	}
	gone, end := context.WithCancelCause(context.Background())
	x.gone = gone
	x.waiters.Go(func() { end(x.wait()) })
	return x, nil
}

// wait returns why the session has ended, when it has.
func (x *session) wait() error {
	if p := x.carrier.program; p != nil {
		x.waiters.Go(func() { // what left the group may hold the pipes open
			<-p.exited
			pause(x.gone, x.gone, waitDelay)
			_ = x.link.Close()
		})
	}
	_ = x.client.Wait()
	return x.link.loss()
}

// release gives back what the session rests on.
func (x *session) release() {
	_ = x.link.Close()
	if x.carrier.program != nil {
		x.carrier.program.stop()
	}
	if x.carrier.release != nil {
		x.carrier.release()
	}
}

// close ends the session, and the program with it.
func (x *session) close() {
	x.release()
	_ = x.client.Close()
	x.waiters.Wait()
}

func (x *session) startError(err error) error {
	p := x.carrier.program
	if p == nil {
		return fmt.Errorf("handshake: %w", plainly(err))
	}
	return &StartError{Program: p.cmd.Path, End: p.end, Stderr: p.stderr.String(), Err: plainly(err)}
}

// stderr returns what a program wrote last on its standard error.
func (x *session) stderr() string {
	if x.carrier.program == nil {
		return ""
	}
	return x.carrier.program.stderr.String()
}

// says returns what the server says it is.
func (x *session) says() string {
	info := x.client.InitializeResult()
	if info == nil || info.ServerInfo == nil {
		return ""
	}
	return visible(info.ServerInfo.Name+" "+info.ServerInfo.Version, 128)
}

// call calls a tool, and returns the result as the server sent it.
func (x *session) call(ctx context.Context, name string, params json.RawMessage) (json.RawMessage, error) {
	defer x.calls.Add(-1)
	if x.calls.Add(1) > MaxCalls {
		return nil, ErrBusy
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(x.gone, func() { cancel(context.Cause(x.gone)) })()
	r := &reply{}
	_, err := x.client.CallTool(context.WithValue(ctx, replyKey{}, r), &sdk.CallToolParams{Name: name, Arguments: params})
	if err == nil {
		return r.result, nil
	}
	x.link.forget(r.id)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.answered:
		return nil, plainly(err)
	case !r.id.IsValid():
		return nil, errUnsent
	case r.unsent != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, plainly(r.unsent))
	default:
		return nil, x.link.loss()
	}
}

// errUnsent is the error of a call that came when the session was over. Nothing was sent.
var errUnsent = errors.New("the session is over")

// list returns the tools that the server offers, by name.
func (x *session) list(ctx context.Context) (map[string]*sdk.Tool, error) {
	offered, cursor := map[string]*sdk.Tool{}, ""
	for range MaxTools {
		page, err := x.client.ListTools(ctx, &sdk.ListToolsParams{Cursor: cursor})
		if err != nil {
			return nil, fmt.Errorf("list tools: %w", plainly(err))
		}
		for _, t := range page.Tools {
			if offered[t.Name] != nil {
				return nil, fmt.Errorf("list tools: %w: it offers %q twice", ErrProtocol, visible(t.Name, 64))
			}
			offered[t.Name] = t
		}
		if len(offered) > MaxTools {
			break
		}
		if cursor = page.NextCursor; cursor == "" {
			return offered, nil
		}
	}
	return nil, fmt.Errorf("list tools: %w: more than %d tools or pages", ErrProtocol, MaxTools)
}

// rejected is the code that the SDK gives to requests that its HTTP transport did not get through.
const rejected = -32005

// plainly bounds what an error repeats of the server's words, and leaves out the URL, which may hold a secret.
func plainly(err error) error {
	if request, ok := errors.AsType[*url.Error](err); ok {
		err = request.Err
	}
	if wire, ok := errors.AsType[*jsonrpc.Error](err); ok && wire.Code != rejected {
		return &ResultError{Text: visible(fmt.Sprintf("error %d: %s", wire.Code, wire.Message), maxErrorText)}
	}
	if text := err.Error(); len(text) > maxErrorText || checkText(text) != nil {
		return errors.New(visible(text, maxErrorText))
	}
	return err
}
