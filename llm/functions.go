package llm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// Reason says why a call that the model wanted was refused before it became a decision.
type Reason string

// The reasons to refuse a call.
const (
	UnknownFunction   Reason = "unknown_function"
	InvalidArguments  Reason = "invalid_arguments"
	UnknownRecipient  Reason = "unknown_recipient"
	UnknownCapability Reason = "unknown_capability"
	TooManyCalls      Reason = "too_many_calls"
	TooDeep           Reason = "too_deep"
	TooLong           Reason = "too_long"
)

// Reasons returns all reasons to refuse a call.
func Reasons() []Reason {
	return []Reason{UnknownFunction, InvalidArguments, UnknownRecipient, UnknownCapability, TooManyCalls, TooDeep, TooLong}
}

// refusal is why a call does not become a decision. The model sees the text.
type refusal struct {
	reason Reason
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(reason Reason, format string, args ...any) error {
	return &refusal{reason, fmt.Sprintf(format, args...)}
}

// Bounds of what a model may ask for at once.
const (
	maxCallsAtOnce = 16       // of one answer
	maxText        = 64 << 10 // bytes of a message
)

// arguments reads the arguments of a call: an object with exactly these keys, each once.
func arguments(raw string, keys ...string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(strings.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, refuse(InvalidArguments, "the arguments are not a JSON object")
	}
	values := map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		key, isText := name.(string)
		var value json.RawMessage
		if err != nil || !isText || d.Decode(&value) != nil {
			return nil, refuse(InvalidArguments, "the arguments are not a JSON object")
		}
		if !slices.Contains(keys, key) {
			return nil, refuse(InvalidArguments, "there is no argument %q; there are: %s", clean(key, 64), strings.Join(keys, ", "))
		}
		if values[key] != nil {
			return nil, refuse(InvalidArguments, "the argument %q is given twice", key)
		}
		values[key] = value
	}
	if _, err := d.Token(); err != nil || d.More() {
		return nil, refuse(InvalidArguments, "the arguments are not one JSON object")
	}
	for _, key := range keys {
		if values[key] == nil {
			return nil, refuse(InvalidArguments, "the argument %q is missing", key)
		}
	}
	return values, nil
}

// textArguments reads arguments that are all text.
func textArguments(raw string, keys ...string) (map[string]string, error) {
	values, err := arguments(raw, keys...)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for key, value := range values {
		var text *string
		if json.Unmarshal(value, &text) != nil || text == nil {
			return nil, refuse(InvalidArguments, "the argument %q has to be a string", key)
		}
		texts[key] = *text
	}
	return texts, nil
}

// act makes a decision of a call, or refuses it. The slot is where the result will go.
func (a *Agent) act(c *conversation, call Call, slot *slot) (converge.Decision, error) {
	switch {
	case call.Name == sendMessage && len(a.config.Peers) > 0:
		return a.send(c, call, slot)
	case call.Name == submitTask && len(a.config.Submits) > 0:
		return a.submit(c, call, slot)
	case call.Name == reportTask && c.task != nil:
		return a.report(c, call)
	case call.Name == failTask && c.task != nil:
		return a.giveUp(c, call)
	}
	t, ok := a.tools[call.Name]
	if !ok {
		return nil, refuse(UnknownFunction, "there is no function %q", clean(call.Name, maxToolName))
	}
	return a.invoke(c, t, call, slot)
}

func (a *Agent) send(c *conversation, call Call, slot *slot) (converge.Decision, error) {
	args, err := textArguments(call.Args, "to", "text")
	if err != nil {
		return nil, err
	}
	to, known := a.byName[args["to"]]
	if !known {
		return nil, refuse(UnknownRecipient, "there is no agent %q that you can write to", clean(args["to"], 64))
	}
	if len(args["text"]) > maxText {
		return nil, refuse(TooLong, "the text has %d bytes where a message has at most %d", len(args["text"]), maxText)
	}
	d := converge.SendMessage{Draft: message.Draft{To: to, Body: []byte(args["text"]), ContentType: "text/plain; charset=utf-8", TaskID: c.about}}
	c.asked[to] = true
	a.sends = append(a.sends, sending{d.Draft, slot})
	return d, nil
}

// keyPrefix begins the idempotency keys of tasks that agents with models submit. How deep they are follows.
const keyPrefix = "llm/"

func (a *Agent) submit(c *conversation, call Call, slot *slot) (converge.Decision, error) {
	args, err := arguments(call.Args, "capability", "params")
	if err != nil {
		return nil, err
	}
	var capability *string
	if json.Unmarshal(args["capability"], &capability) != nil || capability == nil || !slices.Contains(a.config.Submits, *capability) {
		return nil, refuse(UnknownCapability, "there is no capability %s that you can submit tasks for", clean(string(args["capability"]), 64))
	}
	params := args["params"]
	if !isObject(params) || len(params) > task.MaxParams {
		return nil, refuse(InvalidArguments, "params has to be a JSON object of at most %d bytes", task.MaxParams)
	}
	if c.depth+1 >= a.config.MaxDepth {
		return nil, refuse(TooDeep, "this task has come over %d agents already: do it yourself, or fail it", c.depth+1)
	}
	key := c.keyOf(*capability, params)
	spec := task.Spec{
		ID: task.IDForKey(a.config.ID, key), IdempotencyKey: key, Kind: *capability, Capabilities: []string{*capability}, Params: params,
	}
	c.subtasks[spec.ID] = slot
	a.subtasks[spec.ID] = c
	return converge.SubmitTask{Spec: spec}, nil
}

func isObject(raw json.RawMessage) bool {
	return json.Valid(raw) && bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{"))
}

// keyOf returns an idempotency key that another attempt at the same task comes to again if its model does the same.
func (c *conversation) keyOf(capability string, params []byte) string {
	content := fmt.Sprintf("%q %q %q %q", c.key, c.nonce, capability, params)
	c.same[content]++
	sum := sha256.Sum256([]byte(content + strconv.Itoa(c.same[content])))
	return keyPrefix + strconv.Itoa(c.depth+1) + "/" + hex.EncodeToString(sum[:16])
}

// depthOf reads how many agents with models a task has come over.
func depthOf(s task.Spec) int {
	rest, ok := strings.CutPrefix(s.IdempotencyKey, keyPrefix)
	number, _, _ := strings.Cut(rest, "/")
	depth, err := strconv.Atoi(number)
	if !ok || err != nil || depth < 0 {
		return 0
	}
	return depth
}

func (a *Agent) report(c *conversation, call Call) (converge.Decision, error) {
	args, err := textArguments(call.Args, "result")
	if err != nil {
		return nil, err
	}
	if len(args["result"]) > task.MaxResult {
		return nil, refuse(TooLong, "the result has %d bytes where a task holds at most %d", len(args["result"]), task.MaxResult)
	}
	return converge.ReportTask{TaskID: c.task.ID, Result: []byte(args["result"]), ContentType: "text/plain; charset=utf-8"}, nil
}

func (a *Agent) giveUp(c *conversation, call Call) (converge.Decision, error) {
	args, err := textArguments(call.Args, "reason")
	if err != nil {
		return nil, err
	}
	return converge.FailTask{TaskID: c.task.ID, Reason: publicReason(args["reason"])}, nil
}

// invoke has a tool run. What the params are made of is all that the model has been shown in this conversation.
func (a *Agent) invoke(c *conversation, t known, call Call, slot *slot) (converge.Decision, error) {
	if !isObject(json.RawMessage(call.Args)) {
		return nil, refuse(InvalidArguments, "the arguments are not a JSON object")
	}
	if err := a.ledger.toolCall(c.key); err != nil {
		return nil, err
	}
	a.calls++
	id := strconv.FormatUint(a.calls, 10)
	a.running[id] = slot
	seen := c.taint
	return converge.InvokeTool{Tool: t.name, Params: json.RawMessage(call.Args), CallID: id, TaskID: c.taskID(), Taint: &seen}, nil
}

// publicReason is what others get to know of why a task failed.
func publicReason(text string) string {
	const most = 1024
	return clean(text, most)
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own making
	}
	return b
}

var errNoAnswer = errors.New("the model ended its work without a result")
