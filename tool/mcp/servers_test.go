package mcp_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"
)

// The test binary is every server that the tests need: the environment says which.
const modeVariable = "CONVERGE_MCP_TEST_SERVER"

// raceOptions spare each of them the second that the race detector waits at its end.
const raceOptions = "atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeVariable); mode != "" {
		serve(mode)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func serve(mode string) {
	mode, argument, _ := strings.Cut(mode, ":")
	switch mode {
	case "good":
		_ = goodServer().Run(context.Background(), &sdk.StdioTransport{})
	case "silent":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "broken":
		fmt.Fprintln(os.Stderr, "secret of the server")
		os.Exit(3)
	case "once": // lives once, and never again
		if _, err := os.OpenFile(argument, os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			os.Exit(4)
		}
		_ = goodServer().Run(context.Background(), &sdk.StdioTransport{})
	case "children": // leaves a process behind that holds a pipe open and ignores all signals that it can
		child := exec.Command("/bin/sh", "-c", `trap "" TERM HUP; exec 3>"$1"; echo x >&3; exec sleep 1000`, "sh", argument)
		if err := child.Start(); err != nil {
			os.Exit(5)
		}
		_ = goodServer().Run(context.Background(), &sdk.StdioTransport{})
	case "stubborn": // does not end when its input does, nor when it is told to
		parent(argument)
	case "raw":
		script, err := os.ReadFile(argument)
		if err != nil {
			os.Exit(6)
		}
		rawServer(string(script), os.Stdin, os.Stdout)
	}
}

type addParams struct {
	A int64 `json:"a"`
	B int64 `json:"b"`
}

type addResult struct {
	Sum int64 `json:"sum"`
}

type noParams struct{}

type whatParams struct {
	What string `json:"what"`
}

// goodServer is what the SDK makes of a few tools.
func goodServer() *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: "good", Version: "7"}, &sdk.ServerOptions{PageSize: 2})
	text := func(text string) *sdk.CallToolResult {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}}
	}
	no, yes := false, true
	sdk.AddTool(s, &sdk.Tool{Name: "add", Description: "Adds.", Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: &no}},
		func(_ context.Context, _ *sdk.CallToolRequest, p addParams) (*sdk.CallToolResult, addResult, error) {
			return nil, addResult{p.A + p.B}, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "fail", Annotations: &sdk.ToolAnnotations{DestructiveHint: &no}},
		func(context.Context, *sdk.CallToolRequest, noParams) (*sdk.CallToolResult, any, error) {
			return nil, nil, errors.New("it \x1b[31mcannot be done " + strings.Repeat("x", 5000))
		})
	sdk.AddTool(s, &sdk.Tool{Name: "lines", Annotations: &sdk.ToolAnnotations{DestructiveHint: &yes}},
		func(context.Context, *sdk.CallToolRequest, noParams) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "one"}, &sdk.TextContent{Text: "two"}}}, nil, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "picture"},
		func(context.Context, *sdk.CallToolRequest, noParams) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "look"}, &sdk.ImageContent{Data: []byte("png"), MIMEType: "image/png"}}}, nil, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "big"},
		func(_ context.Context, _ *sdk.CallToolRequest, p struct {
			Bytes int `json:"bytes"`
		}) (*sdk.CallToolResult, any, error) {
			return text(strings.Repeat("b", p.Bytes)), nil, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "die"},
		func(context.Context, *sdk.CallToolRequest, noParams) (*sdk.CallToolResult, any, error) {
			os.Exit(9)
			return nil, nil, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "environment"},
		func(context.Context, *sdk.CallToolRequest, noParams) (*sdk.CallToolResult, any, error) {
			return text(strings.Join(os.Environ(), "\n")), nil, nil
		})
	sdk.AddTool(s, &sdk.Tool{Name: "read"}, func(_ context.Context, _ *sdk.CallToolRequest, p whatParams) (*sdk.CallToolResult, any, error) {
		_, err := os.ReadFile(p.What)
		return &sdk.CallToolResult{}, nil, err
	})
	sdk.AddTool(s, &sdk.Tool{Name: "dial"}, func(_ context.Context, _ *sdk.CallToolRequest, p whatParams) (*sdk.CallToolResult, any, error) {
		c, err := net.Dial("tcp", p.What)
		if err == nil {
			err = c.Close()
		}
		return &sdk.CallToolResult{}, nil, err
	})
	addHanging(s)
	return s
}

// addHanging adds a tool that hangs until it is cancelled, and one that waits until so many calls of it were.
func addHanging(s *sdk.Server) {
	var mu sync.Mutex
	cancelled, changed := 0, make(chan struct{})
	sdk.AddTool(s, &sdk.Tool{Name: "hang"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ noParams) (*sdk.CallToolResult, any, error) {
		<-ctx.Done()
		mu.Lock()
		defer mu.Unlock()
		cancelled++
		close(changed)
		changed = make(chan struct{})
		return nil, nil, ctx.Err()
	})
	sdk.AddTool(s, &sdk.Tool{Name: "await_cancelled"}, func(ctx context.Context, _ *sdk.CallToolRequest, p struct {
		Calls int `json:"calls"`
	}) (*sdk.CallToolResult, any, error) {
		for {
			mu.Lock()
			n, next := cancelled, changed
			mu.Unlock()
			if n >= p.Calls {
				return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: strconv.Itoa(n)}}}, nil, nil
			}
			select {
			case <-next:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
	})
}

// rawServer speaks the protocol by hand, as a script says, so that it can break it: each line is a method and what is
// written when it is called, ID standing for the request's and ␤ for the end of a message. "before¦N×again" repeats
// what comes after ×, and "¦STOP" reads no more. The lines of one method are used in turn, and the last again and
// again.
func rawServer(script string, input io.Reader, out io.Writer) {
	answers := map[string][]string{
		"initialize": {`{"jsonrpc":"2.0","id":ID,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"raw","version":"1"}}}␤`},
	}
	for line := range strings.SplitSeq(script, "\n") {
		method, answer, _ := strings.Cut(line, " ")
		answers[method] = append(answers[method], answer)
	}
	in := bufio.NewReader(input)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m struct {
			ID     json.RawMessage
			Method string
			Error  json.RawMessage
		}
		if json.Unmarshal(line, &m) != nil {
			return
		}
		list := answers[cmp.Or(m.Method, "answer")]
		if len(list) == 0 {
			continue
		}
		answer, stop := strings.CutSuffix(list[0], "¦STOP")
		if _, err := io.WriteString(out, written(answer, string(m.ID), string(m.Error))); err != nil {
			return
		}
		if stop {
			waitForEnd(out)
			return
		}
		if len(list) > 1 {
			answers[cmp.Or(m.Method, "answer")] = list[1:]
		}
	}
}

func written(answer, id, failure string) string {
	answer = strings.NewReplacer("ID", id, "ERROR", strconv.Quote(failure), "␤", "\n").Replace(answer)
	if before, again, repeated := strings.Cut(answer, "×"); repeated {
		before, n, _ := strings.Cut(before, "¦")
		times, _ := strconv.Atoi(n)
		answer = before + strings.Repeat(again, times)
	}
	return answer
}

// waitForEnd reads nothing, and returns when nobody reads what is written any more.
func waitForEnd(out io.Writer) {
	for {
		if _, err := io.WriteString(out, "\n"); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // of the server, which is nobody's to wait for
	}
}
