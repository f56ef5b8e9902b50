package discovery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

// Query selects agents. Its zero value selects all.
type Query struct {
	Topics []message.Topic // agents that listen to any of these
	// Capabilities are what agents have all of: each a name, or a name and a constraint on its version
	// ("text/proofread@^1.2", "a@>=1.2, <3"; see github.com/Masterminds/semver/v3). A capability whose
	// version is none satisfies no constraint.
	Capabilities []string
	// MinTrust is how far agents have to be trusted, by Config.Trust. 0 asks for none.
	MinTrust float64
	// Text has words that all occur in the agent's name or in the names and descriptions of its
	// capabilities, in any case and order.
	Text string
}

// ErrQuery says that a query asks for what there cannot be.
var ErrQuery = errors.New("not a valid query")

// filter is a query that has been read.
type filter struct {
	topics []message.Topic
	needs  []need
	trust  float64
	words  []string
}

// need is a capability that is asked for.
type need struct {
	name    string
	version *semver.Constraints // nil means any, or none
}

func (s *Service) read(q Query) (filter, error) {
	f := filter{topics: q.Topics, trust: q.MinTrust, words: strings.Fields(strings.ToLower(q.Text))}
	switch {
	case math.IsNaN(q.MinTrust), q.MinTrust < 0, q.MinTrust > 1:
		return filter{}, fmt.Errorf("Query.MinTrust: %w: %v is not a number from 0 to 1", ErrQuery, q.MinTrust)
	case q.MinTrust > 0 && s.trust == nil:
		return filter{}, fmt.Errorf("Query.MinTrust: %w: nobody knows whom to trust: discovery.Config.Trust is not set", ErrQuery)
	}
	for i, text := range q.Capabilities {
		n, err := s.needs.read(text)
		if err != nil {
			return filter{}, fmt.Errorf("Query.Capabilities[%d]: %w: %w", i, ErrQuery, err)
		}
		f.needs = append(f.needs, n)
	}
	return f, nil
}

// maxNeeds bounds the constraints that are kept as they were read. At the bound, all are read anew.
const maxNeeds = 1024

// needs keeps what was read, since reading a constraint takes longer than finding who meets it.
type needs struct {
	mu    sync.Mutex
	known map[string]need
}

func (k *needs) read(text string) (need, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n, ok := k.known[text]; ok {
		return n, nil
	}
	n, err := readNeed(text)
	if err != nil {
		return n, err
	}
	if k.known == nil || len(k.known) >= maxNeeds {
		k.known = map[string]need{}
	}
	k.known[text] = n
	return n, nil
}

func readNeed(text string) (need, error) {
	name, version, constrained := strings.Cut(text, "@")
	if !isCapability(name) {
		return need{}, fmt.Errorf("%.80q is not a name made of letters, digits, '.', '_', '/' and '-', or one with '@' and a version", text)
	}
	if !constrained {
		return need{name: name}, nil
	}
	if len(version) > maxConstraint {
		return need{}, fmt.Errorf("the constraint on the version has %d bytes where at most %d are allowed", len(version), maxConstraint)
	}
	c, err := semver.NewConstraint(version)
	if err != nil {
		return need{}, fmt.Errorf("%.80q: %w", text, err)
	}
	return need{name, c}, nil
}

// maxConstraint bounds the work of reading a constraint.
const maxConstraint = 256

// met reports whether one of the agent's capabilities is the one that is asked for.
func (n need) met(d *Descriptor) bool {
	for _, c := range d.Capabilities {
		if c.Name == n.name && n.allows(c.Version) {
			return true
		}
	}
	return false
}

func (n need) allows(version string) bool {
	if n.version == nil {
		return true
	}
	v, err := semver.NewVersion(version)
	return err == nil && n.version.Check(v)
}

// matches reports whether an agent is asked for, trust aside.
func (f *filter) matches(a *agent) bool {
	if len(f.topics) > 0 && !slices.ContainsFunc(a.Topics, f.hears) {
		return false
	}
	for _, n := range f.needs {
		if !n.met(&a.Descriptor) {
			return false
		}
	}
	for _, word := range f.words {
		if !strings.Contains(a.text, word) {
			return false
		}
	}
	return true
}

func (f *filter) hears(p message.Pattern) bool { return slices.ContainsFunc(f.topics, p.Matches) }

// searchText returns what the words of a query are looked for in.
func searchText(d *Descriptor) string {
	var b strings.Builder
	b.WriteString(d.Name)
	for _, c := range d.Capabilities {
		b.WriteByte('\n')
		b.WriteString(c.Name)
		b.WriteByte('\n')
		b.WriteString(c.Description)
	}
	return strings.ToLower(b.String())
}

// Query returns the agents that match, in the order of their IDs. Descriptors that are forged, malformed,
// expired, withdrawn, of another network, of agents that are not admitted, or signed by a key that does not
// count any more are passed over. While somebody follows the store (see [Service.Follow]) the answer comes
// from memory and costs what matches; otherwise all of the store is read. What the descriptors refer to is not
// to be changed. Errors: [ErrQuery], or the store's.
func (s *Service) Query(ctx context.Context, q Query) ([]Descriptor, error) {
	f, err := s.read(q)
	if err != nil {
		return nil, fmt.Errorf("query agents: %w", err)
	}
	if !s.followed() {
		if err := s.readAll(ctx); err != nil {
			return nil, fmt.Errorf("query agents: %w", err)
		}
	}
	found := s.trusted(s.find(&f), f.trust)
	slices.SortFunc(found, byID)
	return found, nil
}

func (s *Service) find(f *filter) (found []Descriptor) {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.index.find(f, now, func(a *agent) { found = append(found, a.Descriptor) })
	return found
}

func (s *Service) trusted(found []Descriptor, least float64) []Descriptor {
	if least == 0 {
		return found
	}
	return slices.DeleteFunc(found, func(d Descriptor) bool {
		return !(s.trust(d.ID) >= least) // NaN is less than anything
	})
}

// readAll has the index know what the store holds at the moment.
func (s *Service) readAll(ctx context.Context) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.passes++
	for entry, err := range s.store.List(ctx, s.prefix) {
		if err != nil {
			return err
		}
		s.update(func() []change { return s.take(ctx, entry, s.passes) })
	}
	if s.current() == nil { // who follows the store knows better by now
		s.update(func() []change { return s.unlistUnseen(s.passes) })
	}
	return nil
}

// Lookup returns the descriptor of one agent that is in force. Errors: [ErrNotFound], which also stands for one
// that has expired, was withdrawn or does not count for another reason, or the store's.
func (s *Service) Lookup(ctx context.Context, id identity.ID) (Descriptor, error) {
	if !s.followed() {
		if err := s.readOne(ctx, id); err != nil {
			return Descriptor{}, fmt.Errorf("look up %s: %w", id, err)
		}
	}
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if a := s.index.agents[id]; a != nil && s.index.inForce(a, now) {
		return a.Descriptor, nil
	}
	return Descriptor{}, fmt.Errorf("look up %s: %w", id, ErrNotFound)
}

func (s *Service) readOne(ctx context.Context, id identity.ID) error {
	entry, err := s.store.Get(ctx, s.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	if err := s.fetchStatement(ctx, id); err != nil {
		return err
	}
	s.update(func() []change { return s.take(ctx, entry, 0) })
	return nil
}
