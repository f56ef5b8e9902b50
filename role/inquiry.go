package role

import (
	"slices"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// A coordinator asks each worker for the statements that it misses in rounds. How many it asks for in a
// round follows what came of the last one, so that a rate limit slows the asking down instead of
// swallowing the answers. It gives up on a worker that stays silent, and on a statement that does not
// come though the worker answers others, but not on a worker that answers slowly.
const (
	askAfter     = time.Second // between a task's end and the first question, and between rounds
	maxSilent    = 6           // rounds without any answer; the pauses between them double
	maxQuestions = 20          // questions about one task
	firstRound   = 16          // questions in the first round
	largestRound = 64          // questions in a round at most
)

// inquiries are the questions to each worker. There is one only while statements of it are missing.
type inquiries map[identity.ID]*inquiry

type inquiry struct {
	size     int       // of the next round
	asked    int       // in the last round
	answered int       // since then
	silent   int       // rounds without any answer, in a row
	nextAt   time.Time // when the next round is due
}

// answered notes that a statement of the worker has come. When all have, the next round need not wait.
func (q inquiries) answered(worker identity.ID) {
	i := q[worker]
	if i == nil {
		return
	}
	i.answered++
	i.silent = 0
	if i.answered == i.asked {
		i.nextAt = time.Now()
	}
}

// ask asks for the statements that are missing, and settles the tasks of those who stay silent.
func (k *Coordinator) ask() []converge.Decision {
	now := time.Now()
	missing := k.missing()
	for worker := range k.inquiries {
		if missing[worker] == nil {
			delete(k.inquiries, worker)
		}
	}
	var decisions []converge.Decision
	var next time.Time
	for worker, tasks := range missing {
		i := k.inquiries[worker]
		if i == nil {
			i = &inquiry{size: firstRound, nextAt: k.waiting[tasks[0]].since.Add(askAfter)}
			k.inquiries[worker] = i
		}
		if !now.Before(i.nextAt) {
			i.endRound()
			if i.silent == maxSilent {
				k.giveUp(tasks)
				continue
			}
			decisions = append(decisions, k.askRound(i, worker, tasks, now)...)
		}
		if next.IsZero() || i.nextAt.Before(next) {
			next = i.nextAt
		}
	}
	if !next.IsZero() {
		decisions = append(decisions, converge.Wake{After: next.Sub(now)})
	}
	return decisions
}

// missing returns the tasks that have completed without a valid statement, by who held them, in the
// order of their ends.
func (k *Coordinator) missing() map[identity.ID][]string {
	missing := map[identity.ID][]string{}
	for id, w := range k.waiting {
		if w.record != nil {
			missing[w.record.Claimant] = append(missing[w.record.Claimant], id)
		}
	}
	for _, tasks := range missing {
		slices.SortFunc(tasks, func(a, b string) int { return k.waiting[a].since.Compare(k.waiting[b].since) })
	}
	return missing
}

// endRound learns from the last round, if there was one.
func (i *inquiry) endRound() {
	switch {
	case i.asked == 0:
	case i.answered >= i.asked:
		i.size = min(2*i.size, largestRound)
	default:
		i.size = max(i.size/2, 1)
		if i.answered == 0 {
			i.silent++
		}
	}
}

// askRound asks for the oldest of the missing statements, those left out that may be on their way.
func (k *Coordinator) askRound(i *inquiry, worker identity.ID, tasks []string, now time.Time) []converge.Decision {
	i.asked, i.answered = 0, 0
	i.nextAt = now.Add(askAfter << i.silent)
	var questions []converge.Decision
	for _, id := range tasks {
		w := k.waiting[id]
		if i.asked == i.size || now.Sub(w.since) < askAfter {
			break
		}
		if w.questions == maxQuestions {
			k.giveUp([]string{id})
			continue
		}
		w.questions++
		i.asked++
		questions = append(questions, converge.SendMessage{Draft: message.Draft{To: worker, TaskID: id, ContentType: RequestType}})
	}
	return questions
}

func (k *Coordinator) giveUp(tasks []string) {
	for _, id := range tasks {
		k.settle(Outcome{Task: *k.waiting[id].record, Err: ErrUnsigned})
	}
}
