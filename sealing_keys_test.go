package converge_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// TestSealingKeysComeFromSignedStatements has agents publish their keys as statements of their root keys, for
// three days, while one of them also gets another operational key.
func TestSealingKeysComeFromSignedStatements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		listener := &script{}
		to := w.stated(listener)
		b := w.run(to.Config)
		synctest.Wait()
		sent := 0
		speaker := &script{decide: func(converge.Turn) []converge.Decision {
			sent++
			return []converge.Decision{converge.SendMessage{Draft: message.Draft{To: to.Identity.ID(), Body: []byte("secret")}}}
		}}
		from := w.stated(speaker)
		from.TickEvery = time.Hour
		a := w.run(from.Config)
		time.Sleep(24*time.Hour + time.Minute)
		// Alice's root key goes offline: she signs with another key, and keeps the sealing key that the statement names.
		current := w.registry.Statement(a.ID())
		next := must(from.Identity.Rotate(identity.Rotation{Current: current, Sealing: from.Sealing.Current().Bytes()}))
		if err := a.Rotate(next); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := len(listener.bodies()); got != sent || got < 70 || b.Stats().Opened != uint64(got) {
			t.Errorf("%d of %d arrived; refused %v; failures %v", got, sent, b.Stats().Refused, speaker.failures())
		}
		s := must(identity.OpenKeys(w.registry.Statement(to.Identity.ID())))
		if s.Sequence < 3 || s.Epoch != 0 || string(s.Sealing) != string(to.Sealing.Current().Bytes()) {
			t.Errorf("the statement has sequence %d, epoch %d", s.Sequence, s.Epoch)
		}
	})
}

// stated is an agent that publishes its sealing keys in statements.
type stated struct {
	converge.Config
}

func (w *world) stated(agent converge.Agent) *stated {
	w.t.Helper()
	s := &stated{Config: w.config(agent)}
	s.Sealing = must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519}))
	s.Seal, s.Recipients = message.SealRequired, w.registry.SealingSource()
	s.PublishSealing = func(_ context.Context, key identity.PublicSealingKey) error {
		raw, err := s.Identity.SignSealing(w.registry.Statement(s.Identity.ID()), key)
		if err != nil {
			return err
		}
		_, err = w.registry.Apply(raw)
		return err
	}
	return s
}
