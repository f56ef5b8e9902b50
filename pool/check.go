package pool

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/names"
	"github.com/converge-agents/converge/message"
)

// checked returns a copy of s with its defaults filled in and its lists in order, sharing nothing with s,
// or an error that names the field at fault. The token is looked at by those who take it.
func (s Spec) checked() (Spec, error) {
	s.Topics = sortedSet(s.Topics, strings.Compare)
	s.Allowlist = sortedSet(s.Allowlist, compareIDs)
	s.MaxMembers = cmp.Or(s.MaxMembers, DefaultMaxMembers)
	return s, s.check()
}

func sortedSet[T comparable](list []T, compare func(a, b T) int) []T {
	if len(list) == 0 {
		return nil
	}
	return slices.Compact(slices.SortedFunc(slices.Values(list), compare))
}

func compareIDs(a, b identity.ID) int { return bytes.Compare(a[:], b[:]) }

// check holds a complete Spec to the rules.
func (s *Spec) check() error {
	if err := checkName("Name", s.Name); err != nil {
		return err
	}
	if err := s.checkTopics(); err != nil {
		return err
	}
	if err := s.checkAdmission(); err != nil {
		return err
	}
	if !isShare(s.Trust) {
		return invalid("Trust is %v; it is between 0 and 1", s.Trust)
	}
	if s.Governance != "" {
		if err := checkName("Governance", s.Governance); err != nil {
			return err
		}
	}
	if s.MaxMembers < 1 || s.MaxMembers > MaxMembers {
		return invalid("MaxMembers is %d; it is between 1 and %d", s.MaxMembers, MaxMembers)
	}
	return nil
}

// isShare reports whether x is from 0 to 1; NaN and -0 are not.
func isShare(x float64) bool { return x >= 0 && x <= 1 && !math.Signbit(x) }

func (s *Spec) checkAdmission() error {
	if s.Admission < Open || s.Admission > Custom {
		return invalid("Admission is not set; without it nobody could join: use open, allowlist, token or custom")
	}
	if len(s.Allowlist) > 0 && s.Admission != Allowlist {
		return invalid("Allowlist is set, but Admission is %s", s.Admission)
	}
	if len(s.Token) > 0 && s.Admission != ByToken {
		return invalid("Token is set, but Admission is %s", s.Admission)
	}
	if s.Custom != "" && s.Admission != Custom {
		return invalid("Custom is set, but Admission is %s", s.Admission)
	}
	if s.Admission == Custom {
		return checkName("Custom", s.Custom)
	}
	return checkIDs("Allowlist", s.Allowlist)
}

// checkIDs wants them sorted.
func checkIDs(field string, ids []identity.ID) error {
	if len(ids) > MaxListed {
		return invalid("%s names %d agents where at most %d are allowed", field, len(ids), MaxListed)
	}
	for i, id := range ids {
		if id.IsZero() || i > 0 && compareIDs(ids[i-1], id) >= 0 {
			return invalid("%s[%d] is the zero ID or out of order", field, i)
		}
	}
	return nil
}

// checkTopics wants them sorted.
func (s *Spec) checkTopics() error {
	if len(s.Topics) > MaxTopics {
		return invalid("Topics names %d where at most %d are allowed", len(s.Topics), MaxTopics)
	}
	for i, name := range s.Topics {
		if _, err := Topic(s.Name, name); err != nil {
			return err
		}
		if i > 0 && s.Topics[i-1] >= name {
			return invalid("Topics[%d] %.80q is out of order", i, name)
		}
	}
	return nil
}

func checkName(field, name string) error {
	if err := names.Check(field, name, MaxName, "._:/@+-"); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// check holds a complete definition to the rules.
func (d *Definition) check() error {
	if err := d.Spec.check(); err != nil {
		return err
	}
	if err := message.CheckNetwork(d.Network); err != nil {
		return invalid("%v", err)
	}
	if err := checkIDs("Expelled", d.Expelled); err != nil {
		return err
	}
	if slices.Contains(d.Expelled, d.Owner) {
		return invalid("Expelled names the owner")
	}
	hasToken := len(d.salt) == saltSize && len(d.tokenKey) == tokenKeySize
	hasNone := len(d.salt) == 0 && len(d.tokenKey) == 0
	if d.Admission == ByToken && !hasToken || d.Admission != ByToken && !hasNone {
		return invalid("Token: a pool has one exactly if its Admission is token")
	}
	by := d.author()
	return by.check()
}

func (m *Membership) check() error {
	if err := checkName("Pool", m.Pool); err != nil {
		return err
	}
	if err := message.CheckNetwork(m.Network); err != nil {
		return invalid("%v", err)
	}
	if m.Owner.IsZero() || len(m.proof) != 0 && len(m.proof) != proofSize {
		return invalid("Owner is not set, or the proof is not one")
	}
	by := m.author()
	return by.check()
}
