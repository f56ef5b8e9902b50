package memory

import (
	"hash/maphash"

	"github.com/converge-agents/converge/internal/brief"
	"github.com/converge-agents/converge/internal/changes"
	"github.com/converge-agents/converge/store"
)

// shards are where the slots are found by key. Each has a lock of its own, so that changes of different keys look
// for their places, which takes most of their time, beside each other.
type shards struct {
	seed maphash.Seed
	all  [shardCount]shard
}

const shardCount = 256

// shard has the slots of some of the keys. Its lock comes before that of the store; whoever has either may read
// what is in a slot, and whoever has both may change it.
type shard struct {
	mu    brief.Mutex
	slots map[string]*slot
	_     [48]byte // the next one is on another cache line
}

// slot is where the current item of a key rests; that of a deleted key stays with the snapshots that
// show it.
type slot struct {
	key  string
	item *item

	// What follows is known without a look at the item, which is far away in memory until somebody wants the value.
	revision store.Revision
	size     uint32 // bytes of key and value
	shard    uint8  // that the key belongs to
	gone     bool   // the item is a deletion
}

// item is one change. It is never altered, so slots, log and snapshots share it.
type item = changes.Change

func newShards() *shards {
	s := &shards{seed: maphash.MakeSeed()}
	for i := range s.all {
		s.all[i].slots = map[string]*slot{}
	}
	return s
}

// of returns the shard that a key belongs to.
func (s *shards) of(key string) *shard { return &s.all[s.number(key)] }

// number returns that of the shard that a key belongs to.
func (s *shards) number(key string) uint8 { return uint8(maphash.String(s.seed, key) % shardCount) }

// clear lets go of all slots.
func (s *shards) clear() {
	for i := range s.all {
		in := &s.all[i]
		in.mu.Lock()
		in.slots = nil
		in.mu.Unlock()
	}
}
