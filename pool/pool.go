// Package pool keeps groups of agents: who may join, who has, and what only members may do.
//
// A pool is a [Definition] that its owner has signed, and a [Membership] for each member, which that
// member has signed. A [Manager] keeps both in a store. Any number of managers, in any number of
// processes, may share one. The store is not trusted, and neither is who else writes to it:
//
//   - Only the owner's signature changes a pool, and only a member's own signature makes it one. Nobody is
//     enrolled by others, and nobody but the owner alters admission or the list of those it has expelled.
//   - Every reader decides anew whom it takes for a member, by what the owner has signed: the allowlist, the
//     expelled, the token, the number of seats. A membership that somebody has put into the store past the
//     manager that should have admitted it counts for nothing.
//   - A name belongs to whom it was first seen to belong to, and a pool that was dissolved leaves a tombstone.
//     Memberships name the owner: they are worth nothing in a pool of somebody else by the same name.
//   - A manager that follows the store ([Manager.Attach]) does not go back to what is older than what it has
//     seen, for as long as it lives.
//
// What remains to the store is to withhold, and to show a manager that has just started what was signed
// earlier: a definition from before an expulsion, a membership that was ended since. What nobody but the
// manager that handles a join can check is whatever a custom admission has asked besides the agent's ID.
package pool

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
)

// Errors that callers branch on with [errors.Is].
var (
	ErrNotFound    = errors.New("no such pool")
	ErrExists      = errors.New("pool exists")
	ErrDissolved   = errors.New("pool was dissolved")
	ErrNotOwner    = errors.New("only its owner may change a pool")
	ErrNotAdmitted = errors.New("not admitted to the pool")
	ErrNotMember   = errors.New("not a member of the pool")
	ErrFull        = errors.New("no room")
	ErrInvalid     = errors.New("invalid argument")
	ErrRecord      = errors.New("unreadable pool record") // corrupt, or written by a newer version
	ErrForged      = errors.New("pool record is not signed by whom it names")
	ErrStale       = errors.New("pool record is older than what was seen, or of another owner")
)

// Limits of a pool.
const (
	MaxName       = 64 // bytes of the name of a pool
	MaxTopics     = 64
	MaxTopicName  = 128       // bytes
	MaxListed     = 4096      // agents on an allowlist, and agents that are expelled
	MaxMembers    = 1 << 16   // what Spec.MaxMembers can be
	MinToken      = 16        // bytes of a token
	MaxToken      = 1024      // bytes of a token
	MaxDefinition = 384 << 10 // bytes, signed
	MaxMembership = 5 << 10   // bytes, signed, of which a key statement may take 4 KiB

	DefaultMaxMembers = 1024
)

// Admission says who may join. The zero Admission is none, and lets nobody in.
type Admission uint8

// The ways of admission. The owner is always admitted, and whom it has expelled never is.
const (
	Open      Admission = iota + 1 // whoever asks
	Allowlist                      // those whom the owner has listed
	ByToken                        // those who know the token
	Custom                         // those whom a function of Config.Admit admits
)

var admissionText = [...]string{Open: "open", Allowlist: "allowlist", ByToken: "token", Custom: "custom"}

// String returns "open", "allowlist", "token" or "custom".
func (a Admission) String() string {
	if a < Open || a > Custom {
		return fmt.Sprintf("admission(%d)", uint8(a))
	}
	return admissionText[a]
}

// MarshalText implements [encoding.TextMarshaler] with the form of [Admission.String].
func (a Admission) MarshalText() ([]byte, error) {
	if a < Open || a > Custom {
		return nil, fmt.Errorf("pool admission %d does not exist", uint8(a))
	}
	return []byte(admissionText[a]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; it leaves a alone on error.
func (a *Admission) UnmarshalText(text []byte) error {
	i := slices.Index(admissionText[:], string(text))
	if i < int(Open) {
		return fmt.Errorf("pool admission %.80q does not exist: use open, allowlist, token or custom", text)
	}
	*a = Admission(i)
	return nil
}

// Spec is what an owner says of a pool. A name, where it says so, is made of 1 to [MaxName] ASCII letters,
// digits and "._:/@+-".
type Spec struct {
	Name string // a name that no pool of the network has had. Required.

	// Topics are those that only members may publish to, at most MaxTopics: dot-separated segments of
	// letters, digits, '_' and '-', which the pool's own come before; see Topic.
	Topics []string

	Admission Admission     // Required.
	Allowlist []identity.ID // for Allowlist, at most MaxListed; an empty one admits nobody
	// Token is for ByToken: MinToken to MaxToken bytes, better those of NewToken. It is not kept: the record
	// has a key that is derived from it. A Spec that was read back has none; one that is edited and has
	// none keeps the old one. With another token, those who joined with the old one are no longer members.
	Token  Token
	Custom string // for Custom: the name of a function in Config.Admit

	Trust      float64 // how much an agent has to be trusted by Config.Trust, 0 to 1; with 0 nobody is asked
	Governance string  // a name, or empty: how the pool decides; kept for those who carry that out
	MaxMembers int     // 1 to MaxMembers; 0 means DefaultMaxMembers. Those who came last have no seat.
}

// Definition is what is known of a pool. Times are UTC and to the millisecond.
type Definition struct {
	Spec
	Network   string
	Owner     identity.ID
	OwnerKey  ed25519.PublicKey // the owner's root key, which it is signed by unless it has stated another one
	Sequence  uint64            // rises with each change
	Created   time.Time
	Issued    time.Time     // when the owner signed this one
	Expelled  []identity.ID // sorted, at most MaxListed
	Dissolved bool          // the pool is no more; nothing else counts, and its name stays taken

	salt     []byte            // 16 bytes, of a pool with a token
	tokenKey ed25519.PublicKey // what the token derives to

	epoch     uint64 // of the key that signed
	statement []byte // about that key, unless it is the root key
}

// author returns whose word it is. It allocates nothing.
func (d *Definition) author() author { return author{d.Owner, d.OwnerKey, d.epoch, d.statement} }

func (d *Definition) setAuthor(a author) {
	d.Owner, d.OwnerKey, d.epoch, d.statement = a.id, a.root, a.epoch, a.statement
}

// Membership is an agent's word that it belongs to a pool, or no longer does.
type Membership struct {
	Pool     string
	Owner    identity.ID // whose pool it is
	Network  string
	Member   identity.ID
	Key      ed25519.PublicKey // the member's root key, which it is signed by unless it has stated another one
	Sequence uint64            // rises with each of the agent in this pool
	Issued   time.Time
	Left     bool // the agent has left

	proof []byte // 64 bytes: the signature of the token's key, for a pool with a token

	epoch     uint64 // of the key that signed
	statement []byte // about that key, unless it is the root key
}

// author returns whose word it is. It allocates nothing.
func (m *Membership) author() author { return author{m.Member, m.Key, m.epoch, m.statement} }

func (m *Membership) setAuthor(a author) {
	m.Member, m.Key, m.epoch, m.statement = a.id, a.root, a.epoch, a.statement
}

// clone returns a copy that shares nothing that can be changed.
func (d *Definition) clone() Definition {
	c := *d
	c.Topics, c.Allowlist, c.Expelled = slices.Clone(d.Topics), slices.Clone(d.Allowlist), slices.Clone(d.Expelled)
	c.OwnerKey = slices.Clone(d.OwnerKey)
	return c
}

func (m *Membership) clone() Membership {
	c := *m
	c.Key = slices.Clone(m.Key)
	return c
}

func poolError(op, name string, err error) error {
	return fmt.Errorf("%s pool %.80q: %w", op, name, err)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
