package network_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/llm/llmtest"
	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/replay"
)

const planners = `network: planners
store: sqlite
data: "${data}"
log: {level: error}
vars: {desk: desk, data: unused, url: "http://127.0.0.1:1", instructions: "", calls: "9", day: "1000000", record: "true"}
audit: {record: "${record}"}
tools:
  greet: {command: [cat], stdin: "hello {name}"}
models:
  main: {provider: openai, model: m, base_url: "${url}", max_tokens: 500}
agents:
- name: planner
  kind: llm
  model: main
  instructions: "${instructions}"
  concurrency: 8
  capabilities: {plan: Plan well., loop: Go on and on.}
  tools: [greet]
  submits: [shout]
  peers: [teller]
  budget: {task: {calls: "${calls}"}, day: {tokens: "${day}"}}
- {name: teller, kind: llm, model: main, peers: [planner]}
- {name: shouter, kind: worker, capabilities: {shout: greet}, tools: [greet]}
- name: "${desk}"
  kind: coordinator
  deadline: 10s
  tasks:
  - {capability: plan, count: 3, params: {secret: "the-params-{n}"}}
  - {capability: loop, count: 2}
`

// plannersWith parses the configuration with variables: name, value, name, value, …
func plannersWith(t *testing.T, pairs ...string) *config.Config {
	t.Helper()
	vars := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		vars[pairs[i]] = pairs[i+1]
	}
	c, err := config.Parse("c.yaml", []byte(planners), config.Options{Vars: vars})
	check(t, err)
	return c
}

// mind is what the models of these agents do: failures and retries, tools, messages, subtasks, calls that are refused.
func mind() llmtest.Script {
	call := func(pairs ...string) llmtest.Reply {
		r := llmtest.Reply{Text: "the-thought"}
		for i := 0; i < len(pairs); i += 2 {
			r.Calls = append(r.Calls, llmtest.Call{Name: pairs[i], Args: pairs[i+1]})
		}
		return r
	}
	round := func(n int) func(llmtest.Request) bool {
		return func(r llmtest.Request) bool { return r.Rounds() == n }
	}
	first := func(r llmtest.Request) bool { return r.Rounds() == 2 && strings.Contains(r.Text(), "the-params-1") }
	busy := llmtest.Reply{Status: 503, RetryAfterMS: "3"}
	return llmtest.Rules(
		llmtest.Rule{System: `the agent "teller"`, Contains: "noon?", Reply: call("send_message", `{"to":"planner","text":"noon"}`)},
		llmtest.Rule{System: `the agent "teller"`, Reply: llmtest.Reply{Text: "said"}},
		llmtest.Rule{System: `capability "loop"`, Times: 2, Reply: busy},
		llmtest.Rule{System: `capability "loop"`, Reply: call("nonsense", `{"again":"and again"}`)},
		llmtest.Rule{System: `capability "plan"`, Times: 3, Reply: busy},
		llmtest.Rule{System: `capability "plan"`, When: round(0), Reply: call("greet", `{"name":"bob"}`, "greet", `{"name":""}`, "greet", `{}`, "greet", `{"nobody":1}`)},
		llmtest.Rule{System: `capability "plan"`, When: round(1), Reply: call("submit_task", `{"capability":"shout","params":{"name":"sue"}}`, "submit_task", `{"capability":"dig","params":{}}`, "greet", `{"name":"tim"}`)},
		llmtest.Rule{System: `capability "plan"`, When: first, Reply: call("send_message", `{"to":"teller","text":"noon?"}`)},
		llmtest.Rule{System: `capability "plan"`, Contains: "sent", Reply: llmtest.Reply{Text: "I wait"}},
		llmtest.Rule{System: `capability "plan"`, Reply: call("report_task", `{"result":"the-result"}`)},
		llmtest.Rule{Reply: llmtest.Reply{Text: "nothing"}},
	)
}

// recordPlanners runs the network, and returns its report and the folder of its receipts. The model is gone then.
func recordPlanners(t *testing.T, pairs ...string) (network.Report, string) {
	t.Helper()
	return recordPlannersIn(t, t.TempDir(), pairs...)
}

func recordPlannersIn(t *testing.T, data string, pairs ...string) (network.Report, string) {
	t.Helper()
	server := llmtest.New(mind())
	defer server.Close()
	c := plannersWith(t, append(pairs, "url", server.OpenAI(), "data", data)...)
	log, _ := newLog()
	n, err := network.New(t.Context(), c, network.Options{Logger: log})
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		select {
		case <-n.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	check(t, n.Run(ctx))
	report := n.Report()
	check(t, n.Close())
	return report, filepath.Join(data, "audit")
}

func replayPlanners(t *testing.T, c *config.Config, agent, dir string) (replay.Summary, error) {
	t.Helper()
	return network.Replay(t.Context(), c, agent, replay.Config{}, dir)
}

func TestReplayOfAgentsWithModels(t *testing.T) {
	t.Parallel()
	report, dir := recordPlanners(t)
	if report.Tasks.Completed != 3 || report.Tasks.Failed != 2 {
		t.Errorf("the recording is not what it is to be: %+v", report.Tasks)
	}
	for name, test := range map[string]func(*testing.T, string){
		"same":                testAgentsWithModelsAreReplayedExactly,
		"other configuration": testOtherConfigurationDiffersFromTheRecording,
		"other answer":        testOtherAnswerThanRecordedDiffers,
		"not recorded":        testNothingOfPromptsAndAnswersIsKeptWithoutRecording,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, dir)
		})
	}
}

func testAgentsWithModelsAreReplayedExactly(t *testing.T, dir string) {
	for agent, decisions := range map[string]int{"planner": 30, "teller": 1, "shouter": 6, "desk": 5} {
		sum, err := replayPlanners(t, plannersWith(t, "instructions", "Do all in another way, and write as long instructions as you like."), agent, dir)
		if err != nil || sum.Difference != nil || sum.Starts != 1 || sum.Decisions < decisions {
			t.Errorf("%s: %+v, %v", agent, sum, err)
		}
	}
}

// The agent's day ends in the middle of several conversations whose calls are under way and being tried again: who
// of them gets the last of it goes by the order in which they come back.
func TestSharedBudgetIsReplayedExactly(t *testing.T) {
	t.Parallel()
	report, dir := recordPlanners(t, "day", "14000")
	if report.Tasks.Failed == 0 {
		t.Errorf("the budget lasts: %+v", report.Tasks)
	}
	sum, err := replayPlanners(t, plannersWith(t, "day", "14000"), "planner", dir)
	if err != nil || sum.Difference != nil || sum.Turns < 5 {
		t.Errorf("%+v, %v", sum, err)
	}
	sum, err = replayPlanners(t, plannersWith(t), "planner", dir)
	if err != nil || sum.Difference == nil || !strings.Contains(sum.Difference.Recorded, "of this day") {
		t.Errorf("with a larger budget: %v, %v", sum.Difference, err)
	}
}

// What an agent has used is in its checkpoint: its second run begins with what the first has left.
func TestSecondRunIsReplayedFromWhereItBegan(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first, _ := recordPlannersIn(t, data, "day", "30000", "calls", "3")
	second, dir := recordPlannersIn(t, data, "day", "30000", "calls", "3", "desk", "another")
	if first.Tasks.Failed+second.Tasks.Failed == 0 {
		t.Errorf("%+v, %+v", first.Tasks, second.Tasks)
	}
	sum, err := replayPlanners(t, plannersWith(t, "day", "30000", "calls", "3"), "planner", dir)
	if err != nil || sum.Difference != nil || sum.Starts != 2 || sum.Decisions < 20 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func testOtherConfigurationDiffersFromTheRecording(t *testing.T, dir string) {
	sum, err := replayPlanners(t, plannersWith(t, "calls", "3"), "planner", dir)
	if d := sum.Difference; err != nil || d == nil || d.Turn == 0 || !strings.Contains(d.Got, "3 model calls of this task") {
		t.Errorf("another budget: %v, %v", d, err)
	}
	c := plannersWith(t)
	c.Agents[0].Tools = nil
	sum, err = replayPlanners(t, c, "planner", dir)
	if d := sum.Difference; err != nil || d == nil || d.Number == 0 || !strings.Contains(d.Recorded, `invoke_tool {`) || !strings.Contains(d.Recorded, `"greet"`) || strings.Contains(d.Got, "invoke_tool") {
		t.Errorf("another allowlist: %v, %v", d, err)
	}
	c = plannersWith(t)
	c.Agents[0].LLM.Peers = nil
	sum, err = replayPlanners(t, c, "planner", dir)
	if d := sum.Difference; err != nil || d == nil || !strings.Contains(d.Recorded, "send_message") {
		t.Errorf("no peers: %v, %v", d, err)
	}
}

// forge copies a log, with other contents in the receipts of models.
func forge(t *testing.T, from string, change func(content []byte) []byte) string {
	t.Helper()
	to := t.TempDir()
	key, err := identity.Generate()
	check(t, err)
	var l *audit.Log
	_, err = audit.Verify(audit.Check{Each: func(e *audit.Entry) (err error) {
		if l == nil {
			l, err = audit.Open(audit.Config{Dir: to, Key: key, Network: "planners"})
		}
		if err != nil || e.Kind == audit.KindLog {
			return err
		}
		r := e.Receipt
		if r.Kind == audit.KindModel {
			r.Content = change(r.Content)
		}
		if seq, err := l.Append(&r); err != nil || seq != e.Seq {
			return fmt.Errorf("receipt %d is %d in the copy: %w", e.Seq, seq, err)
		}
		return nil
	}}, from)
	check(t, err)
	check(t, l.Close())
	return to
}

func testOtherAnswerThanRecordedDiffers(t *testing.T, dir string) {
	if sum, err := replayPlanners(t, plannersWith(t), "planner", forge(t, dir, bytes.Clone)); err != nil || sum.Difference != nil {
		t.Fatalf("a copy: %v, %v", sum.Difference, err)
	}
	forged := forge(t, dir, func(content []byte) []byte { return bytes.ReplaceAll(content, []byte("bob"), []byte("rob")) })
	sum, err := replayPlanners(t, plannersWith(t), "planner", forged)
	if d := sum.Difference; err != nil || d == nil || d.Number == 0 || !strings.Contains(d.String(), "another one") ||
		!strings.Contains(d.Recorded, "invoke_tool") || !strings.Contains(d.Got, "invoke_tool") || d.Recorded == d.Got {
		t.Errorf("%v, %v", d, err)
	}
	for what, change := range map[string]func([]byte) []byte{
		"audit.record: true": func([]byte) []byte { return nil },
		"read recording":     func(content []byte) []byte { return content[:len(content)-1] },
	} {
		if _, err := replayPlanners(t, plannersWith(t), "planner", forge(t, dir, change)); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %s", err, what)
		}
	}
}

// Receipts hold neither what models are shown nor what they answer, unless that is asked for.
func testNothingOfPromptsAndAnswersIsKeptWithoutRecording(t *testing.T, recorded string) {
	_, dir := recordPlanners(t, "record", "false", "instructions", "the-instructions")
	if _, err := replayPlanners(t, plannersWith(t), "planner", dir); !errors.Is(err, replay.ErrNotRecorded) || !strings.Contains(err.Error(), "audit.record") {
		t.Errorf("%v", err)
	}
	for _, secret := range []string{"the-instructions", "the-params", "the-thought", "the-result", "noon", "again and", "hello bob", `{"name`} {
		if strings.Contains(readAll(t, dir), secret) {
			t.Errorf("%q is in the log", secret)
		}
		if secret != "the-instructions" && secret != "again and" && !strings.Contains(readAll(t, recorded), secret) {
			t.Errorf("%q is not in the recording: the test proves nothing", secret)
		}
	}
	models, failed, taken := 0, 0, 0
	_, err := audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
		if e.Kind == audit.KindModel {
			models++
			if e.Outcome == "failed" {
				failed++
			}
			if e.Outcome == "taken" || len(e.Content) > 0 {
				taken++
			}
		}
		return nil
	}}, dir)
	if err != nil || models < 10 || failed != 5 || taken > 0 {
		t.Errorf("%d receipts of models, %d of failures, %d with contents, %v", models, failed, taken, err)
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	check(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		check(t, err)
		b.Write(data)
	}
	return b.String()
}
