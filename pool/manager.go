package pool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/listeners"
	"github.com/converge-agents/converge/internal/panics"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// DefaultMaxPools is how many pools a network has at most unless told otherwise.
const DefaultMaxPools = 1024

// tombstones is how many pools are known at most, dissolved ones included, for each that there may be.
const tombstones = 16

// Config is what a [Manager] is made of.
type Config struct {
	Store   store.Store // where the pools are, under the keys that start with "pool/". Required.
	Network string      // whose pools they are. Required.
	// Keys are the keys of agents. Required. A pool's records name the keys that they are signed by, and prove
	// that these are the agents', so that owners and members count also while Keys does not know them. Where Keys
	// refuses an agent otherwise than with identity.ErrUnknown, or knows it by another key, nothing of that agent
	// counts: it is no member, and its pools have none. If Keys has a method Recheck(identity.ID, uint64) error,
	// that decides instead, for the epoch of the key that signed: one that was only rotated still counts for
	// what it has signed, and a root key always does, unless the agent is revoked.
	Keys KeySource

	// Admit has what decides on admission in pools with Spec.Custom, by that name. A pool whose name is not
	// there has no members here.
	Admit map[string]AdmitFunc
	// Trust returns how much an agent is trusted, 0 to 1, for pools that ask for that. It is called each
	// time that somebody wants to know whether an agent is a member, and has to be quick and safe for
	// concurrent use. NaN and what is out of bounds is no trust; and without the function there is none.
	Trust func(identity.ID) float64

	MaxPools int              // pools of the network beyond which none is created; 0 means DefaultMaxPools
	Now      func() time.Time // nil means time.Now
	Logger   *slog.Logger     // nil means slog.Default
}

// Candidate is an agent that wants to be a member of a pool, or says that it is one.
type Candidate struct {
	Pool   Definition // not to be changed
	Member identity.ID
	Token  Token // what it has shown; nil unless Joining
	// Joining says that the agent is about to join, at this manager. Otherwise it has joined, here or
	// elsewhere, and the question is whether that can be; what is asked of those who join beyond what can be
	// asked now is up to the manager that let them in.
	Joining bool
}

// AdmitFunc decides on admission. It must not call the manager, and unless the candidate is joining it has to
// be quick. A panic is a no.
type AdmitFunc func(ctx context.Context, c Candidate) bool

// Manager is one program's way to the pools on a store. All methods are safe for concurrent use.
//
// A Manager starts nothing until somebody calls [Manager.Attach]. From then on it follows the store and
// answers from memory; before, it reads the store each time. While the store cannot be followed, it goes by
// what it has seen last.
type Manager struct {
	store    store.Store
	network  string
	prefix   string // of all keys
	keys     KeySource
	admit    map[string]AdmitFunc
	trust    func(identity.ID) float64
	maxPools int
	now      func() time.Time
	log      *slog.Logger
	verified verified
	passed   passedOver
	health   health

	mu        sync.RWMutex
	state     *state
	attached  bool // somebody is
	following bool // state has all that the store has, or had when it could last be followed

	listeners listeners.List[Change]

	running sync.WaitGroup
	stop    context.CancelFunc
	passes  uint64 // over the store
}

// New checks the configuration and returns a manager. It starts nothing.
func New(c Config) (*Manager, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("pool.Config.Store: required")
	case c.Keys == nil:
		return nil, errors.New("pool.Config.Keys: required")
	case c.MaxPools < 0:
		return nil, errors.New("pool.Config.MaxPools: negative")
	}
	if err := message.CheckNetwork(c.Network); err != nil {
		return nil, fmt.Errorf("pool.Config.Network: %w", err)
	}
	for name, f := range c.Admit {
		if err := checkName("name", name); err != nil || f == nil {
			return nil, fmt.Errorf("pool.Config.Admit[%.80q]: it is no name, or the function is nil", name)
		}
	}
	m := &Manager{
		store: c.Store, network: c.Network, keys: c.Keys, admit: maps.Clone(c.Admit), trust: c.Trust,
		maxPools: cmp.Or(c.MaxPools, DefaultMaxPools), now: c.Now, log: cmp.Or(c.Logger, slog.Default()),
	}
	if m.now == nil {
		m.now = time.Now
	}
	m.prefix = store.Key(folder, m.network) + "/"
	m.state = newState(tombstones*m.maxPools, m.admits)
	return m, nil
}

// Keys of records: the definitions of a network, and the memberships of a pool, each together.
const (
	folder      = "pool"
	definitions = "d"
	memberships = "m"
)

func (m *Manager) definitionKey(name string) string {
	return store.Key(folder, m.network, definitions, name)
}

func (m *Manager) memberPrefix(name string) string {
	return store.Key(folder, m.network, memberships, name) + "/"
}

func (m *Manager) memberKey(name string, id identity.ID) string {
	return store.Key(folder, m.network, memberships, name, id.String())
}

// place returns what a key is the place of; a definition's has no member.
func (m *Manager) place(key string) (name string, member identity.ID, err error) {
	if rest, ok := strings.CutPrefix(key, m.prefix+memberships+"/"); ok && strings.IndexByte(key, '=') < 0 {
		name, id, _ := strings.Cut(rest, "/") // nothing is escaped
		member, err = identity.ParseID(id)
		return name, member, err
	}
	parts, err := store.SplitKey(key)
	switch {
	case err != nil:
		return "", member, err
	case len(parts) == 4 && parts[2] == definitions:
		return parts[3], member, nil
	case len(parts) == 5 && parts[2] == memberships:
		member, err = identity.ParseID(parts[4])
		return parts[3], member, err
	}
	return "", member, errors.New("it is not the key of a pool or a member")
}

// verified remembers which signed bytes have been verified, so that each is once.
type verified struct {
	mu   sync.Mutex
	sums map[[sha256.Size]byte]struct{}
}

// maxVerified bounds what is remembered; beyond it, signatures are verified again.
const maxVerified = 1 << 17

// check is a [verify].
func (v *verified) check(raw []byte, s cose.Sign1, by author, domain cose.Domain, typ string) error {
	sum := sha256.Sum256(raw) // its header has the type of the statement
	v.mu.Lock()
	_, known := v.sums[sum]
	v.mu.Unlock()
	if known {
		return nil
	}
	if err := verifySignature(raw, s, by, domain, typ); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sums == nil || len(v.sums) >= maxVerified {
		v.sums = map[[sha256.Size]byte]struct{}{}
	}
	v.sums[sum] = struct{}{}
	return nil
}

// admits reports whether a pool's owner would have this member, by what can be checked of that now and stays
// so: neither its trust nor its standing.
func (m *Manager) admits(d *Definition, e *entry) bool {
	if _, expelled := slices.BinarySearchFunc(d.Expelled, e.m.Member, compareIDs); expelled {
		return false
	}
	if e.m.Member == d.Owner {
		return true
	}
	switch d.Admission {
	case Open:
		return true
	case Allowlist:
		_, listed := slices.BinarySearchFunc(d.Allowlist, e.m.Member, compareIDs)
		return listed
	case ByToken:
		if string(e.proven[:]) != string(d.tokenKey) && d.isProven(e.m) {
			copy(e.proven[:], d.tokenKey)
		}
		return string(e.proven[:]) == string(d.tokenKey)
	case Custom:
		return m.ask(context.Background(), Candidate{Pool: *d, Member: e.m.Member}) == nil
	}
	return false
}

// ask asks the function that decides on admission to the pool.
func (m *Manager) ask(ctx context.Context, c Candidate) error {
	f := m.admit[c.Pool.Custom]
	if f == nil {
		return fmt.Errorf("%w: there is no Config.Admit[%q]", ErrNotAdmitted, c.Pool.Custom)
	}
	admitted := false
	if err := guarded("pool.Config.Admit", func() { admitted = f(ctx, c) }); err != nil {
		m.log.Error("a pool's admission has gone wrong; nobody is admitted", "pool", c.Pool.Name, "error", err)
		panics.LogStack(m.log, err)
		return ErrNotAdmitted
	}
	if !admitted {
		return ErrNotAdmitted
	}
	return nil
}

// isTrusted reports whether an agent is trusted as much as a pool asks for.
func (m *Manager) isTrusted(d *Definition, id identity.ID) bool {
	if d.Trust == 0 || id == d.Owner {
		return true
	}
	if m.trust == nil {
		return false
	}
	var trust float64
	if err := guarded("pool.Config.Trust", func() { trust = m.trust(id) }); err != nil {
		m.log.Error("trust cannot be told; there is none", "error", err)
		return false
	}
	return isShare(trust) && trust >= d.Trust
}

func guarded(what string, f func()) (err error) {
	defer panics.Catch(&err, what)
	f()
	return nil
}

// take takes in what the store has under a key. It reports what has changed, if anything has.
func (m *Manager) take(e store.Entry, generation uint64) (c Change, changed bool) {
	name, member, err := m.place(e.Key)
	if err == nil {
		c = Change{name, member}
		if m.knows(name, member, e.Revision, generation) {
			return c, false
		}
		changed, err = m.takeRecord(e, name, member, generation)
	}
	if err != nil {
		m.mu.Lock()
		m.state.touch(name, member, generation)
		m.mu.Unlock()
		if m.passed.add(e.Key, e.Revision) {
			m.log.Warn("pool record is passed over", "key", e.Key, "error", err)
		}
	}
	return c, changed
}

// passedOver remembers records that do not count, so that each is logged once.
type passedOver struct {
	mu    sync.Mutex
	known map[string]store.Revision // by key
}

// maxPassedOver bounds what is remembered; beyond it, records may be logged again.
const maxPassedOver = 4096

// add tells whether this record is a new one.
func (p *passedOver) add(key string, rev store.Revision) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[key] == rev {
		return false
	}
	if p.known == nil || len(p.known) >= maxPassedOver {
		p.known = map[string]store.Revision{}
	}
	p.known[key] = rev
	return true
}

// knows reports whether an entry has been taken in already, and notes that it is there still.
func (m *Manager) knows(name string, member identity.ID, rev store.Revision, generation uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.state.at(name, member)
	if v == nil || !v.there || v.revision != rev {
		return false
	}
	v.generation = max(v.generation, generation)
	return true
}

func (m *Manager) takeRecord(e store.Entry, name string, member identity.ID, generation uint64) (changed bool, err error) {
	if member.IsZero() {
		d, err := m.openDefinition(e.Value, name)
		if err != nil {
			return false, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.state.define(d, sha256.Sum256(e.Value), e.Revision, generation)
	}
	s, err := m.openMembership(e.Value, name, member)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.enter(s, sha256.Sum256(e.Value), e.Revision, generation)
}

// openDefinition opens a record of the store: it counts only in its own network and under its own name.
func (m *Manager) openDefinition(raw []byte, name string) (*Definition, error) {
	d, err := openDefinition(raw, m.verified.check)
	if err == nil && (d.Network != m.network || d.Name != name) {
		err = fmt.Errorf("%w: it is of pool %q of network %q", ErrForged, d.Name, d.Network)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (m *Manager) openMembership(raw []byte, name string, member identity.ID) (*Membership, error) {
	s, err := openMembership(raw, m.verified.check)
	if err == nil && (s.Network != m.network || s.Pool != name || s.Member != member) {
		err = fmt.Errorf("%w: it is of agent %s in pool %q of network %q", ErrForged, s.Member.Short(), s.Pool, s.Network)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}
