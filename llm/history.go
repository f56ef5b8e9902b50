package llm

import (
	"fmt"
	"strings"

	"github.com/converge-agents/converge/internal/cut"
)

// history is what a conversation has come to. Its first message is the user's, and results always follow the calls that
// they are of, so that every provider takes it.
type history struct {
	messages []Message
	first    string // the text of the first message, without notes
	dropped  int    // rounds
}

// say adds text of the user.
func (h *history) say(text string) {
	if len(h.messages) == 0 {
		h.first = text
	}
	h.messages = append(h.messages, Message{Role: User, Text: text})
}

func (h *history) size() (n int) {
	for _, m := range h.messages {
		n += m.size()
	}
	return n
}

// compact makes the history fit into so many bytes: the oldest results and arguments are left out first, then the oldest
// rounds, each with its calls and their results. The first message and the last round stay, cut short if they have
// to be.
func (h *history) compact(most int) {
	for i := 1; i < h.lastRound() && h.size() > most; i++ {
		h.messages[i] = hollow(h.messages[i])
	}
	for h.size() > most && h.dropRound() {
	}
	if h.size() > most {
		h.cut(most)
	}
}

// lastRound returns where the last message of the assistant is; with none, where the history ends.
func (h *history) lastRound() int {
	for i := len(h.messages) - 1; i > 0; i-- {
		if h.messages[i].Role == Assistant {
			return i
		}
	}
	return len(h.messages)
}

// hollow leaves out the long parts of a message.
func hollow(m Message) Message {
	const short = 200
	m.Results = append([]Result(nil), m.Results...)
	for i, r := range m.Results {
		if len(r.Text) > short {
			m.Results[i].Text = fmt.Sprintf("(a result of %d bytes was left out here, to save room)", len(r.Text))
		}
	}
	m.Calls = append([]Call(nil), m.Calls...)
	for i, c := range m.Calls {
		if len(c.Args) > short {
			m.Calls[i].Args = "{}"
		}
	}
	return m
}

// dropRound leaves out the oldest round that is not the last one.
func (h *history) dropRound() bool {
	next := 2
	for next < len(h.messages) && h.messages[next].Role != Assistant {
		next++
	}
	if next > h.lastRound() || next >= len(h.messages) {
		return false
	}
	h.dropped++
	h.messages = append(h.messages[:1:1], h.messages[next:]...)
	h.messages[0].Text = h.noted()
	return true
}

// noted returns the first message with a note of what was left out.
func (h *history) noted() string {
	if h.dropped == 0 {
		return h.first
	}
	return h.first + fmt.Sprintf("\n\n(%d earlier steps of this conversation were left out, to save room)", h.dropped)
}

// cut shortens what is left: texts and results share the room.
func (h *history) cut(most int) {
	parts := 0
	for _, m := range h.messages {
		parts += 1 + len(m.Results) + len(m.Calls)
	}
	share := max(most/parts-64, 16)
	h.first = shorten(h.first, share)
	for i, m := range h.messages {
		m.Text = shorten(m.Text, share)
		if i == 0 {
			m.Text = h.noted()
		}
		m.Results = append([]Result(nil), m.Results...)
		for j := range m.Results {
			m.Results[j].Text = shorten(m.Results[j].Text, share)
		}
		m.Calls = append([]Call(nil), m.Calls...)
		for j, c := range m.Calls {
			if len(c.Args) > share {
				m.Calls[j].Args = "{}"
			}
		}
		h.messages[i] = m
	}
}

// shorten cuts text, but for a short last line: that is where a fence ends.
func shorten(text string, most int) string {
	const note, longest = "… (cut)", 64
	if len(text) <= most {
		return text
	}
	end := ""
	if last := strings.LastIndexByte(text, '\n'); last >= 0 && len(text)-last <= longest {
		end = text[last:]
	}
	return cut.Text(text, max(most-len(note)-len(end), 0)) + note + end
}
