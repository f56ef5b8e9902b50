package identity

import (
	"errors"
	"fmt"
	"time"
)

// SignSealing returns a signed statement that follows the current one and names another sealing key; the
// operational key stays. i must hold the root key. current is the agent's statement of the highest sequence, as
// of [Registry.Statement]; nil if there never was one: whoever forgets it makes a statement that others take
// for a contradiction (see [Registry.Apply]). In the simple mode the statement is good for DefaultKeyLifetime from
// now on, and in it the root key; otherwise its times stay as they are.
func (i *Identity) SignSealing(current []byte, key PublicSealingKey) ([]byte, error) {
	if key.IsZero() {
		return nil, fmt.Errorf("sign the sealing key of agent %s: %w", i.id.Short(), ErrNoSealingKey)
	}
	s, err := i.follow(current)
	if err != nil {
		return nil, fmt.Errorf("sign the sealing key of agent %s: %w", i.id.Short(), err)
	}
	if s.Epoch == 0 {
		now := time.Now().Truncate(time.Millisecond).UTC()
		if s.NotBefore.IsZero() {
			s.NotBefore = now
		}
		s.Expires = now.Add(DefaultKeyLifetime)
	}
	s.Sealing = key.Bytes()
	return SignKeys(i, s)
}

// SealingSource returns a source of the sealing keys in the agents' current key statements. An agent that has not
// been let in, whose keys do not count now, or whose statement names no sealing key, has none.
func (r *Registry) SealingSource() *SealingSource {
	return NewSealingSource(func(id ID) ([]byte, error) {
		key, err := r.Lookup(id)
		if err != nil {
			return nil, errors.Join(ErrNoSealingKey, err)
		}
		return key.Sealing, nil
	})
}
