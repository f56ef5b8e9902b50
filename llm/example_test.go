package llm_test

import (
	"context"
	"fmt"
	"time"

	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/llm/llmtest"
	"github.com/converge-agents/converge/llm/openai"
)

// A server that is overloaded is asked again after the pause that it names.
func ExampleRetry() {
	server := llmtest.New(llmtest.Sequence(
		llmtest.Reply{Status: 429, Code: "rate_limit_exceeded", RetryAfterMS: "20"},
		llmtest.Reply{Text: "It is noon."},
	))
	defer server.Close()
	provider, err := openai.New(openai.Config{Model: "m", Endpoint: llm.Endpoint{BaseURL: server.OpenAI()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer provider.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := llm.Retry{}.Do(ctx, func(attempt int) (llm.Response, error) {
		r, err := provider.Chat(ctx, llm.Request{Messages: []llm.Message{{Role: llm.User, Text: "What is the time?"}}})
		fmt.Println(attempt, err)
		return r, err
	})
	fmt.Println(answer.Text, err)
	// Output:
	// 1 model at openai: rate limited (status 429): rate_limit_exceeded
	// 2 <nil>
	// It is noon. <nil>
}
