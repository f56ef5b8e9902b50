package tool

import (
	"sync"
	"time"
)

// deadlines ends the calls of a gate when their time is over. All have the same timeout, so the order
// of their starts is that of their deadlines, and one timer serves them all: it is set to the first.
type deadlines struct {
	mu          sync.Mutex
	first, last *call
	ticking     bool
}

func (d *deadlines) add(c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.deadline = time.Now().Add(c.gate.timeout)
	c.previous = d.last
	if d.last == nil {
		d.first = c
	} else {
		d.last.next = c
	}
	d.last = c
	if !d.ticking {
		d.ticking = true
		time.AfterFunc(c.gate.timeout, d.tick)
	}
}

// remove takes c out. The timer ticks all the same, at most once in vain.
func (d *deadlines) remove(c *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unlink(c)
}

func (d *deadlines) unlink(c *call) {
	if c.previous != nil {
		c.previous.next = c.next
	} else if d.first == c {
		d.first = c.next
	}
	if c.next != nil {
		c.next.previous = c.previous
	} else if d.last == c {
		d.last = c.previous
	}
	c.previous, c.next = nil, nil
}

// tick ends the calls whose time is over and sets the timer to the first that is left.
func (d *deadlines) tick() {
	for _, c := range d.late() {
		c.expire()
	}
}

func (d *deadlines) late() []*call {
	d.mu.Lock()
	defer d.mu.Unlock()
	var late []*call
	for d.first != nil && time.Until(d.first.deadline) <= 0 {
		late = append(late, d.first)
		d.unlink(d.first)
	}
	if d.ticking = d.first != nil; d.ticking {
		time.AfterFunc(time.Until(d.first.deadline), d.tick)
	}
	return late
}
