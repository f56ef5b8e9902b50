package loadtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/converge-agents/converge"
)

// LossError says that a measurement is worth nothing: not every message arrived once, or something else
// did.
type LossError struct {
	Total   int               // messages that should have arrived once, warm-up included
	Missing int               // of them, those that did not
	Example string            // names one that is missing
	Twice   int               // messages that were shown to the agent more than once
	Strange int               // messages that nobody sent
	Refused map[string]uint64 // frames that the receiver refused, by reason, and messages dropped later, by stage
	Counts  string            // counts of the runtimes that do not match; "" if they do
}

// Error implements error.
func (e *LossError) Error() string {
	var parts []string
	if e.Missing > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d messages did not arrive (one of them: %s)", e.Missing, e.Total, e.Example))
	}
	if e.Twice > 0 {
		parts = append(parts, fmt.Sprintf("%d arrived twice", e.Twice))
	}
	if e.Strange > 0 {
		parts = append(parts, fmt.Sprintf("%d arrived that nobody sent", e.Strange))
	}
	for _, reason := range slices.Sorted(maps.Keys(e.Refused)) {
		parts = append(parts, fmt.Sprintf("%s: %d", reason, e.Refused[reason]))
	}
	if e.Counts != "" {
		parts = append(parts, e.Counts)
	}
	return strings.Join(parts, "; ")
}

// losses compares what was sent with what arrived, once all runtimes have ended.
func (t *trial) losses() error {
	r := t.receiver
	e := &LossError{Total: r.total, Missing: r.total - int(r.arrived.Load()), Twice: r.twice, Strange: r.strange}
	for i, l := range r.order {
		if e.Example == "" && l.arrived < l.numbers {
			e.Example = fmt.Sprintf("number %d of sender %d", l.firstMissing(), i+1)
		}
	}
	e.Refused = map[string]uint64{}
	for _, x := range t.runtimes {
		addRefused(e.Refused, x.Stats())
	}
	e.Counts = t.mismatch()
	if e.Missing == 0 && e.Twice == 0 && e.Strange == 0 && len(e.Refused) == 0 && e.Counts == "" {
		return nil
	}
	if link, ok := t.link.(Loser); ok {
		addCounts(e.Refused, "", link.Lost())
	}
	return e
}

func (l *ledger) firstMissing() int {
	for number := range l.numbers {
		if l.seen[number/64]&(1<<(number%64)) == 0 {
			return number
		}
	}
	return l.numbers
}

// addRefused adds what got lost on one side, by the place at which it was.
func addRefused(into map[string]uint64, s converge.Stats) {
	addCounts(into, "refused, ", s.Refused)
	addCounts(into, "limited in, ", s.Ingress)
	addCounts(into, "limited out, ", s.Egress)
	addCounts(into, "dropped by a hook, ", s.Hooks.Dropped)
	addCounts(into, "failed hook, ", s.Hooks.Failed)
	addCounts(into, "dropped by ", map[string]uint64{"the transport": s.Lost, "the inbox": s.Overflow})
}

func addCounts(into map[string]uint64, stage string, counts map[string]uint64) {
	for key, n := range counts {
		if n > 0 {
			into[stage+key] += n
		}
	}
}

// mismatch says which counts of the runtimes are not what was sent, or "". The first is the receiver's.
func (t *trial) mismatch() string {
	var signed uint64
	for _, x := range t.runtimes[1:] {
		signed += x.Stats().Signed
	}
	verified := t.runtimes[0].Stats().Verified
	want := uint64(t.receiver.total)
	if t.config.Signature == Unsigned {
		verified = want // nothing is
	}
	if signed == want && verified == want {
		return ""
	}
	return fmt.Sprintf("of %d messages, %d were signed and %d verified", want, signed, verified)
}
