package tool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/converge-agents/converge/tool"
)

func ExampleGuard() {
	upper := tool.Func("upper", func(_ context.Context, params json.RawMessage) (tool.Output, error) {
		var p struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal(params, &p); err != nil {
			return tool.Output{}, fmt.Errorf("%w: text is not a string", tool.ErrInvalidParams)
		}
		return tool.Output{Data: []byte(strings.ToUpper(p.Text)), ContentType: "text/plain"}, nil
	})
	tools := tool.NewRegistry()
	if err := tools.Register(upper, tool.Options{Description: "Writes text in capitals."}); err != nil {
		panic(err)
	}
	guard, err := tool.NewGuard(tool.GuardConfig{
		Tools:     tools,
		Allowlist: []string{"upper"},
		Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		panic(err)
	}

	out, err := guard.Run(context.Background(), "upper", json.RawMessage(`{"text": "stop"}`))
	fmt.Printf("%s %v\n", out.Data, err)
	_, err = guard.Run(context.Background(), "upper", json.RawMessage(`{"text": 7}`))
	fmt.Println(err)
	_, err = guard.Run(context.Background(), "lower", nil)
	fmt.Println(err, errors.Is(err, tool.ErrDenied))
	// Output:
	// STOP <nil>
	// tool "upper": invalid params: text is not a string
	// tool "lower": not on the allowlist true
}
