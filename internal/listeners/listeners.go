// Package listeners keeps those who want to be told of something.
package listeners

import (
	"slices"
	"sync"
)

// List is those who are told. The calls come one after the other, whoever tells. The zero value is empty and ready
// to use; all methods are safe for concurrent use, but a listener must not attach others, or detach.
type List[T any] struct {
	life sync.Mutex // held while those who are attached first start something, and those who are last stop it
	mu   sync.Mutex // held while they are told
	all  []*listener[T]
}

type listener[T any] struct{ fn func(T) }

// Attach has fn told until detach is called; detaching twice is fine. When detach returns, fn is not being told anything,
// and is not told anything again.
//
// Where nobody else is attached, start is called before Attach returns. Where nobody is left, detach calls stop. One of
// them is called at a time.
func (l *List[T]) Attach(fn func(T), start, stop func()) (detach func()) {
	l.life.Lock()
	defer l.life.Unlock()
	one, now := l.add(fn)
	if now == 1 {
		start()
	}
	return sync.OnceFunc(func() {
		l.life.Lock()
		defer l.life.Unlock()
		if l.remove(one) == 0 {
			stop()
		}
	})
}

// add adds one, and returns how many there are then.
func (l *List[T]) add(fn func(T)) (added *listener[T], now int) {
	added = &listener[T]{fn}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, added)
	return added, len(l.all)
}

// remove takes one out, and returns how many are left.
func (l *List[T]) remove(one *listener[T]) (left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *listener[T]) bool { return other == one })
	return len(l.all)
}

// Tell tells everybody, of one thing after the other.
func (l *List[T]) Tell(things ...T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(things)
}

// TellIf is Tell if so says yes when nobody else tells anything.
func (l *List[T]) TellIf(so func() bool, things ...T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if so() {
		l.tell(things)
	}
}

func (l *List[T]) tell(things []T) {
	for i := range things {
		for _, one := range l.all {
			one.fn(things[i])
		}
	}
}
