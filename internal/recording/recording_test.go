package recording_test

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"github.com/converge-agents/converge/internal/recording"
	"github.com/converge-agents/converge/tool"
)

// again keeps an error, and reads it.
func again(t *testing.T, err error) error {
	t.Helper()
	var read recording.Result
	if err := recording.Decode(recording.Encode(recording.Result{Err: recording.NewError(err)}), &read); err != nil {
		t.Fatal(err)
	}
	return read.Err.Again()
}

func TestErrorsAreTheSameAgain(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.EOF,
		fmt.Errorf("read: %w", io.EOF),
		errors.Join(io.EOF, io.ErrClosedPipe),
		&tool.Error{Tool: "t", Reason: tool.ErrTimeout},
		fmt.Errorf("call: %w", &tool.Error{Tool: "t", Reason: tool.ErrFailed, Err: io.EOF}),
	} {
		got := again(t, err)
		if got.Error() != err.Error() {
			t.Errorf("%q is %q", err, got)
		}
		for _, target := range []error{io.EOF, io.ErrClosedPipe, tool.ErrTimeout, tool.ErrFailed} {
			if errors.Is(got, target) != errors.Is(err, target) {
				t.Errorf("%v: it is %v: %v", err, target, errors.Is(got, target))
			}
		}
		want, isTool := errors.AsType[*tool.Error](err)
		if e, ok := errors.AsType[*tool.Error](got); ok != isTool || ok && (e.Tool != want.Tool || e.Reason != want.Reason) {
			t.Errorf("%v: %+v", err, e)
		}
	}
	if err := again(t, nil); err != nil {
		t.Error(err)
	}
}

// A tool's own error may be a tool.Error that has no reason.
func TestErrorOfAToolWithoutReasonIsKept(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		&tool.Error{Tool: "t", Err: io.EOF},
		&tool.Error{Tool: "t", Reason: tool.ErrFailed, Err: &tool.Error{Tool: "inner"}},
	} {
		if got := again(t, err); got.Error() != err.Error() {
			t.Errorf("%q is %q", err, got)
		}
	}
}

func TestRecordsThatAreNoneAreErrors(t *testing.T) {
	t.Parallel()
	good := recording.Encode(recording.Start{Begun: []byte("state")})
	var read recording.Start
	if err := recording.Decode(good, &read); err != nil || !reflect.DeepEqual(read, recording.Start{Begun: []byte("state")}) {
		t.Fatalf("%+v, %v", read, err)
	}
	newer := append([]byte(nil), good...)
	newer[1]++ // the version
	for name, data := range map[string][]byte{
		"nothing":      nil,
		"cut short":    good[:len(good)-1],
		"more":         append(append([]byte(nil), good...), 0),
		"newer":        newer,
		"another type": recording.Encode(recording.Message{Raw: []byte("x")}),
	} {
		if err := recording.Decode(data, &recording.Start{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
