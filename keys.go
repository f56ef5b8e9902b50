package converge

import (
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
)

// Rotate has the agent go on with another key of its own, made by [identity.Identity.Rotate], while it runs: its
// session, connections and claims stay. It first applies the key's statement to Config.Registry and has the
// transport tell it to the peers, if it can ([transport.Rotator]); then the agent signs with the new key. Who does
// not get the statement that way has to have it before, or it refuses what the agent signs.
func (r *Runtime) Rotate(id *identity.Identity) error {
	if id.ID() != r.ID() || id.Epoch() < r.signer.Identity().Epoch() {
		return fmt.Errorf("rotate the key of agent %s: it is that of agent %s, epoch %d, and epoch %d is in use",
			r.config.Name, id.ID().Short(), id.Epoch(), r.signer.Identity().Epoch())
	}
	if err := id.CheckTime(r.now()); err != nil {
		return fmt.Errorf("rotate the key of agent %s: %w", r.config.Name, err)
	}
	if raw := id.Statement(); raw != nil {
		if _, err := r.config.Registry.Apply(raw); err != nil {
			return fmt.Errorf("rotate the key of agent %s: %w", r.config.Name, err)
		}
	}
	if t, ok := r.config.Transport.(transport.Rotator); ok {
		if err := t.Rotate(id); err != nil {
			return fmt.Errorf("rotate the key of agent %s: %w", r.config.Name, err)
		}
	}
	if err := r.signer.Rotate(id); err != nil {
		return err
	}
	if r.proofs != nil {
		if err := r.proofs.Rotate(id); err != nil {
			return err
		}
	}
	r.registered.Load().hurry() // the descriptor carries the statement
	r.log.Info("agent has another key", "id", r.ID(), "epoch", id.Epoch())
	return nil
}

// checkKey refuses to start with a key that nobody would accept.
func (r *Runtime) checkKey() error {
	now := r.now()
	if err := r.config.Identity.CheckTime(now); err != nil {
		return err
	}
	raw := r.config.Identity.Statement()
	if raw == nil {
		return nil
	}
	s, err := identity.OpenKeys(raw)
	if err != nil {
		return err
	}
	if left := s.Expires.Sub(now); left < keyWarning {
		r.log.Warn("the agent's key expires soon: rotate it", "expires", s.Expires, "epoch", s.Epoch)
	}
	return nil
}

// now is the time by the clock that the agent verifies with.
func (r *Runtime) now() time.Time {
	if r.config.Verifier.Now != nil {
		return r.config.Verifier.Now()
	}
	return time.Now()
}

// withdrawn reports whether a message that has waited must not be used any more, because its sender's keys were
// taken back in the meantime, and counts it.
func (r *Runtime) withdrawn(m *message.Message) bool {
	if !m.Verified() {
		return false
	}
	err := r.config.Registry.Recheck(m.Sender(), m.Epoch())
	if err == nil {
		return false
	}
	reason := message.KeyReason(err)
	r.recalled.Inc(reason)
	r.trail.dropped(m, reason.String())
	r.log.Debug("message dropped from the inbox", "reason", reason.String(), "sender", m.Sender())
	return true
}

// WithdrawnReasons are the reasons for which messages are dropped that had been verified already.
var WithdrawnReasons = []message.Reason{message.ErrRevoked, message.ErrQuarantined, message.ErrUnknownEpoch}

func (r *Runtime) withdrawnCounts() map[string]uint64 {
	counts := map[string]uint64{}
	for _, reason := range WithdrawnReasons {
		counts[reason.String()] = r.recalled.Load(reason)
	}
	return counts
}

// keyWarning is how long before its key expires an agent that starts says so.
const keyWarning = 7 * 24 * time.Hour
