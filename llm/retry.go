package llm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/converge-agents/converge/internal/sleep"
)

// Defaults of a [Retry].
const (
	DefaultAttempts = 5
	DefaultPause    = time.Second
	DefaultMaxPause = time.Minute
)

// Retry says how often a model is asked again that could not answer for the time being, and after what pauses. A server
// that names a pause is left alone for that long; one that names a longer one than MaxPause is not asked again.
// The zero value means the defaults.
type Retry struct {
	Attempts int           // in all; 0 means DefaultAttempts
	Pause    time.Duration // after the first; doubles each time, with some chance in it; 0 means DefaultPause
	MaxPause time.Duration // 0 means DefaultMaxPause
}

func (r Retry) withDefaults() Retry {
	if r.Attempts == 0 {
		r.Attempts = DefaultAttempts
	}
	if r.Pause == 0 {
		r.Pause = DefaultPause
	}
	if r.MaxPause == 0 {
		r.MaxPause = DefaultMaxPause
	}
	return r
}

func (r Retry) check() error {
	if r.Attempts < 0 || r.Pause < 0 || r.MaxPause < 0 {
		return errors.New("Retry: Attempts, Pause and MaxPause must not be negative; 0 means their defaults")
	}
	return nil
}

// Do calls ask until it succeeds, its error is none that goes away, or the attempts are used up. It ends with ctx, and
// does not begin a pause that ctx's deadline would cut short.
func (r Retry) Do(ctx context.Context, ask func(attempt int) (Response, error)) (Response, error) {
	r = r.withDefaults()
	for attempt := 1; ; attempt++ {
		answer, err := ask(attempt)
		if err == nil {
			return answer, nil
		}
		failed, ok := errors.AsType[*Error](err)
		if !ok || !failed.Temporary() || ctx.Err() != nil {
			return Response{}, err
		}
		pause := r.pause(attempt, failed.RetryAfter)
		switch deadline, bounded := ctx.Deadline(); {
		case attempt >= r.Attempts:
			return Response{}, fmt.Errorf("%w; %d attempts", err, attempt)
		case failed.RetryAfter > r.MaxPause:
			return Response{}, fmt.Errorf("%w; the server asks to wait %v, longer than %v", err, failed.RetryAfter, r.MaxPause)
		case bounded && time.Until(deadline) <= pause:
			return Response{}, fmt.Errorf("%w; no time is left to try again in %v", err, pause.Round(time.Millisecond))
		}
		if cause := sleep.For(ctx, pause); cause != nil {
			return Response{}, &Error{Provider: failed.Provider, Reason: ErrCancelled, Err: cause}
		}
	}
}

// pause returns how long to wait after an attempt: what the server says, and never less.
func (r Retry) pause(attempt int, server time.Duration) time.Duration {
	if server > 0 {
		return server
	}
	pause := r.Pause
	for range attempt - 1 {
		pause = min(2*pause, r.MaxPause)
	}
	return pause/2 + rand.N(pause/2+1)
}
