package llmtest

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/internal/sleep"
)

// wire is a wire format.
type wire interface {
	read(body []byte, h http.Header) (Request, error)
	whole(r Request, reply Reply) string
	events(r Request, reply Reply) []string // as they go over the wire, without the empty line after each
	failure(reply Reply) string             // the body of an error
	failureEvent(reply Reply) string
}

// check refuses histories that real servers refuse.
func check(r Request) error {
	if len(r.Messages) == 0 {
		return errors.New("messages: at least one is required")
	}
	if r.Messages[0].Role != "user" || len(r.Messages[0].Results) > 0 {
		return errors.New("messages: the first one has to be the user's, without results")
	}
	open := map[string]bool{}
	for i, m := range r.Messages {
		answered := map[string]bool{}
		for _, result := range m.Results {
			if !open[result.CallID] || answered[result.CallID] {
				return fmt.Errorf("messages.%d: a result for %q, which no call of the message before has", i, result.CallID)
			}
			answered[result.CallID] = true
		}
		if len(answered) != len(open) {
			return fmt.Errorf("messages.%d: %d calls of the message before have no result", i, len(open)-len(answered))
		}
		clear(open)
		for _, c := range m.Calls {
			if c.ID == "" || open[c.ID] {
				return fmt.Errorf("messages.%d: a call without ID, or two with the same", i)
			}
			if !isName(c.Name) {
				return fmt.Errorf("messages.%d: %q is not the name of a tool", i, c.Name)
			}
			open[c.ID] = true
		}
	}
	if len(open) > 0 {
		return errors.New("messages: the last calls have no results")
	}
	return checkTools(r.Tools)
}

func checkTools(tools []Tool) error {
	names := map[string]bool{}
	for i, t := range tools {
		if !isName(t.Name) || names[t.Name] {
			return fmt.Errorf("tools.%d: the name %q is malformed or not unique", i, t.Name)
		}
		names[t.Name] = true
	}
	return nil
}

// isName holds the stricter of both servers' rules.
func isName(s string) bool { return names.Is(s, 64, "_-") }

// answer writes a reply, or fails as it says.
func answer(w http.ResponseWriter, r *http.Request, format wire, request Request, reply Reply) {
	if reply.Hang {
		<-r.Context().Done()
		return
	}
	if !pause(r, reply.Delay) {
		return
	}
	for i := range reply.Calls {
		if reply.Calls[i].ID == "" {
			reply.Calls = append([]Call(nil), reply.Calls...)
			reply.Calls[i].ID = fmt.Sprintf("call_%d_%d", request.Number, i)
		}
	}
	for name, value := range map[string]string{"retry-after": reply.RetryAfter, "retry-after-ms": reply.RetryAfterMS, "location": reply.Location} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	switch {
	case reply.Status > 299:
		write(w, reply.Status, format.failure(reply), reply.Raw)
	case !request.Stream:
		write(w, http.StatusOK, format.whole(request, reply), reply.Raw)
	default:
		stream(w, r, format, request, reply)
	}
}

func pause(r *http.Request, d time.Duration) bool {
	return d <= 0 || sleep.For(r.Context(), d) == nil
}

func write(w http.ResponseWriter, status int, body, raw string) {
	if raw != "" {
		body = raw
	}
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

// stream writes server-sent events.
func stream(w http.ResponseWriter, r *http.Request, format wire, request Request, reply Reply) {
	w.Header().Set("content-type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if reply.Raw != "" {
		fmt.Fprint(w, reply.Raw)
		return
	}
	for i, event := range format.events(request, reply) {
		switch {
		case reply.CutAfter > 0 && i == reply.CutAfter:
			panic(http.ErrAbortHandler) // ends the connection without the last chunk
		case reply.FailAfter > 0 && i == reply.FailAfter:
			fmt.Fprintf(w, "%s\n\n", format.failureEvent(reply))
			return
		case reply.HangAfter > 0 && i == reply.HangAfter:
			<-r.Context().Done()
			return
		}
		fmt.Fprintf(w, "%s\n\n", event)
		if control.Flush() != nil {
			return
		}
	}
}

// tokens fills in what the reply leaves out.
func (reply Reply) tokens(r Request) (input, output int) {
	input, output = reply.Input, reply.Output
	if input == 0 {
		input = len(r.Body)/4 + 1
	}
	if output == 0 {
		output = len(reply.Text)/4 + 1
		for _, c := range reply.Calls {
			output += (len(c.Name)+len(c.Args))/4 + 1
		}
	}
	return input, output
}

// pieces cuts text as a stream does.
func pieces(text string) (all []string) {
	const size = 12
	runes := []rune(text)
	for len(runes) > size {
		all, runes = append(all, string(runes[:size])), runes[size:]
	}
	return append(all, string(runes))
}
