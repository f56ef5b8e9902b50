// Package listeners keeps those who want to be told of something.
package listeners

import (
	"slices"
	"sync"
)

// List is those who are told. The calls come one after the other, whoever tells. The zero value is empty and ready
// to use; all methods are safe for concurrent use, but a listener must not call Add or Remove.
type List[T any] struct {
	mu  sync.Mutex // held while they are told
	all []*Listener[T]
}

// Listener is one of them.
type Listener[T any] struct{ fn func(T) }

// Add adds one, and returns how many there are then.
func (l *List[T]) Add(fn func(T)) (added *Listener[T], now int) {
	added = &Listener[T]{fn}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, added)
	return added, len(l.all)
}

// Remove takes one out, and returns how many are left. When it returns, that one is not being told anything, and is
// not told anything again.
func (l *List[T]) Remove(one *Listener[T]) (left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *Listener[T]) bool { return other == one })
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
