package mcp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"
)

// The test binary is every server that the tests need: the environment says which.
const modeVariable = "CONVERGE_MCP_TEST_SERVER"

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
	case "deaf":
		rawServer(argument, func(method string) { // answers the handshake and the list, and then reads no more
			if method == "tools/list" {
				select {}
			}
		})
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
		rawServer(argument, nil)
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

// rawServer speaks the protocol by hand, as a script in a file says, so that it can break it: each line is a method
// and what is written when it is called, ID standing for the request's. "\n" ends messages. The lines of one method
// are used in turn, and the last again and again; a counter in a file, if the script names one, makes that go on over
// restarts.
func rawServer(path string, after func(method string)) {
	script, err := os.ReadFile(path)
	if err != nil {
		os.Exit(6)
	}
	answers := map[string][]string{
		"initialize": {`{"jsonrpc":"2.0","id":ID,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"raw","version":"1"}}}` + "\n"},
	}
	for line := range strings.Lines(string(script)) {
		method, answer, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		answers[method] = append(answers[method], strings.ReplaceAll(answer, "␤", "\n"))
	}
	in := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	used := map[string]int{}
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
			os.Exit(7)
		}
		if m.Method == "" {
			m.Method = "answer"
		}
		if list := answers[m.Method]; len(list) > 0 {
			answer := list[min(used[m.Method], len(list)-1)]
			used[m.Method]++
			answer = strings.ReplaceAll(answer, "ID", string(m.ID))
			answer = strings.ReplaceAll(answer, "ERROR", strconv.Quote(string(m.Error)))
			if n, rest, repeated := strings.Cut(answer, "×"); repeated {
				times, _ := strconv.Atoi(n)
				answer = strings.Repeat(rest, times)
			}
			if _, err := out.WriteString(answer); err != nil || out.Flush() != nil {
				return
			}
		}
		if after != nil {
			after(m.Method)
		}
	}
}
