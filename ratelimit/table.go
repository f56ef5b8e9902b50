package ratelimit

// table holds the buckets of one shard and one kind by the hash of their key. It is a hash table with
// linear probing: at 16 bytes a bucket it takes a third of the memory of a map, and it can drop
// buckets while they are being visited. The zero table is empty.
type table struct {
	buckets []bucket // the length is 0 or a power of two; at most three quarters are in use
	used    int
	floors  *[floors]int64 // nil while all are 0
}

// bucket is a token bucket of a sender or a topic.
type bucket struct {
	key  uint64 // 0: the slot is free
	full int64  // when the bucket is full again, in ticks
}

const (
	minSlots = 8
	floors   = 64
)

// get returns the state of the bucket of a key, if it has one.
func (t *table) get(key uint64) (full int64, ok bool) {
	if t.used == 0 {
		return 0, false
	}
	b := &t.buckets[t.slot(key)]
	return b.full, b.key == key
}

// put sets the state of the bucket of a key, which it makes if need be.
func (t *table) put(key uint64, full int64) {
	if 4*t.used >= 3*len(t.buckets) {
		t.grow()
	}
	b := &t.buckets[t.slot(key)]
	if b.key == 0 {
		t.used++
	}
	*b = bucket{key, full}
}

// drop removes the buckets that are full at now and returns their number. Their last state remains as
// a floor, so that even a clock that is set back later finds no token in them that was taken.
func (t *table) drop(now int64) int {
	before := t.used
	for i := range t.buckets {
		for b := t.buckets[i]; b.key != 0 && b.full <= now; b = t.buckets[i] {
			t.raise(b.key, b.full)
			t.remove(i)
		}
	}
	return before - t.used
}

// floor returns the least state that a new bucket of the key may start in: that in which a former
// bucket of the key was dropped, or in which the key left the shared bucket. A few keys have a floor
// in common, and 0 is the time of New.
func (t *table) floor(key uint64) int64 {
	if t.floors == nil {
		return 0
	}
	return t.floors[key>>floorShift%floors]
}

// raise sets the floor of a key to full, unless it is higher already.
func (t *table) raise(key uint64, full int64) {
	if full <= t.floor(key) {
		return
	}
	if t.floors == nil {
		t.floors = new([floors]int64)
	}
	t.floors[key>>floorShift%floors] = full
}

// slot returns the index of the bucket of a key, or of the free slot where it belongs.
func (t *table) slot(key uint64) uint64 {
	mask := uint64(len(t.buckets) - 1)
	i := key & mask
	for t.buckets[i].key != key && t.buckets[i].key != 0 {
		i = (i + 1) & mask
	}
	return i
}

// remove frees slot i and moves up the buckets that could not be found behind it otherwise.
func (t *table) remove(i int) {
	mask := len(t.buckets) - 1
	for j := (i + 1) & mask; t.buckets[j].key != 0; j = (j + 1) & mask {
		home := int(t.buckets[j].key) & mask
		if (j-home)&mask >= (j-i)&mask {
			t.buckets[i] = t.buckets[j]
			i = j
		}
	}
	t.buckets[i] = bucket{}
	t.used--
}

func (t *table) grow() {
	old := t.buckets
	t.buckets = make([]bucket, max(minSlots, 2*len(old)))
	for _, b := range old {
		if b.key != 0 {
			t.buckets[t.slot(b.key)] = b
		}
	}
}
