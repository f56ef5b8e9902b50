package approval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/converge-agents/converge/store"
)

// maxEnded is how many requests that have ended are remembered.
const maxEnded = 128

// List returns the requests in the store whose time is not over, of all processes that share it, oldest
// first: those that wait, and those that were decided and that their calls have not come for yet.
func (s *Service) List(ctx context.Context) ([]Request, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	all := []Request{}
	for r, err := range s.records(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list approvals: %w", err)
		}
		if !r.expired(now) {
			all = append(all, r.Request)
		}
	}
	slices.SortFunc(all, func(a, b Request) int { return cmp.Or(a.Asked.Compare(b.Asked), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// Ended returns the last requests that have ended in this process, oldest first, some hundred at most.
func (s *Service) Ended() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ended)
}

// Get returns a request by its ID, also one that has ended in this process not long ago. The error of others
// wraps [ErrUnknown].
func (s *Service) Get(ctx context.Context, id string) (Request, error) {
	r, err := s.byID(ctx, id)
	if errors.Is(err, ErrUnknown) {
		if ended, known := s.endedByID(id); known {
			return ended, nil
		}
	}
	if err != nil {
		return Request{}, fmt.Errorf("approval %.32q: %w", id, err)
	}
	return r.Request, nil
}

// Decide answers a request, and returns it as it is then. The first answer counts: errors wrap [ErrDecided]
// for a request that has one, [ErrEnded] for one whose time is over or whose call has ended, and [ErrUnknown]
// for one that there is not.
func (s *Service) Decide(ctx context.Context, id string, d Decision) (Request, error) {
	r, err := s.answer(ctx, id, d)
	if err != nil {
		return Request{}, fmt.Errorf("approval %.32q: %w", id, err)
	}
	s.log.InfoContext(ctx, "tool call decided", "agent", r.Agent, "tool", r.Tool, "id", r.ID, "decision", r.State, "by", r.By, "claimed", r.Claimed)
	return r.Request, nil
}

func (s *Service) answer(ctx context.Context, id string, d Decision) (*record, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	for {
		r, err := s.byID(ctx, id)
		if errors.Is(err, ErrUnknown) {
			return nil, s.whyNot(id)
		}
		if err != nil {
			return nil, err
		}
		now, err := s.now(ctx)
		switch {
		case err != nil:
			return nil, err
		case r.expired(now):
			return nil, fmt.Errorf("%w: its time was over at %s", ErrEnded, r.Expires.Format(time.RFC3339))
		case r.State != Waiting:
			return nil, fmt.Errorf("%w: it was %s", ErrDecided, r.outcome())
		}
		r.State, r.By, r.Claimed, r.Note, r.Decided = Denied, d.By, d.Claimed, d.Note, now.Round(0).UTC()
		if d.Allow {
			r.State = Allowed
		}
		r.revision, err = s.store.Put(ctx, r.key(), r.seal(s.config.Key), r.revision)
		if !errors.Is(err, store.ErrConflict) {
			return r, err
		}
	}
}

func (d Decision) check() error {
	for _, text := range []struct {
		field, value string
		most         int
	}{{"By", d.By, MaxBy}, {"Claimed", d.Claimed, MaxBy}, {"Note", d.Note, MaxNote}} {
		if len(text.value) > text.most || !utf8.ValidString(text.value) {
			return fmt.Errorf("%s: want UTF-8 of at most %d bytes", text.field, text.most)
		}
	}
	return nil
}

// outcome says who decided and when.
func (r *Request) outcome() string {
	who := cmp.Or(r.By, "somebody")
	if r.Claimed != "" {
		who += fmt.Sprintf(" (as %q)", r.Claimed)
	}
	return fmt.Sprintf("%s by %s at %s", r.State, who, r.Decided.Format(time.RFC3339))
}

// whyNot is why a request that the store does not have cannot be answered.
func (s *Service) whyNot(id string) error {
	r, known := s.endedByID(id)
	switch {
	case !known:
		return ErrUnknown
	case r.State == Allowed || r.State == Denied:
		return fmt.Errorf("%w: it was %s", ErrDecided, r.outcome())
	default:
		return fmt.Errorf("%w: it was %s", ErrEnded, r.State)
	}
}

func (s *Service) byID(ctx context.Context, id string) (*record, error) {
	if !isID(id) {
		return nil, ErrUnknown
	}
	for r, err := range s.records(ctx) {
		if err != nil {
			return nil, err
		}
		if r.ID == id {
			return r, nil
		}
	}
	return nil, ErrUnknown
}

// records yields all proven records; others are counted and passed over.
func (s *Service) records(ctx context.Context) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		for r, err := range s.allRecords(ctx) {
			if err == nil && !r.proven {
				s.foreign.Add(1)
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// allRecords yields all records that can be read; others are counted and passed over.
func (s *Service) allRecords(ctx context.Context) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		for e, err := range s.store.List(ctx, keyPrefix) {
			if err != nil {
				yield(nil, err)
				return
			}
			r, err := decodeRecord(e, s.config.Key)
			if err != nil {
				s.corrupt.Add(1)
				s.log.DebugContext(ctx, "unreadable approval record", "error", err)
				continue
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// remember keeps a request that has ended.
func (s *Service) remember(r *record, state State) {
	ended := r.Request
	ended.State = state
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.ended, func(e Request) bool { return e.ID == ended.ID }) {
		return
	}
	if len(s.ended) == maxEnded {
		s.ended = slices.Delete(s.ended, 0, 1)
	}
	s.ended = append(s.ended, ended)
}

func (s *Service) endedByID(id string) (Request, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.ended, func(e Request) bool { return e.ID == id })
	if i < 0 {
		return Request{}, false
	}
	return s.ended[i], true
}
