package control

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Bounds of a page of tasks, and of what is shown of one.
const (
	DefaultPage = 50
	MaxPage     = 500
	MaxReason   = 256     // bytes of a reason in a list
	MaxContent  = 8 << 10 // bytes of params, and of a result
)

// Tasks is what the server needs of whoever keeps the tasks of a network. Errors wrap [ErrNotFound], [ErrState],
// [ErrInvalid] and [ErrElsewhere], for people to read.
type Tasks interface {
	ListTasks(ctx context.Context, q TaskQuery) (TaskPage, error)
	GetTask(ctx context.Context, id string) (TaskDetail, error)
	// RequeueTask gives a dead letter another round of attempts, and CancelTask ends a task that has not ended.
	RequeueTask(ctx context.Context, id string, a Author) (Task, error)
	CancelTask(ctx context.Context, id string, a Author) (Task, error)
}

// Dead is the state by which dead letters are asked for. It goes with no other one.
const Dead = "dead"

// TaskQuery says which tasks are meant: those that agree with all that is set. In a URL its fields are called as the
// comments say; those of lists may come several times.
type TaskQuery struct {
	States       []string      // state: pending, assigned, completed, failed, cancelled: in one of them; or dead
	Kinds        []string      // kind: of one of them
	Worker       string        // worker: who holds the task, or held it when it ended; the name or the ID of an agent
	Submitter    string        // submitter, likewise
	Pool         string        // pool
	Topics       []string      // topic: patterns, of which one matches
	Capabilities []string      // capability: that it asks for all of
	Newer, Older time.Duration // newer, older: submitted less, or more, than so long ago; 0 is any time
	Limit        int           // limit: 1 to MaxPage; 0 means DefaultPage
	After        string        // after: Next of the page before
}

// TaskPage is a part of a list, in the order of the IDs.
type TaskPage struct {
	Tasks []Task `json:"tasks"`
	Next  string `json:"next,omitempty"` // TaskQuery.After of the next page; "" if there is none
}

// Task is a task without its content. Texts are what agents chose: hostile, perhaps.
type Task struct {
	ID          string `json:"id"`
	Kind        string `json:"kind"`
	State       string `json:"state"` // as task.Status has it
	DeadLetter  bool   `json:"dead_letter,omitempty"`
	Priority    int    `json:"priority"`
	Attempts    int    `json:"attempts"`     // that have failed or run out
	MaxAttempts int    `json:"max_attempts"` // 0: the first failure ends it
	Worker      string `json:"worker,omitempty"`
	WorkerID    string `json:"worker_id,omitempty"`
	Submitter   string `json:"submitter"` // the name here, or the beginning of the ID
	SubmitterID string `json:"submitter_id"`
	Pool        string `json:"pool,omitempty"`

	Created time.Time `json:"created"`
	Changed time.Time `json:"changed"`

	Reason    string `json:"reason,omitempty"` // why it, or its last attempt, has failed
	ReasonCut bool   `json:"reason_cut,omitempty"`
}

// TaskDetail is a task with all that is kept of it.
type TaskDetail struct {
	Task
	Topic          string        `json:"topic,omitempty"`
	Capabilities   []string      `json:"capabilities,omitempty"`
	IdempotencyKey string        `json:"idempotency_key,omitempty"`
	Epoch          uint64        `json:"epoch"` // claims that it has seen
	ClaimTTL       time.Duration `json:"claim_ttl"`
	ClaimExpires   time.Time     `json:"claim_expires,omitzero"`
	NotBefore      time.Time     `json:"not_before,omitzero"`
	Ready          time.Time     `json:"ready,omitzero"` // when it can be claimed, of one that has to wait for that
	Deadline       time.Time     `json:"deadline,omitzero"`
	Signed         bool          `json:"signed"` // of one that has ended: by the agent that held it
	Params         Content       `json:"params"`
	Result         *Content      `json:"result,omitempty"` // nil if there is none
}

// Content is what an agent wrote: hostile text, perhaps.
type Content struct {
	Text   string `json:"text"` // in at most [MaxContent] bytes; "" if it is no text
	Cut    bool   `json:"cut,omitempty"`
	Binary bool   `json:"binary,omitempty"` // it is no text
	Type   string `json:"type,omitempty"`   // the media type of a result
	Size   int    `json:"size"`             // bytes, of all of it
	SHA256 string `json:"sha256"`
}

// The parameters of a query, by the kinds of their values.
func (q *TaskQuery) lists() map[string]*[]string {
	return map[string]*[]string{"state": &q.States, "kind": &q.Kinds, "topic": &q.Topics, "capability": &q.Capabilities}
}

func (q *TaskQuery) texts() map[string]*string {
	return map[string]*string{"worker": &q.Worker, "submitter": &q.Submitter, "pool": &q.Pool, "after": &q.After}
}

func (q *TaskQuery) durations() map[string]*time.Duration {
	return map[string]*time.Duration{"newer": &q.Newer, "older": &q.Older}
}

func (q TaskQuery) values() url.Values {
	v := url.Values{}
	for name, list := range q.lists() {
		v[name] = *list
	}
	for name, text := range q.texts() {
		if *text != "" {
			v.Set(name, *text)
		}
	}
	for name, d := range q.durations() {
		if *d != 0 {
			v.Set(name, d.String())
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// parseTaskQuery refuses what it does not know: a filter that is overlooked would show, or end, the wrong tasks.
func parseTaskQuery(v url.Values) (q TaskQuery, err error) {
	lists, texts, durations := q.lists(), q.texts(), q.durations()
	for name, given := range v {
		switch {
		case lists[name] != nil:
			*lists[name] = given
		case len(given) != 1:
			err = fmt.Errorf("%.32q is given %d times", name, len(given))
		case texts[name] != nil:
			*texts[name] = given[0]
		case durations[name] != nil:
			*durations[name], err = parseAge(given[0])
		case name == "limit":
			q.Limit, err = strconv.Atoi(given[0])
		default:
			err = fmt.Errorf("there is no parameter %.32q", name)
		}
		if err != nil {
			return q, err
		}
	}
	if err := q.Check(); err != nil {
		return q, err
	}
	q.Limit = cmp.Or(q.Limit, DefaultPage)
	return q, nil
}

func parseAge(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%.32q is not more than 0", text)
	}
	return d, err
}

var states = []string{"pending", "assigned", "completed", "failed", "cancelled", Dead}

// States returns the states that a [TaskQuery] may ask for.
func States() []string { return slices.Clone(states) }

// Check reports what is wrong with a query, as far as that can be said without the tasks.
func (q *TaskQuery) Check() error {
	for _, state := range q.States {
		if !slices.Contains(states, state) {
			return fmt.Errorf("there is no state %.32q", state)
		}
	}
	switch {
	case slices.Contains(q.States, Dead) && len(q.States) > 1:
		return fmt.Errorf("the state %s goes with no other one", Dead)
	case q.Limit < 0 || q.Limit > MaxPage:
		return fmt.Errorf("limit is 1 to %d, not %d", MaxPage, q.Limit)
	}
	return nil
}

func (s *Server) listTasks(w http.ResponseWriter, r *http.Request) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		invalid(w, err)
		return
	}
	q, err := parseTaskQuery(v)
	if err != nil {
		invalid(w, err)
		return
	}
	page, err := s.tasks.ListTasks(r.Context(), q)
	s.answer(w, page, err)
}

func (s *Server) getTask(w http.ResponseWriter, r *http.Request) {
	found, err := s.tasks.GetTask(r.Context(), r.PathValue("id"))
	s.answer(w, found, err)
}

func (s *Server) actOnTask(w http.ResponseWriter, r *http.Request) {
	action, author, err := readAction(r, "requeue", "cancel")
	if err != nil {
		invalid(w, err)
		return
	}
	act := s.tasks.CancelTask
	if action == "requeue" {
		act = s.tasks.RequeueTask
	}
	changed, err := act(r.Context(), r.PathValue("id"), author)
	s.answer(w, changed, err)
}
