package nats

import (
	"hash/maphash"
	"sync"
)

// recent remembers the frames for topics that came last, so that of several copies of one frame only the
// first is taken in. Copies come one right after the other. What is forgotten too early arrives twice, and
// is for the replay window to refuse. A frame is known by its name together with its content: somebody who
// uses the name of another's frame suppresses nothing.
type recent struct {
	mu    sync.Mutex
	seed  maphash.Seed
	known map[uint64]struct{}
	ring  []uint64
	next  int
}

// recentFrames is how many are remembered.
const recentFrames = 1024

// first reports whether the frame was not seen lately, and remembers it.
func (r *recent) first(name string, data []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.seed, r.known = maphash.MakeSeed(), map[uint64]struct{}{}
	}
	key := r.key(name, data)
	if _, seen := r.known[key]; seen {
		return false
	}
	r.known[key] = struct{}{}
	if len(r.ring) < recentFrames {
		r.ring = append(r.ring, key)
		return true
	}
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = key
	r.next = (r.next + 1) % recentFrames
	return true
}

func (r *recent) key(name string, data []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	h.WriteString(name)
	h.WriteByte(0)
	h.Write(data)
	return h.Sum64()
}
