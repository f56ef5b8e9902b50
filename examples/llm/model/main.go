// Command model is a server that plays the model of this example, so that it runs without a network and a key. It prints
// its address and serves until it is interrupted. It speaks the formats of OpenAI and Anthropic.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/converge-agents/converge/llm/llmtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := llmtest.New(play)
	defer server.Close()
	fmt.Println(server.Anthropic())
	<-ctx.Done()
}

// play answers as the model of the agent that asks.
func play(r llmtest.Request) llmtest.Reply {
	if strings.Contains(r.System, `the agent "editor"`) {
		return edit(r)
	}
	return read(r)
}

var file = regexp.MustCompile(`[a-z]+\.txt`)

// edit counts the lines of both texts, has both read, and puts together what came of it.
func edit(r llmtest.Request) llmtest.Reply {
	files := file.FindAllString(r.Messages[0].Text, -1)
	switch r.Rounds() {
	case 0:
		return callEach(files, func(name string) llmtest.Call { return call("lines", object{"path": name}) })
	case 1:
		return callEach(files, func(name string) llmtest.Call {
			return call("submit_task", object{"capability": "summarise", "params": object{"path": name}})
		})
	}
	counts, summaries := data(r.Messages[2]), data(r.Messages[4])
	var parts []string
	for i, name := range files {
		parts = append(parts, fmt.Sprintf("%s (%s lines): %s", name, counts[i], summaries[i]))
	}
	return llmtest.Reply{Calls: []llmtest.Call{call("report_task", object{"result": strings.Join(parts, "; ")})}}
}

// read reads the text, and takes its first line for what it is about.
func read(r llmtest.Request) llmtest.Reply {
	if r.Rounds() == 0 {
		return callEach(file.FindAllString(r.Messages[0].Text, 1), func(name string) llmtest.Call { return call("read", object{"path": name}) })
	}
	title, _, _ := strings.Cut(data(r.Last())[0], "\n")
	return llmtest.Reply{Calls: []llmtest.Call{call("report_task", object{"result": title})}}
}

type object = map[string]any

func call(name string, args object) llmtest.Call {
	encoded, err := json.Marshal(args)
	if err != nil {
		panic(err) // of our own making
	}
	return llmtest.Call{Name: name, Args: string(encoded)}
}

func callEach(files []string, one func(string) llmtest.Call) (reply llmtest.Reply) {
	for _, name := range files {
		reply.Calls = append(reply.Calls, one(name))
	}
	return reply
}

// data returns what stands between the fences of each result.
func data(m llmtest.Message) (all []string) {
	for _, r := range m.Results {
		lines := strings.Split(strings.TrimSpace(r.Text), "\n")
		all = append(all, strings.TrimSpace(strings.Join(lines[1:max(len(lines)-1, 1)], "\n")))
	}
	return all
}
