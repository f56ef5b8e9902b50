package llm

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/recording"
)

// kept is what replays need besides turns, as receipts hold it: exactly one of its parts.
type kept struct {
	Answer *keptAnswer
	Turn   *keptTurn
}

// keptAnswer is what came of one call of the model.
type keptAnswer struct {
	Thought   uint64 // as the agent counts them from its start on
	Attempt   int
	Text      []byte
	Calls     []keptCall
	Stop      string
	Input     int // tokens
	Output    int
	Estimated bool
	TooLarge  bool             // the answer is left out
	Err       *recording.Error // why there is no answer
}

type keptCall struct{ ID, Name, Args []byte }

// keptTurn is what a turn of the agent went by that the runtime does not show.
type keptTurn struct {
	Number uint64 // of the record, from 1
	Peers  []keptPeer
	Taken  []keptThought // in their order
	Asked  []keptQuestion
	Proofs []keptProof
	Budget []doing
	Hung   bool // too many calls of the model did not come back
}

type keptPeer struct {
	Name string
	ID   [32]byte
}

// keptThought is a thought that came back, with its last answer or this error.
type keptThought struct {
	Thought uint64
	Err     *recording.Error
}

// keptQuestion is what the model was asked: how many tokens it was taken for.
type keptQuestion struct {
	Thought uint64
	Input   int
}

// keptProof is what came of verifying who ended a task.
type keptProof struct {
	Task string
	Err  *recording.Error
}

// isEmpty reports whether a turn went by nothing but what it was shown.
func (k *keptTurn) isEmpty() bool {
	return len(k.Taken)+len(k.Asked)+len(k.Proofs)+len(k.Budget) == 0 && !k.Hung
}

// maxKept bounds the record of an answer, in bytes. One that is longer is left out.
const maxKept = 8 << 20

// keepAnswer encodes what came of a call.
func keepAnswer(thought uint64, attempt int, answer Response, err error) []byte {
	k := keptAnswer{
		Thought: thought, Attempt: attempt, Text: []byte(answer.Text), Stop: string(answer.Stop), Input: answer.Usage.Input,
		Output: answer.Usage.Output, Estimated: answer.Usage.Estimated, Err: recording.NewError(err),
	}
	for _, c := range answer.Calls {
		k.Calls = append(k.Calls, keptCall{[]byte(c.ID), []byte(c.Name), []byte(c.Args)})
	}
	content := recording.Encode(kept{Answer: &k})
	if len(content) > maxKept {
		content = recording.Encode(kept{Answer: &keptAnswer{Thought: thought, Attempt: attempt, TooLarge: true}})
	}
	return content
}

func (k *keptAnswer) again() Response {
	r := Response{Text: string(k.Text), Stop: Stop(k.Stop), Usage: Usage{Input: k.Input, Output: k.Output, Estimated: k.Estimated}}
	for _, c := range k.Calls {
		r.Calls = append(r.Calls, Call{ID: string(c.ID), Name: string(c.Name), Args: string(c.Args)})
	}
	return r
}

// ErrNotRecorded says that what an agent's model answered, or what the agent went by besides, was not recorded. It is
// replay.ErrNotRecorded.
var ErrNotRecorded = recording.ErrMissing

// Recall is the past of one run of an agent, from its start on, for replays: an agent that is given it asks no model, but is answered
// as it was then. It has to be told the records of Exchange.Content and Config.Journal in their order, each before
// the turn that came after it. It is not safe for concurrent use.
type Recall struct {
	answers map[uint64]*keptAnswer // by the thought, those that are not taken in yet
	next    *keptTurn              // of the coming turn
	turns   uint64
}

// NewRecall returns a past in which nothing has happened yet.
func NewRecall() *Recall { return &Recall{answers: map[uint64]*keptAnswer{}} }

// Observe takes in one record.
func (r *Recall) Observe(content []byte) error {
	var k kept
	if err := recording.Decode(content, &k); err != nil {
		return err
	}
	switch {
	case k.Answer != nil && k.Turn == nil:
		r.answers[k.Answer.Thought] = k.Answer // the last attempt counts
	case k.Turn != nil && k.Answer == nil:
		r.next = k.Turn
	default:
		return errors.New("it is no record of an agent with a model")
	}
	return nil
}

// turn returns what the coming turn went by.
func (r *Recall) turn() (keptTurn, error) {
	next := r.next
	r.next = nil
	switch {
	case next == nil && r.turns == 0:
		return keptTurn{}, fmt.Errorf("%w: what the agent was told by its model; the log is of an older version", ErrNotRecorded)
	case next == nil:
		return keptTurn{}, nil
	case next.Number != r.turns+1:
		return keptTurn{}, fmt.Errorf("%w: record %d of what the agent's turns went by", ErrNotRecorded, r.turns+1)
	}
	r.turns++
	return *next, nil
}

// answer returns the last answer of a thought.
func (r *Recall) answer(thought uint64) (Response, error) {
	k := r.answers[thought]
	switch {
	case k == nil || k.Err != nil:
		return Response{}, fmt.Errorf("%w: answer %d of the model", ErrNotRecorded, thought)
	case k.TooLarge:
		return Response{}, fmt.Errorf("%w: answer %d of the model: it is larger than %d bytes", ErrNotRecorded, thought, maxKept)
	}
	return k.again(), nil
}

// forget forgets answers to those of the first so many thoughts that nobody waits for.
func (r *Recall) forget(asked uint64, waits func(thought uint64) bool) {
	for thought := range r.answers {
		if thought <= asked && !waits(thought) {
			delete(r.answers, thought)
		}
	}
}

// beginTurn prepares the note of a turn: an empty one, or in replays the one of the past.
func (a *Agent) beginTurn() (err error) {
	a.note = keptTurn{}
	if a.config.Recall == nil {
		return nil
	}
	if a.note, err = a.config.Recall.turn(); err != nil {
		return err
	}
	a.ledger.recall(a.note.Budget)
	for _, p := range a.note.Peers {
		a.meet(p.Name, p.ID)
	}
	return nil
}

// meet tells an agent of the past the ID of one of its peers.
func (a *Agent) meet(name string, id identity.ID) {
	for i, p := range a.config.Peers {
		if p.Name == name {
			a.config.Peers[i].ID, a.byName[name], a.names[id] = id, id, name
		}
	}
}

// endTurn hands the note of the turn over.
func (a *Agent) endTurn() {
	if r := a.config.Recall; r != nil {
		a.ledger.endTurn()
		a.ledger.release(a.note.Taken)
		r.forget(a.asked, func(thought uint64) bool { return a.waiting(thought) != nil })
		return
	}
	if a.config.Journal == nil {
		return
	}
	a.note.Budget = a.ledger.endTurn()
	if a.turns > 0 && a.note.isEmpty() {
		return
	}
	if a.turns == 0 {
		for _, p := range a.config.Peers {
			a.note.Peers = append(a.note.Peers, keptPeer{p.Name, p.ID})
		}
	}
	a.turns++
	a.note.Number = a.turns
	a.config.Journal(recording.Encode(kept{Turn: &a.note}))
}

// waiting returns the conversation that waits for a thought.
func (a *Agent) waiting(thought uint64) *conversation {
	for _, c := range a.tasks {
		if c.thinking && c.thought == thought {
			return c
		}
	}
	for _, c := range a.threads {
		if c.thinking && c.thought == thought {
			return c
		}
	}
	return nil
}

// recalled returns the thoughts that came back in this turn of the past.
func (a *Agent) recalled() (thoughts []thought, err error) {
	for _, k := range a.note.Taken {
		th := thought{c: a.waiting(k.Thought), number: k.Thought, err: k.Err.Again()}
		if th.c == nil {
			return nil, fmt.Errorf("answer %d of the model was taken in then, and nothing waits for it now", k.Thought)
		}
		if th.err == nil {
			if th.answer, err = a.config.Recall.answer(k.Thought); err != nil {
				return nil, err
			}
		}
		thoughts = append(thoughts, th)
	}
	return thoughts, nil
}

// estimate returns how many tokens a request takes; in replays, as it was then.
func (a *Agent) estimate(thought uint64, r Request) int {
	for _, k := range a.note.Asked {
		if k.Thought == thought { // of a replay
			return k.Input
		}
	}
	input := EstimateInput(r)
	a.note.Asked = append(a.note.Asked, keptQuestion{thought, input})
	return input
}

// proofOf returns what came of verifying who ended a task, at the time.
func (k *keptTurn) proofOf(task string) error {
	for _, p := range k.Proofs {
		if p.Task == task {
			return p.Err.Again()
		}
	}
	return nil
}
