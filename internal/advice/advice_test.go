package advice_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/converge-agents/converge/internal/advice"
)

func TestAdviceIsFoundInWhatWrapsIt(t *testing.T) {
	inner := advice.On(io.ErrUnexpectedEOF, "read again")
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""}, {io.EOF, ""}, {inner, "read again"}, {fmt.Errorf("load: %w", inner), "read again"},
		{errors.Join(io.EOF, inner), "read again"}, {advice.On(inner, "ask for help"), "ask for help"},
	} {
		if got := advice.In(c.err); got != c.want {
			t.Errorf("In(%v) = %q, want %q", c.err, got, c.want)
		}
	}
	if inner.Error() != io.ErrUnexpectedEOF.Error() || !errors.Is(inner, io.ErrUnexpectedEOF) {
		t.Errorf("with advice the error is %v", inner)
	}
}
