package llm

import (
	"fmt"
	"log/slog"
	"strings"
)

// Key is an API key. It does not show itself: whatever prints, logs or marshals it gets "[key]". The zero Key is none.
type Key struct{ secret string }

// NewKey returns a key. Blanks at both ends are left out.
func NewKey(secret string) Key { return Key{strings.TrimSpace(secret)} }

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.secret == "" }

// Reveal returns the secret, for the header of a request.
func (k Key) Reveal() string { return k.secret }

const hiddenKey = "[key]"

// String returns "[key]".
func (k Key) String() string { return hiddenKey }

// GoString returns "[key]".
func (k Key) GoString() string { return hiddenKey }

// Format writes "[key]", whatever the verb.
func (k Key) Format(s fmt.State, _ rune) { fmt.Fprint(s, hiddenKey) }

// LogValue returns "[key]".
func (k Key) LogValue() slog.Value { return slog.StringValue(hiddenKey) }

// MarshalText returns "[key]".
func (k Key) MarshalText() ([]byte, error) { return []byte(hiddenKey), nil }

// partOfKey is how many bytes of a key in a row count as the key.
const partOfKey = 6

// isIn reports whether text holds the key or a part of it.
func (k Key) isIn(text string) bool {
	text, secret := strings.ToLower(text), strings.ToLower(k.secret)
	if secret == "" {
		return false
	}
	if len(secret) <= partOfKey {
		return strings.Contains(text, secret)
	}
	for i := range len(secret) - partOfKey + 1 {
		if strings.Contains(text, secret[i:i+partOfKey]) {
			return true
		}
	}
	return false
}
