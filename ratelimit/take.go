package ratelimit

import (
	"cmp"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// The bits of a key: the highest choose the shard, the next ones the floor, the lowest the slot.
const (
	shards     = 64
	shardShift = 64 - 6
	floorShift = shardShift - 6
)

// sweepPause is how long a scope that is at its bound waits between two sweeps, for each slot that a
// sweep visits. A visit takes about a nanosecond, so sweeping takes about a hundredth of the time.
const sweepPause = int64(100 * time.Nanosecond)

// shard holds the buckets of a part of the keys. It fills two cache lines, so that two shards never
// share one.
type shard struct {
	mu      sync.Mutex
	senders table
	topics  table
	_       [128 - 8 - 2*40]byte
}

// claim is a bucket that a message has to take from.
type claim struct {
	kind  *kind
	table *table
	key   uint64
	place place
	full  int64 // the state of the bucket: first before, then after the take
}

// place says where the bucket of a claim is.
type place uint8

const (
	nowhere place = iota // not looked for, or the limit denies and there are no buckets
	kept                 // in its table
	fresh                // not in the table yet, but counted as live
	shared               // there is no room: kind.shared
)

// claim adds the buckets that a message has to take from, apart from the global one.
func (l *Limiter) claim(claims []claim, sender identity.ID, topics []message.Topic) []claim {
	if !l.senders.meter.unlimited {
		claims = l.add(claims, &l.senders, maphash.Bytes(l.seed, sender[:]))
	}
	if !l.topics.meter.unlimited {
		for _, topic := range topics {
			claims = l.add(claims, &l.topics, maphash.String(l.seed, topic.Namespace()))
		}
	}
	return claims
}

// add adds one bucket, unless it is there already.
func (l *Limiter) add(claims []claim, k *kind, hash uint64) []claim {
	key := max(1, hash)
	for i := range claims {
		if claims[i].key == key && claims[i].kind == k {
			return claims
		}
	}
	claims = slices.Grow(claims, 1)[:len(claims)+1] // appending a literal costs 10 ns more
	c := &claims[len(claims)-1]
	c.kind, c.key, c.place = k, key, nowhere
	if s := l.shard(key); k == &l.topics {
		c.table = &s.topics
	} else {
		c.table = &s.senders
	}
	return claims
}

// shard returns the shard of a key, which it makes if need be.
func (l *Limiter) shard(key uint64) *shard {
	p := &l.shards[key>>shardShift]
	if s := p.Load(); s != nil {
		return s
	}
	p.CompareAndSwap(nil, new(shard))
	return p.Load()
}

// attempt takes all or nothing, while it holds the locks of all shards concerned. It may find out that
// a sweep could make room for a bucket, and does nothing then but return the kind to be swept.
func (l *Limiter) attempt(claims []claim, now int64) (result Result, crowded *kind) {
	locks := l.lock(claims)
	defer l.unlock(locks)
	sharing, crowded := locate(claims, now)
	if crowded == nil {
		if sharing {
			l.sharing.Lock()
			defer l.sharing.Unlock()
		}
		result = l.take(claims, now)
	}
	if !result.OK {
		release(claims)
	}
	return result, crowded
}

// lock locks the shards of the claims in ascending order, so that no two callers wait for each other.
// It returns a bit for each.
func (l *Limiter) lock(claims []claim) (locks uint64) {
	for i := range claims {
		locks |= 1 << (claims[i].key >> shardShift)
	}
	for rest := locks; rest != 0; rest &= rest - 1 {
		l.shards[bits.TrailingZeros64(rest)].Load().mu.Lock()
	}
	return locks
}

func (l *Limiter) unlock(locks uint64) {
	for rest := locks; rest != 0; rest &= rest - 1 {
		l.shards[bits.TrailingZeros64(rest)].Load().mu.Unlock()
	}
}

// locate fills in where the bucket of each claim is, and its state unless that is shared.
func locate(claims []claim, now int64) (sharing bool, crowded *kind) {
	for i := range claims {
		c := &claims[i]
		if c.kind.meter.interval == 0 {
			continue
		}
		full, ok := c.table.get(c.key)
		if ok {
			c.place, c.full = kept, full
			continue
		}
		c.full = c.table.floor(c.key)
		switch {
		case c.kind.reserve():
			c.place = fresh
		case now >= c.kind.nextSweep.Load():
			return false, c.kind
		default:
			c.place, sharing = shared, true
		}
	}
	return sharing, nil
}

// take takes from all buckets if none refuses. The global bucket, which others use at the same time, is
// the last: it is all or nothing by itself.
func (l *Limiter) take(claims []claim, now int64) Result {
	var result Result
	for i := range claims {
		c := &claims[i]
		if c.place == shared {
			c.full = max(c.full, c.kind.shared)
		}
		var wait time.Duration
		if c.full, wait = c.kind.meter.take(c.full, now, 1); wait > result.RetryAfter {
			result.RetryAfter = wait
			result.Scope = cmp.Or(result.Scope, c.kind.scope)
		}
	}
	if result.Scope != 0 {
		if wait := l.global.wait(1, now); wait > 0 {
			result = Result{Scope: ScopeGlobal, RetryAfter: max(wait, result.RetryAfter)}
		}
		return result
	}
	if wait := l.global.take(1, now); wait > 0 {
		return Result{Scope: ScopeGlobal, RetryAfter: wait}
	}
	commit(claims)
	return Result{OK: true}
}

// commit writes the new states. Who takes from the shared bucket gets a floor: a bucket of its own, if
// there is room for one later, does not give it again what it took here.
func commit(claims []claim) {
	for i := range claims {
		c := &claims[i]
		if c.place == shared {
			c.kind.shared = max(c.kind.shared, c.full)
			c.table.raise(c.key, c.full)
		} else {
			c.table.put(c.key, c.full)
		}
	}
}

// reserve counts a bucket that is going to be made, if there is room for it.
func (k *kind) reserve() bool {
	if k.live.Load() >= k.limit {
		return false
	}
	if k.live.Add(1) > k.limit {
		k.live.Add(-1)
		return false
	}
	return true
}

// release takes back what reserve counted for a message that is refused.
func release(claims []claim) {
	for i := range claims {
		if claims[i].place == fresh {
			claims[i].place = nowhere
			claims[i].kind.live.Add(-1)
		}
	}
}

// sweep drops the buckets of a kind that are full, unless it was done a short while ago or is being
// done. It locks one shard at a time.
func (l *Limiter) sweep(k *kind, now int64) {
	due := k.nextSweep.Load()
	if now < due || !k.nextSweep.CompareAndSwap(due, math.MaxInt64) {
		return
	}
	slots := 1
	for i := range l.shards {
		s := l.shards[i].Load()
		if s == nil {
			continue
		}
		t := &s.senders
		if k == &l.topics {
			t = &s.topics
		}
		s.mu.Lock()
		slots += len(t.buckets)
		k.live.Add(-int64(t.drop(now)))
		s.mu.Unlock()
	}
	k.nextSweep.Store(now + int64(slots)*sweepPause)
}
