package message

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
)

// SealPolicy is what a [Signer] or a [Verifier] makes of sealed bodies.
type SealPolicy uint8

// The policies.
const (
	// SealAllow seals what a draft asks for, and takes sealed and plain messages alike. It is the default.
	SealAllow SealPolicy = iota
	// SealRequired seals every message to one agent without being asked, and refuses drafts that cannot be
	// sealed; a verifier refuses messages to its agent alone that are not ([ErrUnsealed]). What comes by a
	// topic or for everybody it takes plain: see Draft.Public.
	SealRequired
	// SealOff seals and opens nothing: drafts that ask for it are refused, and sealed messages are
	// [ErrUnopenable].
	SealOff
)

var sealPolicies = [...]string{SealAllow: "allow", SealRequired: "required", SealOff: "off"}

// ParseSealPolicy reads "allow", "required" or "off"; "" means SealAllow.
func ParseSealPolicy(text string) (SealPolicy, error) {
	if text == "" {
		return SealAllow, nil
	}
	for p, name := range sealPolicies {
		if text == name {
			return SealPolicy(p), nil
		}
	}
	return SealOff, fmt.Errorf("seal policy %.40q: use off, allow or required", text)
}

// String returns "allow", "required" or "off".
func (p SealPolicy) String() string {
	if int(p) < len(sealPolicies) {
		return sealPolicies[p]
	}
	return "unknown"
}

// SealingKeySource returns the keys that agents open sealed bodies with. It is asked for every message that
// is sealed, from several goroutines: it should hold its keys ready. An agent that has none is
// [identity.ErrNoSealingKey].
type SealingKeySource interface {
	SealingKey(id identity.ID) (identity.PublicSealingKey, error)
}

func (c *SignerConfig) checkSealing() error {
	switch {
	case int(c.Seal) >= len(sealPolicies):
		return fmt.Errorf("message.SignerConfig.Seal: %d is no policy", c.Seal)
	case c.Seal == SealRequired && c.Recipients == nil:
		return errors.New("message.SignerConfig.Recipients: required where Seal is: nothing could be sealed")
	case c.Seal == SealRequired && c.Mode == UnsignedUnsafe:
		return errors.New("message.SignerConfig.Seal: what is not signed is not sealed: Mode has to be Batch or Single")
	}
	if c.Seal == SealOff {
		c.Recipients = nil
	}
	return nil
}

func (v *Verifier) checkSealing() error {
	switch {
	case int(v.seal) >= len(sealPolicies):
		return fmt.Errorf("message.VerifierConfig.Seal: %d is no policy", v.seal)
	case v.seal == SealRequired && v.sealing == nil:
		return errors.New("message.VerifierConfig.Sealing: required where Seal is: nothing could be opened")
	}
	if v.seal == SealOff {
		v.sealing = nil
	}
	if life := v.maxAge + 2*v.skew; v.sealing != nil && v.sealing.Overlap() < life {
		return fmt.Errorf("message.VerifierConfig.Sealing: its overlap of %v is less than MaxAge and twice Skew, %v", v.sealing.Overlap(), life)
	}
	return nil
}

// wantsSealing reports whether a draft is to be sealed.
func (s *Signer) wantsSealing(d *Draft) bool {
	return d.Seal || len(d.SealTo) > 0 || s.seal == SealRequired && !d.Public
}

// sealingFault reports why a draft cannot be sealed as it asks to be, or has to be.
func (s *Signer) sealingFault(d *Draft) error {
	if d.Public && (d.Seal || len(d.SealTo) > 0 || !d.To.IsZero()) {
		return errors.New("Draft.Public: only for a message to topics or to everybody that is not sealed")
	}
	if !s.wantsSealing(d) {
		return nil
	}
	switch {
	case s.mode == UnsignedUnsafe:
		return errors.New("Draft.Seal: what is not signed is not sealed")
	case s.recipients == nil:
		return errors.New("Draft.Seal: this signer seals nothing: SignerConfig.Recipients is not set, or SignerConfig.Seal is off")
	case !d.To.IsZero() && len(d.SealTo) > 0:
		return errors.New("Draft.SealTo: a message to one agent is sealed to that agent: leave it empty")
	case d.To.IsZero() && len(d.SealTo) == 0:
		return errors.New("Draft.SealTo: a message to topics or to everybody is sealed to the agents named here, and none is; " +
			"or set Draft.Public for all to read it, without Draft.Seal")
	}
	return checkSealTo(d.SealTo)
}

func checkSealTo(to []identity.ID) error {
	if len(to) > MaxSealTo {
		return fmt.Errorf("Draft.SealTo: %d agents where at most %d are allowed", len(to), MaxSealTo)
	}
	seen := make(map[identity.ID]bool, len(to))
	for i, id := range to {
		if id.IsZero() || seen[id] {
			return fmt.Errorf("Draft.SealTo: agent %d, %s, is nobody or given twice", i+1, id.Short())
		}
		seen[id] = true
	}
	return nil
}
