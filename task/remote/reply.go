package remote

import (
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// reply is a failure, or what was asked for.
type reply struct {
	instance uint64 // of the host process
	failure
	results []result
	poll    *pollReply
	review  *reviewReply
}

// result is what came of an operation.
type result struct {
	failure
	task      *task.Task
	remaining time.Duration // of a claim
}

// pollReply is what the client did not know, or what there is when its time is up.
type pollReply struct {
	pending []task.Task // all that it shall see, in order; of those that it knows, only the ID
	ended   []task.Task
	seq     uint64 // up to where ended tells all ends
	resync  bool   // ends before seq are not told: a review is due
	more    bool   // there are more ends to be told now
}

// reviewReply is about the first tasks of a review.
type reviewReply struct {
	done  int         // how many tasks it is about
	ended []task.Task // those of them that have ended
	gone  []string    // those that the agent has neither submitted nor holds
}

// The flags of a pollReply.
const (
	flagResync = 1 << iota
	flagMore
)

func (p *reply) append(buf []byte, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, version)
	w.Uint(2, p.instance)
	w.Uint(3, uint64(p.code))
	w.Text(4, p.text)
	w.Array(5, len(p.results), func(buf []byte, i int) []byte { return p.results[i].append(buf, now) })
	if p.poll != nil {
		w.Item(6, func(buf []byte) []byte { return p.poll.append(buf, now) })
	}
	if p.review != nil {
		w.Item(7, func(buf []byte) []byte { return p.review.append(buf, now) })
	}
	return w.End()
}

// parseReply reads what append has written. Instants are counted from now. It keeps nothing of body. The
// reply's failure is an error too.
func parseReply(body []byte, now time.Time) (*reply, error) {
	p := &reply{}
	f := open(body, func(r *reader, key int64) {
		switch key {
		case 2:
			p.instance = r.uint()
		case 3:
			p.code = code(r.upTo(255))
		case 4:
			p.text = r.text(maxText)
		case 5:
			r.array(MaxOps, func() { p.results = append(p.results, r.result(now)) })
		case 6:
			p.poll = r.pollReply(now)
		case 7:
			p.review = r.reviewReply(now)
		default:
			r.unknown()
		}
	})
	if f.code != 0 {
		return &reply{}, f.err()
	}
	return p, p.err()
}

func (s *result) append(buf []byte, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, uint64(s.code))
	w.Text(2, s.text)
	if s.task != nil {
		w.Item(3, func(buf []byte) []byte { return appendTask(buf, s.task, now) })
	}
	w.Int(4, int64(s.remaining))
	return w.End()
}

func (r *reader) result(now time.Time) (s result) {
	r.Fields(func(key int64) {
		switch key {
		case 1:
			s.code = code(r.upTo(255))
		case 2:
			s.text = r.text(maxText)
		case 3:
			t := r.task(now)
			s.task = &t
		case 4:
			s.remaining = time.Duration(r.int())
		default:
			r.unknown()
		}
	})
	return s
}

func (p *pollReply) append(buf []byte, now time.Time) []byte {
	var flags uint64
	if p.resync {
		flags |= flagResync
	}
	if p.more {
		flags |= flagMore
	}
	w := cose.NewMapWriter(buf)
	w.Array(1, len(p.pending), func(buf []byte, i int) []byte { return appendTask(buf, &p.pending[i], now) })
	w.Array(2, len(p.ended), func(buf []byte, i int) []byte { return appendTask(buf, &p.ended[i], now) })
	w.Uint(3, p.seq)
	w.Uint(4, flags)
	return w.End()
}

func (r *reader) pollReply(now time.Time) *pollReply {
	p := &pollReply{}
	r.Fields(func(key int64) {
		switch key {
		case 1:
			r.array(MaxWindow, func() { p.pending = append(p.pending, r.task(now)) })
		case 2:
			r.array(maxEnded, func() { p.ended = append(p.ended, r.task(now)) })
		case 3:
			p.seq = r.uint()
		case 4:
			flags := r.upTo(flagResync | flagMore)
			p.resync, p.more = flags&flagResync != 0, flags&flagMore != 0
		default:
			r.unknown()
		}
	})
	return p
}

// maxEnded is how many ends of tasks one reply tells.
const maxEnded = 1024

func (v *reviewReply) append(buf []byte, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, uint64(v.done))
	w.Array(2, len(v.ended), func(buf []byte, i int) []byte { return appendTask(buf, &v.ended[i], now) })
	w.Texts(3, v.gone)
	return w.End()
}

func (r *reader) reviewReply(now time.Time) *reviewReply {
	v := &reviewReply{}
	r.Fields(func(key int64) {
		switch key {
		case 1:
			v.done = int(r.upTo(MaxReview))
		case 2:
			r.array(MaxReview, func() { v.ended = append(v.ended, r.task(now)) })
		case 3:
			v.gone = r.texts(MaxReview)
		default:
			r.unknown()
		}
	})
	return v
}

// appendTask appends a task; instants as they are off now.
func appendTask(buf []byte, t *task.Task, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Text(1, t.ID)
	w.Text(2, t.Kind)
	w.Bytes(3, t.Params)
	w.Texts(4, t.Capabilities)
	w.Text(5, t.Topic.String())
	w.Text(6, t.Pool)
	if !t.Submitter.IsZero() {
		w.Bytes(7, t.Submitter[:])
	}
	w.Int(8, int64(t.ClaimTTL))
	w.Int(9, cose.FromTime(t.Deadline))
	w.Int(10, int64(t.Priority))
	w.Uint(11, uint64(t.Status))
	if !t.Claimant.IsZero() {
		w.Bytes(12, t.Claimant[:])
	}
	w.Uint(13, t.Epoch)
	w.Int(14, fromNow(t.ClaimExpires, now))
	w.Int(15, fromNow(t.CreatedAt, now))
	w.Int(16, fromNow(t.UpdatedAt, now))
	w.Bytes(17, t.Result)
	w.Text(18, t.ResultType)
	w.Text(19, t.Error)
	w.Uint(20, uint64(t.Revision))
	appendSome(&w, 21, func(w *cose.MapWriter) { appendPlan(w, &t.Spec) })
	appendSome(&w, 22, func(w *cose.MapWriter) {
		w.Int(1, fromNow(t.ReadyAt, now))
		w.Uint(2, uint64(t.Attempts))
		w.Flag(3, t.DeadLetter)
		w.Flag(4, t.Existed)
	})
	appendSome(&w, 23, func(w *cose.MapWriter) {
		w.Bytes(1, t.Proof)
		w.Bytes(2, t.ResultProof)
	})
	return w.End()
}

func (r *reader) task(now time.Time) (t task.Task) {
	instant := func() time.Time { return now.Add(time.Duration(r.int())) }
	r.Fields(func(key int64) {
		switch key {
		case 1:
			t.ID = r.text(maxText)
		case 2:
			t.Kind = r.text(maxText)
		case 3:
			t.Params = r.bytes()
		case 4:
			t.Capabilities = r.texts(MaxNames)
		case 5:
			t.Topic = r.topic()
		case 6:
			t.Pool = r.text(maxText)
		case 7:
			t.Submitter = r.id()
		case 8:
			t.ClaimTTL = time.Duration(r.int())
		case 9:
			t.Deadline = r.time()
		case 10:
			t.Priority = int(r.int())
		case 11:
			t.Status = task.Status(r.upTo(uint64(task.Cancelled)))
		case 12:
			t.Claimant = r.id()
		case 13:
			t.Epoch = r.uint()
		case 14:
			t.ClaimExpires = instant()
		case 15:
			t.CreatedAt = instant()
		case 16:
			t.UpdatedAt = instant()
		case 17:
			t.Result = r.bytes()
		case 18:
			t.ResultType = r.text(maxText)
		case 19:
			t.Error = r.text(task.MaxReason)
		case 20:
			t.Revision = store.Revision(r.uint())
		case 21:
			r.plan(&t.Spec)
		case 22:
			r.progress(&t, now)
		case 23:
			r.proofs(&t)
		default:
			r.unknown()
		}
	})
	if t.ID == "" {
		r.unknown()
	}
	return t
}

// progress reads what has come of the attempts at a task.
func (r *reader) progress(t *task.Task, now time.Time) {
	r.some(func(key int64) {
		switch key {
		case 1:
			t.ReadyAt = now.Add(time.Duration(r.int()))
		case 2:
			t.Attempts = int(r.upTo(task.MostAttempts))
		case 3:
			t.DeadLetter = r.upTo(1) == 1
		case 4:
			t.Existed = r.upTo(1) == 1
		default:
			r.unknown()
		}
	})
}

// proofs reads what the submitter and the claimant have signed.
func (r *reader) proofs(t *task.Task) {
	r.some(func(key int64) {
		switch key {
		case 1:
			t.Proof = r.bytes()
		case 2:
			t.ResultProof = r.bytes()
		default:
			r.unknown()
		}
	})
}

// weight is about how many bytes the task takes in a reply, and no less.
func weight(t *task.Task) int {
	n := 640 + len(t.ID) + len(t.IdempotencyKey) + len(t.Kind) + len(t.Params) + len(t.Pool) + len(t.Topic.String()) + len(t.Result) + len(t.ResultType) + len(t.Error) + len(t.Proof) + len(t.ResultProof)
	for _, c := range t.Capabilities {
		n += len(c) + 3
	}
	return n
}
