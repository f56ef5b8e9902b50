package network_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/llm/llmtest"
	"github.com/converge-agents/converge/network"
)

const talkers = `network: talkers
vars: {url: "", key: TALKERS_KEY}
models:
  main: {provider: anthropic, model: m, base_url: "${url}", api_key: {env: "${key}"}}
agents:
- {name: asker, kind: llm, model: main, capabilities: {ask: Ask the teller.}, peers: [teller]}
- {name: teller, kind: llm, model: main, peers: [asker], capabilities: {tell: Tell.}}
- {name: desk, kind: coordinator, tasks: [{capability: ask}]}
`

func loadTalkers(t *testing.T, url string) *config.Config {
	t.Helper()
	c, err := config.Parse("c.yaml", []byte(talkers), config.Options{Vars: map[string]string{"url": url}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An agent asks a peer by a message, and is shown the answer in the conversation about its task.
func TestAgentsWithModelsOfOneConfigurationTalk(t *testing.T) {
	t.Setenv("TALKERS_KEY", "sk-of-the-talkers")
	call := func(name, args string) llmtest.Reply {
		return llmtest.Reply{Calls: []llmtest.Call{{Name: name, Args: args}}}
	}
	server := llmtest.New(llmtest.Rules(
		llmtest.Rule{System: `the agent "teller"`, Contains: "what is the time", Reply: call("send_message", `{"to":"asker","text":"it is noon"}`)},
		llmtest.Rule{System: `the agent "teller"`, Reply: llmtest.Reply{Text: "said"}},
		llmtest.Rule{Contains: "params of the task", Reply: call("send_message", `{"to":"teller","text":"what is the time?"}`)},
		llmtest.Rule{Contains: "it is noon", Reply: call("report_task", `{"result":"noon"}`)},
		llmtest.Rule{Reply: llmtest.Reply{Text: "I wait"}},
	))
	defer server.Close()
	log, lines := newLog()
	n, err := network.New(t.Context(), loadTalkers(t, server.Anthropic()), network.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		select {
		case <-n.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := n.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if r := n.Report(); r.Tasks.Completed != 1 || r.Table[1][1] != "noon" {
		t.Errorf("%+v\n%s", r, lines)
	}
	if strings.Contains(lines.String(), "sk-of-the-talkers") {
		t.Error("the key is in the log")
	}
	if !slices.ContainsFunc(server.Requests(), func(r llmtest.Request) bool { return strings.Contains(r.System, "who can: tell") }) {
		t.Error("the model was never told what the peer can do")
	}
	if key := server.Requests()[0].Key; key != "sk-of-the-talkers" {
		t.Errorf("the server got the key %q", key)
	}
}

func TestMissingKeyIsOneLineThatSaysWhatToSet(t *testing.T) {
	t.Setenv("TALKERS_KEY", "")
	_, err := network.New(t.Context(), loadTalkers(t, "http://127.0.0.1:1"), network.Options{})
	if err == nil || err.Error() != "models.main.api_key: environment variable TALKERS_KEY: not set" {
		t.Fatalf("%v", err)
	}
	hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if !ok || !strings.HasPrefix(hinted.Hint(), "export TALKERS_KEY=…") {
		t.Errorf("%v", err)
	}
}

func TestMissingInstructionsNameTheFile(t *testing.T) {
	t.Setenv("TALKERS_KEY", "sk-x")
	c := loadTalkers(t, "http://127.0.0.1:1")
	c.Agents[0].InstructionsFile = filepath.Join(t.TempDir(), "none.md")
	_, err := network.New(t.Context(), c, network.Options{})
	if err == nil || !strings.Contains(err.Error(), `agent "asker": instructions_file: `) || !strings.Contains(err.Error(), "none.md") {
		t.Errorf("%v", err)
	}
}

// A model whose server hangs does not hold up the end of the network.
func TestHungModelDoesNotHoldUpTheEnd(t *testing.T) {
	t.Setenv("TALKERS_KEY", "sk-x")
	server := llmtest.New(llmtest.Sequence(llmtest.Reply{Hang: true}))
	defer server.Close()
	log, _ := newLog()
	n, err := network.New(t.Context(), loadTalkers(t, server.Anthropic()), network.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(server.Requests()) == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	start := time.Now()
	if err := n.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > patience {
		t.Errorf("%v", took)
	}
}
