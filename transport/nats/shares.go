package nats

import "sync"

// shares divides the room for frames that wait for an agent: whoever floods it takes the room from itself
// first. Those who do not even say from which endpoint a frame is, as no agent does, get an eighth of the
// room together; each endpoint gets half of it. Names of endpoints are claims, so this keeps out the
// careless and the broken; who may publish at all is for the broker's permissions to say.
type shares struct {
	strangers load // what strangers get
	each      load // what an endpoint gets

	mu    sync.Mutex
	taken map[string]load // by endpoint; no longer than what waits
}

// oneself is the endpoint's own share.
const oneself = "oneself"

func newShares(room load) shares {
	return shares{strangers: room.part(8), each: room.part(2), taken: map[string]load{}}
}

// take reports whether there is room for a frame, and takes it.
func (s *shares) take(a arrival) bool {
	limit := s.each
	if a.sender == "" {
		limit = s.strangers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.taken[a.sender].plus(load{1, len(a.data)})
	if now.frames > limit.frames || now.bytes > limit.bytes {
		return false
	}
	s.taken[a.sender] = now
	return true
}

// giveBack gives back what a frame took.
func (s *shares) giveBack(a arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[a.sender] = s.taken[a.sender].minus(load{1, len(a.data)})
	if s.taken[a.sender].frames <= 0 {
		delete(s.taken, a.sender)
	}
}
