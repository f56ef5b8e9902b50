package llm

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Unlimited is a bound that is none.
const Unlimited = -1

// Budget bounds what is used up: for one task or one peer's messages, or by an agent in a day (UTC). A bound of 0 is the
// default, and [Unlimited] is none.
type Budget struct {
	Calls     int     // of the model, those that failed included
	Tokens    int     // in and out
	ToolCalls int     // those that the model asked for and that were let through
	Cost      float64 // in the currency of Price; 0 means none
}

// The default budgets.
var (
	DefaultTaskBudget = Budget{Calls: 64, Tokens: 400_000, ToolCalls: 128, Cost: Unlimited}
	DefaultDayBudget  = Budget{Calls: 5_000, Tokens: 10_000_000, ToolCalls: 10_000, Cost: Unlimited}
)

func (b Budget) or(d Budget) Budget {
	if b.Calls == 0 {
		b.Calls = d.Calls
	}
	if b.Tokens == 0 {
		b.Tokens = d.Tokens
	}
	if b.ToolCalls == 0 {
		b.ToolCalls = d.ToolCalls
	}
	if b.Cost == 0 {
		b.Cost = d.Cost
	}
	return b
}

func (b Budget) check(name string) error {
	if b.Calls < Unlimited || b.Tokens < Unlimited || b.ToolCalls < Unlimited || b.Cost < 0 && b.Cost != Unlimited || math.IsNaN(b.Cost) || b.Cost > maxMoney {
		return fmt.Errorf("%s: a bound is 0 or more, or Unlimited", name)
	}
	return nil
}

// Price is what a million tokens cost, in any currency.
type Price struct{ Input, Output float64 }

const maxMoney = 1e9

func (p Price) check() error {
	for _, v := range []float64{p.Input, p.Output} {
		if !(v >= 0 && v <= maxMoney) {
			return fmt.Errorf("Price: want 0 to %g a million tokens", maxMoney)
		}
	}
	return nil
}

// of returns what tokens cost, in millionths.
func (p Price) of(input, output int) int64 {
	return int64(math.Ceil(float64(input)*p.Input + float64(output)*p.Output))
}

// Use is what has been used up.
type Use struct {
	Calls     int
	Tokens    int
	ToolCalls int
	Cost      int64 // in millionths of the currency
}

func (u *Use) add(o Use, sign int) {
	u.Calls += sign * o.Calls
	u.Tokens += sign * o.Tokens
	u.ToolCalls += sign * o.ToolCalls
	u.Cost += int64(sign) * o.Cost
}

// minAnswer is the least room for an answer with which a model is asked at all, in tokens.
const minAnswer = 16

// room returns how many tokens an answer may have, or why there is no room for any.
func (b Budget) room(u Use, of string, p Price, input, output int) (int, error) {
	if b.Calls != Unlimited && u.Calls >= b.Calls {
		return 0, fmt.Errorf("%w: %d model calls %s", ErrBudget, b.Calls, of)
	}
	if b.Tokens != Unlimited {
		output = min(output, b.Tokens-u.Tokens-input)
	}
	if output < minAnswer {
		return 0, fmt.Errorf("%w: %d of %d tokens %s, and the next call needs about %d", ErrBudget, u.Tokens, b.Tokens, of, input+minAnswer)
	}
	if b.Cost == Unlimited {
		return output, nil
	}
	left := float64(b.micros()-u.Cost) - float64(input)*p.Input
	if p.Output > 0 {
		output = int(min(float64(output), math.Floor(left/p.Output)))
	}
	if left < 0 || output < minAnswer {
		return 0, fmt.Errorf("%w: %.4f of %.4f %s, and the next call does not fit", ErrBudget, float64(u.Cost)/1e6, b.Cost, of)
	}
	return output, nil
}

func (b Budget) micros() int64 { return int64(b.Cost * 1e6) }

// maxAccounts bounds the conversations whose use is remembered; the oldest go first.
const maxAccounts = 1024

// ledger counts what an agent uses. It is safe for concurrent use.
type ledger struct {
	task, day Budget
	price     Price
	now       func() time.Time

	mu       sync.Mutex
	today    int64 // days since 1970
	used     Use   // today
	accounts map[string]*Use
	order    []string
	changed  bool
	doings   *doings // nil unless there are to be replays, or this is one
}

func newLedger(task, day Budget, p Price) *ledger {
	return &ledger{task: task, day: day, price: p, now: time.Now, accounts: map[string]*Use{}}
}

const daySeconds = 24 * 60 * 60

func (l *ledger) turnPage() {
	if l.doings != nil && l.doings.recalls {
		l.catchUp()
		return
	}
	if day := l.now().Unix() / daySeconds; day != l.today {
		l.setDay(day)
		l.doings.keep(doing{Day: day})
	}
}

func (l *ledger) setDay(day int64) {
	if day != l.today {
		l.today, l.used, l.changed = day, Use{}, true
	}
}

// account returns the use of a conversation.
func (l *ledger) account(key string) *Use {
	if u := l.accounts[key]; u != nil {
		return u
	}
	if len(l.order) == maxAccounts {
		delete(l.accounts, l.order[0])
		l.order = l.order[1:]
	}
	u := &Use{}
	l.accounts[key] = u
	l.order = append(l.order, key)
	return u
}

// reservation is what a call may use, entered before it is made: so that calls at the same time do not exceed a budget
// together, and a process that dies in the middle has not made it for nothing.
type reservation struct {
	key       string
	day       int64
	use       Use
	maxTokens int // of the answer
	thought   uint64
}

// reserve makes room for the first call of a thought, or says why there is none.
func (l *ledger) reserve(key string, input, output int) (r reservation, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter()
	return l.reserveLocked(key, input, output)
}

// reserveAgain makes room for another attempt.
func (l *ledger) reserveAgain(first reservation, input, output int) (r reservation, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnPage()
	l.doings.keep(doing{Thought: first.thought, Again: true, Input: input, Output: output})
	r, err = l.reserveLocked(first.key, input, output)
	r.thought = first.thought
	return r, err
}

func (l *ledger) reserveLocked(key string, input, output int) (r reservation, err error) {
	u := l.account(key)
	if output, err = l.task.room(*u, "of this task", l.price, input, output); err != nil {
		return r, err
	}
	if output, err = l.day.room(l.used, "of this day", l.price, input, output); err != nil {
		return r, err
	}
	r = reservation{key: key, day: l.today, use: Use{Calls: 1, Tokens: input + output, Cost: l.price.of(input, output)}, maxTokens: output}
	u.add(r.use, 1)
	l.used.add(r.use, 1)
	l.changed = true
	return r, nil
}

// settle puts what was used in the place of what was reserved.
func (l *ledger) settle(r reservation, used Usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnPage()
	l.doings.keep(doing{Thought: r.thought, Input: used.Input, Output: used.Output})
	l.settleLocked(r, used)
}

func (l *ledger) settleLocked(r reservation, used Usage) {
	actual := Use{Calls: 1, Tokens: used.Tokens(), Cost: l.price.of(used.Input, used.Output)}
	u := l.account(r.key)
	if *u != (Use{}) { // else it was forgotten meanwhile
		u.add(r.use, -1)
	}
	u.add(actual, 1)
	if r.day == l.today {
		l.used.add(r.use, -1)
	}
	l.used.add(actual, 1)
	l.changed = true
}

// toolCall counts a tool call, or says why there may be no more.
func (l *ledger) toolCall(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter()
	u := l.account(key)
	if l.task.ToolCalls != Unlimited && u.ToolCalls >= l.task.ToolCalls {
		return fmt.Errorf("%w: %d tool calls of this task", ErrBudget, l.task.ToolCalls)
	}
	if l.day.ToolCalls != Unlimited && l.used.ToolCalls >= l.day.ToolCalls {
		return fmt.Errorf("%w: %d tool calls of this day", ErrBudget, l.day.ToolCalls)
	}
	u.ToolCalls++
	l.used.ToolCalls++
	l.changed = true
	return nil
}

// exhausted reports whether the day has no room for another task.
func (l *ledger) exhausted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter()
	_, err := l.day.room(l.used, "", l.price, minAnswer, minAnswer)
	return err != nil
}

// untilTomorrow returns how long the day lasts.
func (l *ledger) untilTomorrow() time.Duration {
	now := l.now()
	return time.Unix((now.Unix()/daySeconds+1)*daySeconds, 0).Sub(now)
}

// forget closes the account of a conversation that is over.
func (l *ledger) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enter()
	if l.accounts[key] == nil {
		return
	}
	delete(l.accounts, key)
	for i, k := range l.order {
		if k == key {
			l.order = append(l.order[:i], l.order[i+1:]...)
			break
		}
	}
	l.changed = true
}

// usedToday returns the use of today.
func (l *ledger) usedToday() Use {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnPage()
	return l.used
}
