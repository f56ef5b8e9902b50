package remote

import "time"

// pace limits how many polls are answered because of pending tasks. Agents whom there is no token for
// wait a little; mostly others have claimed the tasks by then, so that not everybody runs for each.
type pace struct {
	bucket
	looked time.Time // when those who wait were looked after last
}

const (
	paceRate  = 100 // answers a second
	paceBurst = 64
	paceEvery = 20 * time.Millisecond // between two looks
)

// bucket is a token bucket, which begins full.
type bucket struct {
	spent float64 // tokens that are missing
	at    time.Time
}

// take takes n tokens, or none if there are fewer.
func (b *bucket) take(n, rate, burst float64, now time.Time) bool {
	if b.wait(n, rate, burst, now) > 0 {
		return false
	}
	b.spent += n
	return true
}

// wait returns how long it takes until there are n tokens.
func (b *bucket) wait(n, rate, burst float64, now time.Time) time.Duration {
	if elapsed := now.Sub(b.at).Seconds(); elapsed > 0 {
		b.spent = max(b.spent-elapsed*rate, 0)
		b.at = now
	}
	return time.Duration(max(b.spent+n-burst, 0) / rate * float64(time.Second))
}

// ready reports whether it is time to look after those who wait, which the caller then does.
func (p *pace) ready(now time.Time) bool {
	if p.next(now) > time.Millisecond {
		return false
	}
	p.looked = now
	return true
}

// next returns when that is the case.
func (p *pace) next(now time.Time) time.Duration {
	return max(p.looked.Add(paceEvery).Sub(now), p.wait(1, paceRate, paceBurst, now), time.Millisecond)
}
