package identity

import (
	"fmt"
	"sync"
)

// maxSealingSource bounds the keys that a [SealingSource] holds ready: some 10 KB each. At the bound any other
// one is let go, which costs some 30 µs when it is wanted again.
const maxSealingSource = 1024

// SealingSource holds the keys ready that others open sealed bodies with. It reads each key once and not for
// every message, and takes a new one as soon as there is one. It is safe for concurrent use.
type SealingSource struct {
	lookup func(ID) ([]byte, error)

	mu   sync.RWMutex
	keys map[ID]PublicSealingKey
}

// NewSealingSource returns a source of keys that lookup returns as they are encoded, from the signed key
// statements of their agents, say. Lookup is asked every time. No bytes mean that the agent has no sealing key.
func NewSealingSource(lookup func(ID) ([]byte, error)) *SealingSource {
	return &SealingSource{lookup: lookup, keys: map[ID]PublicSealingKey{}}
}

// SealingKey returns an agent's key. Errors: those of lookup and [ParsePublicSealingKey], and [ErrNoSealingKey].
func (s *SealingSource) SealingKey(id ID) (PublicSealingKey, error) {
	encoded, err := s.lookup(id)
	if err != nil {
		return PublicSealingKey{}, err
	}
	if len(encoded) == 0 {
		return PublicSealingKey{}, ErrNoSealingKey
	}
	s.mu.RLock()
	key := s.keys[id]
	s.mu.RUnlock()
	if key.encoded == string(encoded) {
		return key, nil
	}
	if key, err = ParsePublicSealingKey(encoded); err != nil {
		return PublicSealingKey{}, fmt.Errorf("agent %s: %w", id.Short(), err)
	}
	s.hold(id, key)
	return key, nil
}

func (s *SealingSource) hold(id ID, key PublicSealingKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.keys {
		if len(s.keys) < maxSealingSource {
			break
		}
		delete(s.keys, other)
	}
	s.keys[id] = key
}
