package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/converge-agents/converge/approval"
)

// clientTimeout bounds one request of a client.
const clientTimeout = 30 * time.Second

// maxReply bounds what a client reads, in bytes.
const maxReply = 256 << 20

// Client asks the server of a state directory. It is safe for concurrent use.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client, which connects with its first request. Close it.
func NewClient(dir string) *Client {
	path := socketPath(dir)
	return &Client{dir, &http.Client{Timeout: clientTimeout, Transport: &http.Transport{
		MaxIdleConns: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if len(path) > maxPath {
				return nil, fmt.Errorf("%w: %q", ErrTooLong, path)
			}
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

// Close closes the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns the requests that wait, and, if asked, the last that have ended in that process. Its error and
// those of the following wrap [ErrNotRunning] if nobody serves the state directory.
func (c *Client) List(ctx context.Context) (waiting, ended []approval.Request, err error) {
	var body listBody
	err = c.do(ctx, http.MethodGet, "/v1/approvals?ended=true", nil, &body)
	return body.Approvals, body.Ended, err
}

// Get returns a request; the error of one that is not known wraps [approval.ErrUnknown].
func (c *Client) Get(ctx context.Context, id string) (found approval.Request, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/approvals/"+url.PathEscape(id), nil, &found)
	return found, err
}

// Decide answers a request: see [approval.Service.Decide]. The server knows who asks; as is who they say that
// they are, and may be "".
func (c *Client) Decide(ctx context.Context, id string, allow bool, note, as string) (decided approval.Request, err error) {
	body := decisionBody{Decision: "deny", Note: note, As: as}
	if allow {
		body.Decision = "allow"
	}
	err = c.do(ctx, http.MethodPost, "/v1/approvals/"+url.PathEscape(id), body, &decided)
	return decided, err
}

// do sends a request and reads the answer.
func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://control"+path, content)
	if err != nil {
		return err
	}
	response, err := c.http.Do(r)
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(io.LimitReader(response.Body, maxReply))
	if response.StatusCode != http.StatusOK {
		return readError(response, decoder)
	}
	if err := decoder.Decode(answer); err != nil {
		return fmt.Errorf("the answer of %s: %w", filepath.Join(c.dir, SocketName), err)
	}
	return nil
}

// explain says what it means that there is no connection.
func (c *Client) explain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: %s", ErrNotRunning, filepath.Join(c.dir, SocketName))
	}
	return err
}

// remote is an error that the server told.
type remote struct {
	text  string
	cause error // may be nil
}

func (e *remote) Error() string { return e.text }
func (e *remote) Unwrap() error { return e.cause }

func readError(response *http.Response, decoder *json.Decoder) error {
	var body errorBody
	if err := decoder.Decode(&body); err != nil || body.Error == "" {
		return fmt.Errorf("the network answers %s", response.Status)
	}
	return &remote{body.Error, causes[body.Code]}
}
