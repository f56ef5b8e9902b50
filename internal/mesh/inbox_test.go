package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/converge-agents/converge/transport"
)

func frames(texts ...string) [][]byte {
	var f [][]byte
	for _, text := range texts {
		f = append(f, []byte(text))
	}
	return f
}

func take(t *testing.T, q *inbox) string {
	t.Helper()
	f, err := q.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(f)
}

func TestInboxKeepsOrderAcrossWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(4, 1<<20)
		go func() {
			for i := range 20 {
				q.put(nil, frames(fmt.Sprint(5*i), fmt.Sprint(5*i+1), fmt.Sprint(5*i+2), fmt.Sprint(5*i+3), fmt.Sprint(5*i+4)))
			}
		}()
		for i := range 100 {
			if got := take(t, q); got != fmt.Sprint(i) {
				t.Fatalf("frame %d is %s", i, got)
			}
		}
	})
}

func TestInboxIsBoundedByFramesAndBytes(t *testing.T) {
	byFrames, byBytes := newInbox(3, 1000), newInbox(100, 10)
	for i := range 5 {
		if ok := byFrames.tryPut([]byte("x")); ok != (i < 3) {
			t.Errorf("frame %d of 3: %t", i, ok)
		}
		if ok := byBytes.tryPut([]byte("four")); ok != (i < 2) {
			t.Errorf("frame %d of 4 bytes each, 10 in all: %t", i, ok)
		}
	}
	if large := newInbox(100, 10); !large.tryPut(make([]byte, 50)) || large.tryPut(nil) && large.tryPut([]byte("x")) {
		t.Error("a frame over the bound gets in alone, and nothing beside it")
	}
}

// TestInboxServesInTurn has two connections wait; each gets the room that it waited for, in turn.
func TestInboxServesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(2, 1<<20)
		q.put(nil, frames("0", "0"))
		for _, name := range []string{"a", "b"} {
			go q.put(nil, frames(name+"1", name+"2", name+"3"))
			synctest.Wait()
		}
		if q.tryPut([]byte("pushes in")) {
			t.Error("a frame got in before those that wait")
		}
		for i, want := range []string{"0", "0", "a1", "b1", "a2", "b2", "a3", "b3"} {
			synctest.Wait()
			if got := take(t, q); got != want {
				t.Errorf("frame %d is %s, want %s", i, got, want)
			}
		}
		if q.frames != 0 || len(q.putters) > 0 || q.turn {
			t.Errorf("left over: %d frames, %d puts, turn %t", q.frames, len(q.putters), q.turn)
		}
	})
}

func TestInboxPutEndsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1, 1<<20)
		q.put(nil, frames("first"))
		ended := make(chan struct{})
		put := make(chan bool, 2)
		go func() { put <- q.put(ended, frames("given up")) }()
		synctest.Wait()
		go func() { put <- q.put(nil, frames("second")) }()
		synctest.Wait()
		close(ended)
		if <-put {
			t.Error("a put that ended says that it put")
		}
		for _, want := range []string{"first", "second"} {
			if got := take(t, q); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}

func TestInboxCloseEndsAllWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, empty := newInbox(1, 1<<20), newInbox(1, 1<<20)
		full.put(nil, frames("x"))
		put, got := make(chan bool, 1), make(chan error, 1)
		go func() { put <- full.put(nil, frames("y")) }()
		go func() { _, err := empty.get(t.Context()); got <- err }()
		synctest.Wait()
		for range 2 {
			full.close()
			empty.close()
		}
		if <-put || full.tryPut(nil) {
			t.Error("a closed inbox takes frames")
		}
		if err := <-got; !errors.Is(err, transport.ErrClosed) {
			t.Errorf("get: %v", err)
		}
		if _, err := full.get(t.Context()); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("what is left is gone: %v", err)
		}
	})
}

func TestInboxGetEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newInbox(1, 1<<20)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		go func() { _, err := q.get(ctx); got <- err }()
		synctest.Wait()
		cancel(cause)
		if err := <-got; !errors.Is(err, cause) {
			t.Errorf("get: %v", err)
		}
		q.put(nil, frames("kept"))
		if _, err := q.get(ctx); !errors.Is(err, cause) {
			t.Errorf("get with a context that has ended: %v", err)
		}
		if got := take(t, q); got != "kept" {
			t.Errorf("got %s", got)
		}
	})
}

// TestInboxLosesNoWakeUp: in the bubble a lost wake-up is a deadlock, which fails the test.
func TestInboxLosesNoWakeUp(t *testing.T) {
	const putters, getters, batches = 6, 4, 300
	for _, bounds := range [][2]int{{1, 1 << 20}, {2, 8}, {64, 100}} {
		synctest.Test(t, func(t *testing.T) {
			q := newInbox(bounds[0], bounds[1])
			var putting, getting sync.WaitGroup
			var mu sync.Mutex
			sent, received := 0, 0
			for p := range putters {
				r := rand.New(rand.NewPCG(1, uint64(p)))
				putting.Go(func() {
					for range batches {
						n := r.IntN(10)
						batch := make([][]byte, n)
						for i := range batch {
							batch[i] = make([]byte, r.IntN(12))
						}
						q.put(nil, batch)
						mu.Lock()
						sent += n
						mu.Unlock()
					}
				})
			}
			for range getters {
				getting.Go(func() {
					for {
						if _, err := q.get(t.Context()); err != nil {
							return
						}
						mu.Lock()
						received++
						mu.Unlock()
					}
				})
			}
			putting.Wait()
			synctest.Wait() // all that was put has been got
			q.close()
			getting.Wait()
			if sent != received {
				t.Errorf("%d frames were put, %d came out", sent, received)
			}
		})
	}
}
