package network

import (
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

// A model that answers in one piece says nothing before: that must not end a call that has more time.
func TestSilenceDoesNotCutShortTheTimeOfACall(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		model config.Model
		want  time.Duration
	}{
		{config.Model{Timeout: config.Duration(10 * time.Minute)}, 10 * time.Minute},
		{config.Model{Timeout: config.Duration(10 * time.Minute), Stream: true}, 0},
		{config.Model{}, 0},
	} {
		if got := silenceOf(test.model); got != test.want {
			t.Errorf("%+v: %v, want %v", test.model, got, test.want)
		}
	}
}
