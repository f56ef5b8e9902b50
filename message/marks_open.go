package message

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/sleep"
	"github.com/converge-agents/converge/store"
)

// maxOpenAttempts bounds how often Open tries against others that open the marks of the same agent.
const maxOpenAttempts = 8

// Open reads the marks and has the Verifier that they serve accept messages; until then it refuses all
// with [ErrNoMarks]. After a crash it waits until the ceiling that was written has passed, for up to
// twice MarksConfig.Ahead, so that what an agent hears once it runs counts. It returns the store's error
// if that does not answer, and [ErrMarksVersion] if a newer version wrote the marks; then nothing has
// changed and it can be tried again. Opening twice is an error.
func (m *Marks) Open(ctx context.Context) error {
	if err := m.begins(); err != nil {
		return fmt.Errorf("open replay marks of agent %s: %w", m.agent.Short(), err)
	}
	err := m.load(ctx)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.state == marksOpening {
			m.state = marksNew
		}
		return fmt.Errorf("open replay marks of agent %s: %w", m.agent.Short(), err)
	}
	return nil
}

func (m *Marks) begins() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.guard == nil:
		return errors.New("no Verifier uses them: set VerifierConfig.Marks first")
	case m.state != marksNew:
		return errors.New("they were opened or closed before")
	}
	m.state = marksOpening
	return nil
}

// load claims the marks before it reads those of senders: what an earlier holder writes from then on, it
// cannot rely on.
func (m *Marks) load(ctx context.Context) error {
	start := m.now().UnixMilli()
	ceiling, lost, err := m.claim(ctx, start)
	if err != nil {
		return err
	}
	found, err := m.read(ctx, start, ceiling)
	if err != nil {
		return err
	}
	if found.crowded {
		lost, ceiling = errMarksCrowded, max(ceiling, start-1)
	}
	if err := m.outwait(ctx, ceiling, start); err != nil {
		return err
	}
	m.report(lost, found, ceiling, start)
	return m.start(found, ceiling)
}

// What is wrong with marks as a whole.
var (
	errMarksMissing = errors.New("there are none: the agent is new, or its marks are lost")
	errMarksOld     = errors.New("they were written too long ago to be trusted; see MarksConfig.MaxAge")
	errMarksCrowded = errors.New("there are more of them than the Verifier remembers senders")
)

// claim makes the marks those of this process, and returns up to when messages may have been accepted.
// lost says why that is no more than "before the start".
func (m *Marks) claim(ctx context.Context, start int64) (ceiling int64, lost, err error) {
	for range maxOpenAttempts {
		var entry store.Entry
		if entry, err = m.store.Get(ctx, m.ceilingKey()); err != nil && !errors.Is(err, store.ErrNotFound) {
			return 0, nil, err
		}
		if ceiling, lost = m.judge(entry, start); errors.Is(lost, ErrMarksVersion) {
			return 0, nil, fmt.Errorf("%s: %w", m.ceilingKey(), lost)
		}
		claimed := m.encodeCeiling(ceilingMark{run: m.run, written: max(start, 0), ceiling: ceiling})
		m.revision, err = m.store.Put(ctx, m.ceilingKey(), claimed, entry.Revision)
		if err == nil {
			m.written = start
			m.writes.Inc()
			return ceiling, lost, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return 0, nil, err
		}
	}
	return 0, nil, err
}

func (m *Marks) judge(entry store.Entry, start int64) (ceiling int64, lost error) {
	before := max(start-1, 0)
	if entry.Revision == 0 {
		return before, errMarksMissing
	}
	mark, err := m.decodeCeiling(entry.Value)
	if err != nil {
		return before, err
	}
	if start-mark.written > m.maxAge.Milliseconds() {
		return max(mark.ceiling, before), errMarksOld
	}
	return mark.ceiling, nil
}

// found is what there is of senders.
type found struct {
	marks   []senderMark // those that say more than the ceiling
	entries map[identity.ID]*senderEntry
	lost    int   // unreadable ones
	why     error // the first of them
	crowded bool  // there are too many to read them all
}

// read reads the marks of senders. One that cannot be read counts as "before the start".
func (m *Marks) read(ctx context.Context, start, ceiling int64) (found, error) {
	f := found{entries: map[identity.ID]*senderEntry{}}
	for entry, err := range m.store.List(ctx, m.prefix()) {
		if err != nil {
			return f, err
		}
		if len(f.entries) >= 2*m.guard.maxSenders {
			f.crowded = true
			break
		}
		sender, err := identity.ParseID(strings.TrimPrefix(entry.Key, m.prefix()))
		if err != nil { // the ceiling, or what is not ours
			continue
		}
		mark, err := m.decodeSender(sender, entry.Value)
		if errors.Is(err, ErrMarksVersion) {
			return f, fmt.Errorf("%s: %w", entry.Key, err)
		}
		read := &senderEntry{revision: entry.Revision}
		if err == nil {
			read.ceiling.durable = mark.state.covers()
		} else {
			mark = senderMark{sender, upTo(max(start-1, 0))}
			if f.lost++; f.why == nil {
				f.why = err
			}
		}
		read.top, f.entries[sender] = mark.state.top(), read
		if read.top > ceiling {
			f.marks = append(f.marks, mark)
		}
	}
	return f, nil
}

// outwait waits until a ceiling that lies a little ahead has passed.
func (m *Marks) outwait(ctx context.Context, ceiling, start int64) error {
	ahead := ceiling - start
	if ahead < 0 || ahead > 2*m.ahead {
		return nil
	}
	return sleep.For(ctx, time.Duration(ahead+1)*time.Millisecond)
}

// report logs at most one line: what was lost, and what it means.
func (m *Marks) report(lost error, f found, ceiling, start int64) {
	switch ahead := ceiling - start; {
	case lost != nil:
		m.log.Warn("no replay marks to go by: refusing what was issued before now", "reason", lost)
	case f.lost > 0:
		m.log.Warn("replay marks of some senders are unreadable: refusing what these issued before now", "senders", f.lost, "reason", f.why)
	case ahead > 2*m.ahead:
		m.log.Warn("replay marks are ahead of the clock, which was set back: refusing what was issued before they end; delete them to refuse what was issued before now instead",
			"until", time.UnixMilli(ceiling).UTC(), "key", m.prefix())
	}
}

// start has the Verifier accept messages.
func (m *Marks) start(f found, ceiling int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != marksOpening {
		return errors.New("they were closed meanwhile")
	}
	m.all.durable, m.all.want, m.senders = ceiling, ceiling, f.entries
	m.guard.restore(f.marks, ceiling+1)
	m.state = marksOpen
	return nil
}
