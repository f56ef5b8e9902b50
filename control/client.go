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
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/identity"
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

// ListTasks returns a page of the tasks that a query means.
func (c *Client) ListTasks(ctx context.Context, q TaskQuery) (page TaskPage, err error) {
	err = c.do(ctx, http.MethodGet, "/v1/tasks?"+q.values().Encode(), nil, &page)
	return page, err
}

// GetTask returns a task with its content; the error of one that there is not wraps [ErrNotFound].
func (c *Client) GetTask(ctx context.Context, id string) (found TaskDetail, err error) {
	path, err := under("/v1/tasks/", id)
	if err == nil {
		err = c.do(ctx, http.MethodGet, path, nil, &found)
	}
	return found, err
}

// RequeueTask gives a dead letter another round of attempts. Errors wrap [ErrNotFound], and [ErrState] for a task
// that is no dead letter. The server knows who asks; of the author it is told Claimed and Note.
func (c *Client) RequeueTask(ctx context.Context, id string, a Author) (Task, error) {
	return c.actOnTask(ctx, id, "requeue", a)
}

// CancelTask ends a task; whoever works on it is told to stop. Errors wrap [ErrNotFound], and [ErrState] for a task that
// has ended.
func (c *Client) CancelTask(ctx context.Context, id string, a Author) (Task, error) {
	return c.actOnTask(ctx, id, "cancel", a)
}

func (c *Client) actOnTask(ctx context.Context, id, action string, a Author) (changed Task, err error) {
	path, err := under("/v1/tasks/", id)
	if err == nil {
		err = c.do(ctx, http.MethodPost, path, actionBody{action, a.Note, a.Claimed}, &changed)
	}
	return changed, err
}

// Quarantined returns the agents in quarantine, [MaxQuarantined] at most, and how many there are.
func (c *Client) Quarantined(ctx context.Context) (agents []Quarantine, total int, err error) {
	var body quarantineBody
	err = c.do(ctx, http.MethodGet, "/v1/keys/quarantine", nil, &body)
	return body.Agents, body.Total, err
}

// ReleaseAgent ends the quarantine of an agent, given by its name or ID. Errors wrap [ErrNotFound], and [ErrState] for an
// agent that is not quarantined.
func (c *Client) ReleaseAgent(ctx context.Context, agent string, a Author) (released Quarantine, err error) {
	path, err := under("/v1/keys/quarantine/", agent)
	if err == nil {
		err = c.do(ctx, http.MethodPost, path, actionBody{"release", a.Note, a.Claimed}, &released)
	}
	return released, err
}

// ApplyStatement hands over a signed key statement, and nothing secret: what does not open as one is not sent. Its errors
// are those of [identity.OpenKeys] and [identity.Registry.Apply].
func (c *Client) ApplyStatement(ctx context.Context, raw []byte, a Author) (applied Applied, err error) {
	if _, err := identity.OpenKeys(raw); err != nil {
		return applied, err
	}
	body := statementBody{string(identity.EncodeStatement(raw)), a.Note, a.Claimed}
	err = c.do(ctx, http.MethodPost, "/v1/keys/statements", body, &applied)
	return applied, err
}

// under returns the path of what has that ID, which is one part of it, whatever it is: "." and ".." would lead elsewhere.
func under(folder, id string) (path string, err error) {
	switch id {
	case "":
		return "", fmt.Errorf("%w: nothing has an empty ID", ErrNotFound)
	case ".", "..":
		return folder + strings.ReplaceAll(id, ".", "%2E"), nil
	}
	return folder + url.PathEscape(id), nil
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
	switch err := decoder.Decode(&body); {
	case err == nil && body.Error != "":
		return &remote{printable(body.Error), causes[body.Code]}
	case response.StatusCode == http.StatusNotFound, response.StatusCode == http.StatusMethodNotAllowed:
		return ErrOther
	}
	return fmt.Errorf("the network answers %s", response.Status)
}

// printable keeps what an error quotes of agents from the terminal.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) || c == '\n' {
			return c
		}
		return unicode.ReplacementChar
	}, text)
}
