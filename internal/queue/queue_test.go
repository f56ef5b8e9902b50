package queue_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/internal/queue"
)

func TestItemsComeOutInOrder(t *testing.T) {
	q := queue.New[int](1000, queue.Block)
	for i := range 1000 {
		put(t, q, i)
	}
	for i := range 1000 {
		if got := get(t, q); got != i {
			t.Fatalf("item %d is %d", i, got)
		}
	}
}

// TestAgainstSlice compares a queue that never has to wait with the obvious model of one.
func TestAgainstSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 40).Draw(t, "capacity")
		q := queue.New[int](capacity, queue.DropNewest)
		ready := q.Ready()
		var model []int
		var next int
		var dropped uint64
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				next++
				err := q.Put(context.Background(), next)
				switch {
				case len(model) < capacity && err == nil:
					model = append(model, next)
				case len(model) == capacity && errors.Is(err, queue.ErrFull):
					dropped++
				default:
					t.Fatalf("put into %d of %d: %v", len(model), capacity, err)
				}
			},
			"try put": func(t *rapid.T) {
				next++
				if ok := q.TryPut(next); ok != (len(model) < capacity) {
					t.Fatalf("put into %d of %d: %t", len(model), capacity, ok)
				}
				if len(model) < capacity {
					model = append(model, next)
				}
			},
			"try get": func(t *rapid.T) {
				v, ok := q.TryGet()
				if ok != (len(model) > 0) || ok && v != model[0] {
					t.Fatalf("got %d, %t of %v", v, ok, model)
				}
				model = model[min(1, len(model)):]
			},
			"take": func(t *rapid.T) {
				n := rapid.IntRange(-1, 50).Draw(t, "n")
				want := max(0, min(n, len(model)))
				if got := q.TakeUpTo(n); !slices.Equal(got, model[:want]) {
					t.Fatalf("took %v of %v", got, model)
				}
				model = model[want:]
			},
			"": func(t *rapid.T) {
				if q.Len() != len(model) || len(ready) != min(1, len(model)) || q.Dropped() != dropped {
					t.Fatalf("length %d, tokens %d, dropped %d; the model has %d and dropped %d",
						q.Len(), len(ready), q.Dropped(), len(model), dropped)
				}
			},
		})
	})
}

func TestBlockedPutsAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](2, queue.Block)
		for i := range 10 {
			go put(t, q, i)
			synctest.Wait()
		}
		if q.Len() != 2 {
			t.Fatalf("length %d of a capacity of 2", q.Len())
		}
		for i := range 10 {
			if got := get(t, q); got != i {
				t.Fatalf("item %d is %d", i, got)
			}
		}
	})
}

// TestCancelledPutLeavesTheLine cancels the Put in the middle of three that wait.
func TestCancelledPutLeavesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1, queue.Block)
		put(t, q, 0)
		cause := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		go put(t, q, 1)
		synctest.Wait()
		cancelled := make(chan error, 1)
		go func() { cancelled <- q.Put(ctx, 2) }()
		synctest.Wait()
		go put(t, q, 3)
		synctest.Wait()

		cancel(cause)
		if err := <-cancelled; !errors.Is(err, cause) {
			t.Fatalf("the cancelled Put returned %v", err)
		}
		for _, want := range []int{0, 1, 3} {
			if got := get(t, q); got != want {
				t.Fatalf("got %d where %d is due", got, want)
			}
		}
	})
}

func TestDoneContextMovesNothing(t *testing.T) {
	q := queue.New[int](2, queue.Block)
	put(t, q, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Put(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, err := q.Get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: %v", err)
	}
	if q.Len() != 1 {
		t.Errorf("length %d", q.Len())
	}
}

func TestCancelledGetLosesNoItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue.New[int](1, queue.Block)
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error, 1)
		go func() { _, err := q.Get(ctx); cancelled <- err }()
		other := make(chan int, 1)
		synctest.Wait()
		go func() { other <- get(t, q) }()
		synctest.Wait()
		cancel()
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Fatalf("the cancelled Get returned %v", err)
		}
		put(t, q, 7)
		if got := <-other; got != 7 {
			t.Fatalf("got %d", got)
		}
	})
}

func TestCloseWakesAllAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, empty := queue.New[int](1, queue.Block), queue.New[int](1, queue.Block)
		put(t, full, 1)
		errs := make(chan error, 6)
		for range 3 {
			go func() { errs <- full.Put(t.Context(), 2) }()
			go func() { _, err := empty.Get(t.Context()); errs <- err }()
		}
		synctest.Wait()
		full.Close()
		empty.Close()
		full.Close()
		for range 6 {
			if err := <-errs; !errors.Is(err, queue.ErrClosed) {
				t.Errorf("a waiting call returned %v", err)
			}
		}

		if err := full.Put(t.Context(), 3); !errors.Is(err, queue.ErrClosed) || empty.TryPut(3) {
			t.Errorf("Put after Close: %v", err)
		}
		if full.Drained() || !empty.Drained() {
			t.Error("Drained is wrong before the last item is out")
		}
		if got := get(t, full); got != 1 {
			t.Errorf("left over: %d", got)
		}
		if _, err := full.Get(t.Context()); !errors.Is(err, queue.ErrClosed) || !full.Drained() {
			t.Errorf("Get from a drained queue: %v", err)
		}
	})
}

func TestReadyIsClosedWithTheQueue(t *testing.T) {
	early, late := queue.New[int](1, queue.Block), queue.New[int](1, queue.Block)
	ready := early.Ready()
	early.Close()
	late.Close()
	for _, c := range []<-chan struct{}{ready, late.Ready()} {
		if _, open := <-c; open {
			t.Error("Ready holds a token instead of being closed")
		}
	}
}

// TestReadyLoop is the loop that Ready is made for, with two consumers.
func TestReadyLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const items = 1000
		q := queue.New[int](16, queue.Block)
		var sum atomic.Int64
		var consumers sync.WaitGroup
		for range 2 {
			consumers.Go(func() {
				for !q.Drained() {
					<-q.Ready()
					for _, v := range q.TakeUpTo(3) {
						sum.Add(int64(v))
					}
				}
			})
		}
		for i := range items {
			put(t, q, i)
		}
		q.Close()
		consumers.Wait()
		if sum.Load() != items*(items-1)/2 {
			t.Fatalf("sum %d", sum.Load())
		}
	})
}

// TestNoWakeUpIsLost has producers and consumers of all kinds, who often change their minds. In the
// bubble a lost wake-up is a deadlock, which fails the test.
func TestNoWakeUpIsLost(t *testing.T) {
	const producers, consumers, each = 8, 8, 500
	for _, capacity := range []int{1, 3, 64} {
		synctest.Test(t, func(t *testing.T) {
			q := queue.New[[2]int](capacity, queue.Block)
			var producing, consuming sync.WaitGroup
			for p := range producers {
				producing.Go(func() {
					for i := range each {
						insist(t, func(ctx context.Context) error { return q.Put(ctx, [2]int{p, i}) })
					}
				})
			}
			var got [consumers][][2]int
			for c := range consumers {
				consuming.Go(func() { got[c] = consume(t, q, c) })
			}
			producing.Wait()
			q.Close()
			consuming.Wait()
			checkAll(t, got[:], producers, each)
		})
	}
}

// consume takes items until the queue is drained, in the manner of consumer number c.
func consume(t *testing.T, q *queue.Queue[[2]int], c int) (got [][2]int) {
	for {
		if c%3 == 0 {
			<-q.Ready()
			got = append(got, q.TakeUpTo(c+1)...)
			if q.Drained() {
				return got
			}
			continue
		}
		err := insist(t, func(ctx context.Context) error {
			v, err := q.Get(ctx)
			if err == nil {
				got = append(got, v)
			}
			return err
		})
		if err != nil {
			return got
		}
	}
}

// insist repeats a call, whose context is cancelled at a random moment, until it is through.
func insist(t *testing.T, call func(context.Context) error) error {
	for {
		ctx, cancel := context.WithCancel(t.Context())
		if rand.IntN(2) == 0 {
			go func() {
				for range rand.IntN(20) {
					runtime.Gosched()
				}
				cancel()
			}()
		}
		err := call(ctx)
		cancel()
		if !errors.Is(err, context.Canceled) {
			return err
		}
	}
}

// checkAll checks that each item was consumed once, and that no consumer saw the items of a producer
// out of order.
func checkAll(t *testing.T, got [][][2]int, producers, each int) {
	t.Helper()
	seen := map[[2]int]bool{}
	for c, items := range got {
		last := make([]int, producers)
		for _, v := range items {
			if seen[v] || v[1] < last[v[0]] {
				t.Fatalf("consumer %d: item %v is a duplicate or out of order", c, v)
			}
			seen[v], last[v[0]] = true, v[1]
		}
	}
	if len(seen) != producers*each {
		t.Fatalf("%d items of %d came out", len(seen), producers*each)
	}
}

// TestMemoryFollowsItems fills and drains queues of a large capacity.
func TestMemoryFollowsItems(t *testing.T) {
	const queues, burst = 1000, 100
	qs := make([]*queue.Queue[*int], queues)
	unused := heapGrowth(func() {
		for i := range qs {
			qs[i] = queue.New[*int](1<<20, queue.Block)
			qs[i].Ready()
		}
	})
	if unused/queues > 200 {
		t.Errorf("an unused queue has %d bytes", unused/queues)
	}
	drained := heapGrowth(func() {
		for _, q := range qs {
			for range burst {
				put(t, q, new(int))
			}
			for range burst {
				get(t, q)
			}
		}
	})
	if drained/queues > 40 {
		t.Errorf("a drained queue keeps %d bytes more", drained/queues)
	}
	runtime.KeepAlive(qs)
}

func heapGrowth(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func TestNewRefusesImpossibleCapacities(t *testing.T) {
	for _, capacity := range []int{-1, 0, 1 << 31} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("capacity %d is accepted", capacity)
				}
			}()
			queue.New[int](capacity, queue.Block)
		}()
	}
}

func put[T any](t testing.TB, q *queue.Queue[T], v T) {
	t.Helper()
	if err := q.Put(t.Context(), v); err != nil {
		t.Errorf("put: %v", err)
	}
}

func get[T any](t testing.TB, q *queue.Queue[T]) T {
	t.Helper()
	v, err := q.Get(t.Context())
	if err != nil {
		t.Errorf("get: %v", err)
	}
	return v
}

func BenchmarkPutGet(b *testing.B) {
	q := queue.New[*int](1024, queue.Block)
	q.Ready()
	ctx, v := b.Context(), new(int)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Put(ctx, v); err != nil {
			b.Fatal(err)
		}
		if _, err := q.Get(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHandOver has a producer and a consumer who wait for each other.
func BenchmarkHandOver(b *testing.B) {
	q := queue.New[*int](1024, queue.Block)
	v := new(int)
	b.ReportAllocs()
	go func() {
		for {
			if q.Put(context.Background(), v) != nil {
				return
			}
		}
	}()
	for b.Loop() {
		if _, err := q.Get(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	q.Close()
}

func BenchmarkBurst(b *testing.B) {
	const burst = 256
	q := queue.New[*int](1024, queue.Block)
	ctx, v := b.Context(), new(int)
	b.ReportAllocs()
	for b.Loop() {
		for range burst {
			if err := q.Put(ctx, v); err != nil {
				b.Fatal(err)
			}
		}
		if len(q.TakeUpTo(burst)) != burst {
			b.Fatal("items are missing")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst), "ns/item")
}
