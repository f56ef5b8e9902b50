package identity

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Defaults and limits of [SealingKeys].
const (
	DefaultSealingRotation = 24 * time.Hour
	DefaultSealingOverlap  = 24 * time.Hour
	// MinSealingOverlap is more than a message lives by default (5 min, and 30 s by which clocks differ).
	MinSealingOverlap = 10 * time.Minute
	// MaxSealingKeys bounds the keys that are kept. At the bound, the next one has the oldest forgotten
	// before its time.
	MaxSealingKeys = 16
)

// ErrNoSealingKey says that an agent has no sealing key, or not the one that is asked for. It comes as it is,
// unwrapped, from where strangers cause it.
var ErrNoSealingKey = errors.New("no such sealing key")

// SealingKeysConfig configures [SealingKeys].
type SealingKeysConfig struct {
	Suite SealingSuite // of new keys; 0 means MLKEM768X25519
	// Rotation is how long a key is current; 0 means DefaultSealingRotation.
	Rotation time.Duration
	// Overlap is for how long a key that is not current any more still opens: as long as senders may go on
	// without having heard of the next one, and messages be under way. At least MinSealingOverlap; 0 means
	// DefaultSealingOverlap.
	Overlap time.Duration
	// Path is a file that keeps the keys across restarts, of mode 0600; the folder has to exist. "" means that
	// what was sealed before a restart cannot be opened after it.
	Path string
	Now  func() time.Time // nil means time.Now
}

// SealingKeys holds an agent's private sealing keys: the current one, and those before it that may still have
// to open something. Once a key's overlap is over it is forgotten, here and in the file, and what was
// sealed to it is closed for everybody for good. It is safe for concurrent use and never prints a key.
//
// Forgetting is as good as Go and the disk allow: memory is given back to the collector, and the file is
// replaced, not overwritten.
type SealingKeys struct {
	config SealingKeysConfig

	changing sync.Mutex // one rotation at a time, disk included
	file     digest     // of what was last read from the file or written to it

	mu   sync.RWMutex
	keys []heldKey // never empty; the current one first
}

// heldKey is a key and its times.
type heldKey struct {
	*SealingKey
	created time.Time
	retired time.Time // when another one became current; zero for the current one
}

// NewSealingKeys returns the keys that the file holds, or makes a first one and writes the file.
func NewSealingKeys(c SealingKeysConfig) (*SealingKeys, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	k := &SealingKeys{config: c}
	if err := k.load(); err != nil {
		return nil, err
	}
	if len(k.keys) > 0 {
		return k, k.Forget()
	}
	if _, err := k.Rotate(); err != nil {
		return nil, err
	}
	return k, nil
}

func (c *SealingKeysConfig) setDefaults() error {
	c.Suite = cmp.Or(c.Suite, MLKEM768X25519)
	c.Rotation = cmp.Or(c.Rotation, DefaultSealingRotation)
	c.Overlap = cmp.Or(c.Overlap, DefaultSealingOverlap)
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case !c.Suite.IsKnown():
		return fmt.Errorf("identity.SealingKeysConfig.Suite: %w %d", ErrSealingSuite, c.Suite)
	case c.Rotation < 0:
		return errors.New("identity.SealingKeysConfig.Rotation: negative")
	case c.Overlap < MinSealingOverlap:
		return fmt.Errorf("identity.SealingKeysConfig.Overlap: %v is less than %v: messages under way would be lost", c.Overlap, MinSealingOverlap)
	}
	return nil
}

// Overlap returns for how long a key still opens once it is not current any more.
func (k *SealingKeys) Overlap() time.Duration { return k.config.Overlap }

// Current returns the public key that others are to seal to.
func (k *SealingKeys) Current() PublicSealingKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[0].public
}

// Find returns a key that has not been forgotten, or [ErrNoSealingKey].
func (k *SealingKeys) Find(id SealingKeyID) (*SealingKey, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := range k.keys {
		if held := &k.keys[i]; held.public.id == id && !k.isOver(held) {
			return held.SealingKey, nil
		}
	}
	return nil, ErrNoSealingKey
}

func (k *SealingKeys) isOver(held *heldKey) bool {
	return !held.retired.IsZero() && !k.config.Now().Before(held.retired.Add(k.config.Overlap))
}

// RotationDue returns when the current key has been current for long enough, or the zero time if it is of
// another suite than configured and so due at once.
func (k *SealingKeys) RotationDue() time.Time {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys[0].public.suite != k.config.Suite {
		return time.Time{}
	}
	return k.keys[0].created.Add(k.config.Rotation)
}

// Rotate makes a new key, writes it to the file, and only then makes it current; the caller tells others of
// it. If it cannot be written nothing changes. Keys whose overlap is over are forgotten.
func (k *SealingKeys) Rotate() (PublicSealingKey, error) {
	k.changing.Lock()
	defer k.changing.Unlock()
	key, err := GenerateSealingKey(k.config.Suite)
	if err != nil {
		return PublicSealingKey{}, err
	}
	now := k.config.Now().Truncate(time.Millisecond)
	keys := append([]heldKey{{SealingKey: key, created: now}}, k.lasting()...)
	if len(keys) > 1 {
		keys[1].retired = now
	}
	if err := k.replace(keys[:min(len(keys), MaxSealingKeys)]); err != nil {
		return PublicSealingKey{}, fmt.Errorf("rotate sealing key: %w", err)
	}
	return key.public, nil
}

// Forget forgets the keys whose overlap is over. If the file cannot be written the error says so, and they
// open nothing all the same.
func (k *SealingKeys) Forget() error {
	k.changing.Lock()
	defer k.changing.Unlock()
	lasting := k.lasting()
	if len(lasting) == len(k.keys) { // only written under k.changing
		return nil
	}
	if err := k.replace(lasting); err != nil {
		return fmt.Errorf("forget sealing keys: %w", err)
	}
	return nil
}

// lasting returns a copy of the keys whose overlap is not over.
func (k *SealingKeys) lasting() []heldKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.DeleteFunc(slices.Clone(k.keys), func(held heldKey) bool { return k.isOver(&held) })
}

// replace has keys written, and then makes them the keys.
func (k *SealingKeys) replace(keys []heldKey) error {
	if err := k.save(keys); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
	return nil
}

// ForgettingDue returns when the next key has to be forgotten, or the zero time if only the current one is held.
func (k *SealingKeys) ForgettingDue() time.Time {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var due time.Time
	for _, held := range k.keys[1:] {
		if over := held.retired.Add(k.config.Overlap); due.IsZero() || over.Before(due) {
			due = over
		}
	}
	return due
}

// Len returns how many keys are held, the current one included.
func (k *SealingKeys) Len() int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return len(k.keys)
}

// String returns "sealing keys" and what the current public key prints.
func (k *SealingKeys) String() string { return "sealing keys, now " + k.Current().String() }

// Format implements [fmt.Formatter], so that no verb reaches a private key.
func (k *SealingKeys) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue implements [slog.LogValuer] with the ID of the current public key.
func (k *SealingKeys) LogValue() slog.Value { return slog.StringValue(k.Current().ID().String()) }

// MarshalText returns an error: private keys are only ever written to the file.
func (k *SealingKeys) MarshalText() ([]byte, error) {
	return nil, errors.New("marshal sealing keys: private keys are only written to their file")
}
