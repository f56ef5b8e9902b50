package task

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/internal/proof"
)

// emptyParams is what a Spec without parameters holds.
const emptyParams = "{}"

// maxName is the longest name in bytes.
const maxName = 128

// What a record can hold, with room to spare: 0 is no time.
var (
	firstTime    = time.Unix(0, 1).UTC()
	lastDeadline = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// checked returns a copy of s with its defaults filled in, sharing nothing with s, or an error that
// names the field at fault.
func (s Spec) checked(defaultTTL time.Duration) (Spec, error) {
	if len(s.Params) == 0 {
		s.Params = json.RawMessage(emptyParams)
	}
	s.Params = bytes.Clone(s.Params)
	s.Capabilities = sorted(s.Capabilities)
	s.ClaimTTL = cmp.Or(s.ClaimTTL, defaultTTL)
	if !s.Deadline.IsZero() {
		s.Deadline = wall(s.Deadline)
	}
	if !s.NotBefore.IsZero() {
		s.NotBefore = wall(s.NotBefore)
	}
	if s.ID == "" && s.IdempotencyKey != "" {
		s.ID = s.NewID()
	}
	return s, s.check()
}

const (
	keyedPrefix = "key-"
	keyedID     = len(keyedPrefix) + 2*sha256.Size // bytes of the ID of a task with an idempotency key
)

// IDForKey returns the ID of the task that an agent submits with that Spec.IdempotencyKey.
func IDForKey(submitter identity.ID, key string) string {
	h := sha256.New()
	h.Write([]byte("converge task idempotency key\x00"))
	h.Write(submitter[:])
	h.Write([]byte(key))
	return keyedPrefix + hex.EncodeToString(h.Sum(nil))
}

// sorted returns a copy in order and without repetition.
func sorted(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// wall strips the zone and the monotonic reading, which mean nothing to other processes.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// check holds a complete Spec to the rules.
func (s Spec) check() error {
	if err := checkName("ID", s.ID); err != nil {
		return err
	}
	if err := checkName("Kind", s.Kind); err != nil {
		return err
	}
	if s.Pool != "" {
		if err := checkName("Pool", s.Pool); err != nil {
			return err
		}
	}
	if err := checkParams(s.Params); err != nil {
		return err
	}
	if err := checkCapabilities(s.Capabilities); err != nil {
		return err
	}
	if s.Submitter.IsZero() {
		return invalid("Submitter is not set")
	}
	if err := s.checkTimes(); err != nil {
		return err
	}
	if s.MaxAttempts < 0 || s.MaxAttempts > MostAttempts {
		return invalid("MaxAttempts is %d; it is between 0 and %d", s.MaxAttempts, MostAttempts)
	}
	if err := s.Backoff.check(); err != nil {
		return err
	}
	if err := checkProof(s.Proof); err != nil {
		return err
	}
	return s.checkKey()
}

func checkProof(p []byte) error {
	if len(p) > proof.MaxSize {
		return invalid("Proof has %d bytes where at most %d are allowed", len(p), proof.MaxSize)
	}
	return nil
}

func (s *Spec) checkTimes() error {
	if !s.Deadline.IsZero() && s.Deadline.Before(firstTime) {
		return invalid("Deadline %v is over", s.Deadline)
	}
	if s.Deadline.After(lastDeadline) {
		return invalid("Deadline %v is later than %v", s.Deadline, lastDeadline)
	}
	if !s.NotBefore.IsZero() && (s.NotBefore.After(lastDeadline) || s.NotBefore.Before(firstTime)) {
		return invalid("NotBefore %v is not between %v and %v", s.NotBefore, firstTime, lastDeadline)
	}
	if !s.NotBefore.IsZero() && !s.Deadline.IsZero() && !s.NotBefore.Before(s.Deadline) {
		return invalid("NotBefore %v is not before Deadline %v", s.NotBefore, s.Deadline)
	}
	return checkTTL("ClaimTTL", s.ClaimTTL)
}

func (b Backoff) check() error {
	if b.Base < 0 || b.Base > MaxBackoff {
		return invalid("Backoff.Base is %v; it is between 0 and %v", b.Base, MaxBackoff)
	}
	if b.Max < 0 || b.Max > MaxBackoff || b.Max != 0 && b.Max < b.Base {
		return invalid("Backoff.Max is %v; it is 0, or between Base, which is %v, and %v", b.Max, b.Base, MaxBackoff)
	}
	return nil
}

// pause returns how long to wait after so many failures: more than half of it, by chance.
func (b Backoff) pause(failures int) time.Duration {
	base := cmp.Or(b.Base, DefaultBackoffBase)
	most := cmp.Or(b.Max, max(base, DefaultBackoffMax))
	pause := min(base, most)
	for ; failures > 1 && pause < most; failures-- {
		pause = min(2*pause, most)
	}
	return pause - rand.N(pause/2+1)
}

func (s *Spec) checkKey() error {
	if s.IdempotencyKey == "" && len(s.ID) == keyedID && strings.HasPrefix(s.ID, keyedPrefix) {
		return invalid("ID %q has the form that is for tasks with an IdempotencyKey", s.ID) // nobody takes their place
	}
	if s.IdempotencyKey == "" {
		return nil
	}
	if err := checkName("IdempotencyKey", s.IdempotencyKey); err != nil {
		return err
	}
	if want := IDForKey(s.Submitter, s.IdempotencyKey); s.ID != want {
		return invalid("ID is %.80q, and for that IdempotencyKey it is %q; leave it empty", s.ID, want)
	}
	return nil
}

func checkTTL(field string, ttl time.Duration) error {
	if ttl < MinClaimTTL || ttl > MaxClaimTTL {
		return invalid("%s is %v; it is between %v and %v", field, ttl, MinClaimTTL, MaxClaimTTL)
	}
	return nil
}

func checkName(field, name string) error {
	if err := names.Check(field, name, maxName, "._:/@+-"); err != nil {
		return invalid("%v", err)
	}
	return nil
}

func checkParams(params json.RawMessage) error {
	if len(params) > MaxParams {
		return invalid("Params has %d bytes where at most %d are allowed", len(params), MaxParams)
	}
	if !utf8.Valid(params) || !json.Valid(params) || bytes.TrimLeft(params, " \t\r\n")[0] != '{' {
		return invalid("Params is not a JSON object") // it may hold secrets
	}
	return nil
}

// checkCapabilities wants them sorted.
func checkCapabilities(capabilities []string) error {
	if len(capabilities) > MaxCapabilities {
		return invalid("Capabilities names %d where at most %d are allowed", len(capabilities), MaxCapabilities)
	}
	for i, c := range capabilities {
		if checkName("", c) != nil {
			return checkName(fmt.Sprintf("Capabilities[%d]", i), c)
		}
		if i > 0 && capabilities[i-1] >= c {
			return invalid("Capabilities names %q out of order", c)
		}
	}
	return nil
}

func checkResult(result []byte, mediaType string) error {
	if len(result) > MaxResult {
		return invalid("the result has %d bytes where at most %d are allowed", len(result), MaxResult)
	}
	if len(mediaType) > maxName {
		return invalid("the result's media type has %d bytes where at most %d are allowed", len(mediaType), maxName)
	}
	for i, c := range []byte(mediaType) {
		if c < ' ' || c > '~' {
			return invalid("the result's media type %q: byte %d is not printable ASCII", mediaType, i+1)
		}
	}
	return nil
}

// fitReason makes any text fit to be kept as the reason for a failure: an error may be long, and losing
// its end is better than losing the failure.
func fitReason(reason string) string { return cut.Marked(reason, MaxReason) }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
