package converge

import (
	"context"
	"errors"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/message"
)

func (c *Config) validateSealing() error {
	required := c.Seal == message.SealRequired
	switch {
	case required && c.Sealing == nil:
		return errors.New("converge.Config.Sealing: required where Seal is: nothing that comes could be opened")
	case required && c.Recipients == nil:
		return errors.New("converge.Config.Recipients: required where Seal is: nothing could be sealed")
	case required && c.ReceiveUnsafe:
		return errors.New("converge.Config.Seal: what is received unverified is never opened: ReceiveUnsafe excludes required")
	case c.PublishSealing != nil && c.Sealing == nil:
		return errors.New("converge.Config.PublishSealing: there is nothing to publish without Sealing")
	}
	return nil
}

// Pauses between looks at the sealing keys. The longest one is what a clock that jumps can cost.
const (
	minSealingPause   = time.Second
	maxSealingPause   = time.Hour
	sealingRetryPause = time.Minute
)

// tendSealing rotates, publishes and forgets the agent's sealing keys when it is time, from a timer: it holds no
// goroutine in between. The caller ends ctx before it calls stop.
func (r *Runtime) tendSealing(ctx context.Context) (stop func()) {
	if r.config.Sealing == nil {
		return func() {}
	}
	care := &sealingCare{Runtime: r}
	timer := &renewal{}
	timer.renew = func() { timer.every = care.look(ctx) }
	timer.start()
	return timer.stop
}

// sealingCare is what a runtime knows of the care for its sealing keys.
type sealingCare struct {
	*Runtime
	published identity.SealingKeyID
}

// look does what is due, and returns when to look again.
func (s *sealingCare) look(ctx context.Context) time.Duration {
	if ctx.Err() != nil {
		return maxSealingPause
	}
	err := s.config.Sealing.Forget()
	if s.config.PublishSealing != nil {
		err = errors.Join(err, s.rotate(), s.publish(ctx))
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("sealing keys are not as they should be", "error", err, "again_in", sealingRetryPause)
		panics.LogStack(s.log, err)
		return sealingRetryPause
	}
	return min(max(s.untilDue(), minSealingPause), maxSealingPause)
}

func (s *sealingCare) rotate() error {
	if s.until(s.config.Sealing.RotationDue()) > 0 {
		return nil
	}
	key, err := s.config.Sealing.Rotate()
	if err == nil {
		s.log.Info("agent has another sealing key", "key", key.ID().String())
	}
	return err
}

func (s *sealingCare) publish(ctx context.Context) error {
	key := s.config.Sealing.Current()
	if key.ID() == s.published {
		return nil
	}
	err := s.call(ctx, "PublishSealing", func(ctx context.Context) error { return s.config.PublishSealing(ctx, key) })
	if err == nil {
		s.published = key.ID()
	}
	return err
}

// untilDue returns how long it is until there is something to do.
func (s *sealingCare) untilDue() time.Duration {
	pause := maxSealingPause
	if s.config.PublishSealing != nil {
		pause = min(pause, s.until(s.config.Sealing.RotationDue()))
	}
	if due := s.config.Sealing.ForgettingDue(); !due.IsZero() {
		pause = min(pause, s.until(due))
	}
	return pause
}

func (s *sealingCare) until(t time.Time) time.Duration {
	if now := s.config.Verifier.Now; now != nil {
		return t.Sub(now())
	}
	return time.Until(t)
}
