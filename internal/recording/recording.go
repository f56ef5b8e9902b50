// Package recording is how what an agent is shown and what it decides is kept in receipts, so that it can be
// shown again. It keeps no types of package converge, which uses it.
package recording

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/task"
	"github.com/converge-agents/converge/tool"
)

// ErrMissing says that a log does not hold what an agent was shown.
var ErrMissing = errors.New("not recorded")

// version is that of the records below. Each is an array in CBOR of the version and a map.
const version = 1

// Start is what an agent starts from.
type Start struct {
	Restored []byte // the state of an earlier run; nil if there is none
	Begun    []byte // the state once it has started, before its first turn; nil if it keeps none
}

// Message is a message as the agent sees it.
type Message struct {
	Raw  []byte // the envelope
	Body []byte // where it is not the one in the envelope: opened, or changed by a hook
	Type string // of such a body
}

// Result is how a tool call ended.
type Result struct {
	CallID, Tool, TaskID string
	Taint                []string
	Data                 []byte
	ContentType          string
	Err                  *Error
	Duration             time.Duration
}

// Turn is what an agent is shown.
type Turn struct {
	Began    time.Time
	Messages []uint64 // receipts
	Results  []uint64 // receipts
	Tasks    []task.Task
	Claimed  []task.Task
	Ended    []Ended
	Failures []Failure
	Pools    []string
	Draining bool
}

// Decided is what came of a turn.
type Decided struct {
	Turn      []byte // the record of a Turn, from before the agent saw it
	Decisions []Decision
	Err       *Error // of Decide; the decisions were not carried out
}

// Ended is a task that has ended.
type Ended struct {
	Task  task.Task
	Proof *Error // what is wrong with the signature of who ended it; nil if it verifies
}

// Failure is a decision of an earlier turn that failed.
type Failure struct {
	Decision Decision
	Err      *Error
}

// Decision is what an agent decided, in a form to compare. Data is CBOR; nil if the decision cannot be written,
// or is not to be compared.
type Decision struct {
	Kind string
	Data []byte
}

// Equal reports whether two decisions are the same, as far as that can be told.
func (d Decision) Equal(o Decision) bool { return d.Kind == o.Kind && string(d.Data) == string(o.Data) }

// String returns the decision for people.
func (d Decision) String() string {
	if d.Data == nil {
		return d.Kind
	}
	text, err := cbor.Diagnose(d.Data)
	if err != nil {
		text = err.Error()
	}
	return d.Kind + " " + text
}

// NewDecision returns a decision of a kind whose value is v. Of a wake, the pause is left out: it goes by the clock.
func NewDecision(kind string, v any) Decision {
	if kind == "wake" {
		return Decision{Kind: kind}
	}
	data, err := encoding.Marshal(v)
	if err != nil {
		return Decision{Kind: kind}
	}
	return Decision{Kind: kind, Data: data}
}

// Error is an error, told by texts: its own and those of the errors that it wraps. What is read again is the same
// as another error to [errors.Is] if that has one of the texts.
type Error struct {
	Text    string
	Wraps   []string
	Tool    string // of a tool.Error, with its parts
	Reason  string
	Details *Error
}

// Bounds of an Error.
const (
	maxWraps = 64
	maxText  = 64 << 10
	maxDepth = 16
)

// NewError returns how err is kept; nil for nil.
func NewError(err error) *Error { return newError(err, maxDepth) }

func newError(err error, depth int) *Error {
	if err == nil || depth == 0 {
		return nil
	}
	e := &Error{Text: clip(err.Error())}
	collect(err, &e.Wraps, maxDepth)
	if t, ok := errors.AsType[*tool.Error](err); ok {
		e.Tool, e.Details = t.Tool, newError(t.Err, depth-1)
		if t.Reason != nil { // tools may make such errors too, and leave it out
			e.Reason = clip(t.Reason.Error())
		}
	}
	return e
}

func clip(text string) string { return cut.Text(text, maxText) }

// collect gathers the texts of all errors that err wraps.
func collect(err error, texts *[]string, depth int) {
	if err == nil || depth == 0 || len(*texts) == maxWraps {
		return
	}
	*texts = append(*texts, clip(err.Error()))
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		collect(e.Unwrap(), texts, depth-1)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			collect(inner, texts, depth-1)
		}
	}
}

// Again returns an error like the one that was kept; nil for nil.
func (e *Error) Again() error {
	if e == nil {
		return nil
	}
	again := &again{e.Text, e.Wraps}
	if e.Reason == "" {
		return again
	}
	t := &tool.Error{Tool: e.Tool, Reason: reasonOf(e.Reason), Err: e.Details.Again()}
	if t.Error() == e.Text {
		return t
	}
	return &wrapped{again, t}
}

var toolReasons = []error{
	tool.ErrDenied, tool.ErrUnknownTool, tool.ErrInvalidParams, tool.ErrNotApproved, tool.ErrBusy, tool.ErrTimeout,
	tool.ErrCancelled, tool.ErrOutputTooLarge, tool.ErrPanicked, tool.ErrFailed,
}

func reasonOf(text string) error {
	for _, reason := range toolReasons {
		if reason.Error() == text {
			return reason
		}
	}
	return errors.New(text)
}

// again is an error that was read again.
type again struct {
	text  string
	wraps []string
}

func (a *again) Error() string { return a.text }

// Is reports whether the error wrapped one with target's text.
func (a *again) Is(target error) bool {
	return target != nil && slices.Contains(a.wraps, target.Error())
}

// wrapped is an error that wraps a tool.Error.
type wrapped struct {
	*again
	inner *tool.Error
}

func (w *wrapped) Unwrap() error { return w.inner }

// Encode returns a record, which is nil if it cannot be written.
func Encode(v any) []byte {
	data, err := encoding.Marshal([]any{version, v})
	if err != nil {
		return nil
	}
	return data
}

// Decode reads a record into v, a pointer to the type that was written.
func Decode(data []byte, v any) error {
	var parts []cbor.RawMessage
	if err := decoding.Unmarshal(data, &parts); err != nil {
		return fmt.Errorf("read recording: %w", err)
	}
	var got uint64
	if len(parts) != 2 || decoding.Unmarshal(parts[0], &got) != nil {
		return errors.New("read recording: it is none")
	}
	if got != version {
		return fmt.Errorf("read recording: version %d, and this program knows %d", got, version)
	}
	if err := decoding.Unmarshal(parts[1], v); err != nil {
		return fmt.Errorf("read recording: %s: %w", reflect.TypeOf(v).Elem().Name(), err)
	}
	return nil
}

var (
	encoding = must(func() (cbor.EncMode, error) {
		o := cbor.CoreDetEncOptions()
		o.Time, o.TextMarshaler = cbor.TimeRFC3339NanoUTC, cbor.TextMarshalerTextString
		return o.EncMode()
	}())
	decoding = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		TextUnmarshaler: cbor.TextUnmarshalerTextString, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxArrayElements: 1 << 20, MaxNestedLevels: 64,
	}.DecMode())
)

func must[T any](mode T, err error) T {
	if err != nil {
		panic("recording: " + err.Error()) // the options above are constant
	}
	return mode
}
