package remote

import (
	"cmp"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/task"
)

// request is one of three: ops, poll, or review.
type request struct {
	profile task.Profile // without the agent
	ops     []Op
	poll    *pollRequest
	review  []string
}

// pollRequest asks for what the client does not know.
type pollRequest struct {
	window int
	known  []known
	cursor cursor
	wait   time.Duration // to the millisecond
}

// known is a pending task that the client has.
type known struct {
	id       string
	revision uint64
}

// cursor is how far a client has followed the ends of tasks at one host process.
type cursor struct {
	instance uint64
	seq      uint64
}

// append appends the request as it is at that time.
func (q *request) append(buf []byte, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, version)
	if p := appendProfile(nil, &q.profile); len(p) > 1 {
		w.Item(2, func(buf []byte) []byte { return append(buf, p...) })
	}
	w.Array(3, len(q.ops), func(buf []byte, i int) []byte { return q.ops[i].append(buf, now) })
	if q.poll != nil {
		w.Item(4, q.poll.append)
	}
	w.Texts(5, q.review)
	return w.End()
}

// parseRequest reads what append has written. It keeps nothing of body.
func parseRequest(body []byte, now time.Time) (*request, failure) {
	q := &request{}
	sorts := 0
	f := open(body, func(r *reader, key int64) {
		switch key {
		case 2:
			q.profile = r.profile()
		case 3:
			r.array(MaxOps, func() { q.ops = append(q.ops, r.op(now)) })
			sorts++
		case 4:
			q.poll = r.poll()
			sorts++
		case 5:
			q.review = r.texts(MaxReview)
			sorts++
		default:
			r.unknown()
		}
	})
	if f.code == 0 && sorts != 1 {
		f = failure{codeMalformed, "it has to ask for one thing"}
	}
	return q, f
}

func appendProfile(buf []byte, p *task.Profile) []byte {
	w := cose.NewMapWriter(buf)
	w.Texts(1, p.Capabilities)
	w.Array(2, len(p.Topics), func(buf []byte, i int) []byte { return cose.AppendText(buf, p.Topics[i].String()) })
	w.Texts(3, p.Pools)
	w.Texts(4, p.Kinds)
	return w.End()
}

func (r *reader) profile() (p task.Profile) {
	r.some(func(key int64) {
		switch key {
		case 1:
			p.Capabilities = r.texts(MaxNames)
		case 2:
			r.array(MaxNames, func() { p.Topics = append(p.Topics, r.pattern()) })
		case 3:
			p.Pools = r.texts(MaxNames)
		case 4:
			p.Kinds = r.texts(MaxNames)
		default:
			r.unknown()
		}
	})
	return p
}

func (o *Op) append(buf []byte, now time.Time) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, uint64(o.Kind))
	w.Text(2, o.id())
	w.Uint(3, o.Claim.Epoch)
	w.Bytes(4, o.Result)
	w.Text(5, o.ResultType)
	w.Text(6, o.Reason)
	if o.Kind == OpSubmit {
		w.Item(7, func(buf []byte) []byte { return appendSpec(buf, &o.Spec) })
	}
	w.Flag(8, o.Permanent)
	w.Bytes(9, o.Proof)
	return w.End()
}

// op reads an operation. Whose it is stands in none of its fields.
func (r *reader) op(now time.Time) (o Op) {
	var id string
	var spec *task.Spec
	r.Fields(func(key int64) {
		switch key {
		case 1:
			o.Kind = Kind(r.upTo(255))
		case 2:
			id = r.text(maxText)
		case 3:
			o.Claim.Epoch = r.uint()
		case 4:
			o.Result = r.bytes()
		case 5:
			o.ResultType = r.text(maxText)
		case 6:
			o.Reason = r.text(task.MaxReason)
		case 7:
			spec = r.spec()
		case 8:
			o.Permanent = r.upTo(1) == 1
		case 9:
			o.Proof = r.bytes()
		default:
			r.unknown()
		}
	})
	switch {
	case o.Kind == 0, o.Kind == OpSubmit != (spec != nil):
		r.unknown()
	case o.Kind == OpSubmit:
		o.Spec, o.Spec.ID = *spec, id
	case o.Kind == OpClaim, o.Kind == OpCancel, o.Kind == OpRequeue:
		o.TaskID = id
	default:
		o.Claim.TaskID = id
	}
	return o
}

func appendSpec(buf []byte, s *task.Spec) []byte {
	w := cose.NewMapWriter(buf)
	w.Text(1, s.Kind)
	w.Bytes(2, s.Params)
	w.Texts(3, s.Capabilities)
	w.Text(4, s.Topic.String())
	w.Text(5, s.Pool)
	w.Int(6, int64(s.ClaimTTL))
	w.Int(7, cose.FromTime(s.Deadline))
	w.Int(8, int64(s.Priority))
	appendSome(&w, 9, func(w *cose.MapWriter) { appendPlan(w, s) })
	w.Bytes(10, s.Proof)
	return w.End()
}

// appendPlan appends when a task is to be tried, and how often.
func appendPlan(w *cose.MapWriter, s *task.Spec) {
	w.Int(1, cose.FromTime(s.NotBefore))
	w.Int(2, int64(s.MaxAttempts))
	w.Int(3, int64(s.Backoff.Base))
	w.Int(4, int64(s.Backoff.Max))
	w.Text(5, s.IdempotencyKey)
}

func (r *reader) plan(s *task.Spec) {
	r.some(func(key int64) {
		switch key {
		case 1:
			s.NotBefore = r.time()
		case 2:
			s.MaxAttempts = int(r.int())
		case 3:
			s.Backoff.Base = time.Duration(r.int())
		case 4:
			s.Backoff.Max = time.Duration(r.int())
		case 5:
			s.IdempotencyKey = r.text(maxText)
		default:
			r.unknown()
		}
	})
}

// appendSome appends a map unless it is empty.
func appendSome(w *cose.MapWriter, key byte, fields func(*cose.MapWriter)) {
	var room [128]byte
	inner := cose.NewMapWriter(room[:0])
	fields(&inner)
	if b := inner.End(); len(b) > 1 {
		w.Item(key, func(buf []byte) []byte { return append(buf, b...) })
	}
}

func (r *reader) spec() *task.Spec {
	s := &task.Spec{}
	r.Fields(func(key int64) {
		switch key {
		case 1:
			s.Kind = r.text(maxText)
		case 2:
			s.Params = r.bytes()
		case 3:
			s.Capabilities = r.texts(MaxNames)
		case 4:
			s.Topic = r.topic()
		case 5:
			s.Pool = r.text(maxText)
		case 6:
			s.ClaimTTL = time.Duration(r.int())
		case 7:
			s.Deadline = r.time()
		case 8:
			s.Priority = int(r.int())
		case 9:
			r.plan(s)
		case 10:
			s.Proof = r.bytes()
		default:
			r.unknown()
		}
	})
	return s
}

// time reads an instant that was signed, and therefore has to stay as it is: not one that is counted from now.
func (r *reader) time() time.Time { return cose.ToTime(r.int()) }

// fromNow returns how far off an instant is in nanoseconds; 0 only if there is none.
func fromNow(t, now time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return cmp.Or(int64(t.Sub(now)), -1)
}

func (p *pollRequest) append(buf []byte) []byte {
	w := cose.NewMapWriter(buf)
	w.Uint(1, uint64(p.window))
	w.Array(2, len(p.known), func(buf []byte, i int) []byte {
		return cose.AppendUint(cose.AppendText(cose.AppendArray(buf, 2), p.known[i].id), p.known[i].revision)
	})
	w.Uint(3, p.cursor.instance)
	w.Uint(4, p.cursor.seq)
	w.Uint(5, uint64(p.wait.Milliseconds()))
	return w.End()
}

func (r *reader) poll() *pollRequest {
	p := &pollRequest{}
	r.Fields(func(key int64) {
		switch key {
		case 1:
			p.window = int(r.upTo(MaxWindow))
		case 2:
			r.array(MaxWindow, func() { p.known = append(p.known, r.known()) })
		case 3:
			p.cursor.instance = r.uint()
		case 4:
			p.cursor.seq = r.uint()
		case 5:
			p.wait = time.Duration(r.upTo(uint64(MaxPark.Milliseconds()))) * time.Millisecond
		default:
			r.unknown()
		}
	})
	return p
}

func (r *reader) known() (k known) {
	if r.Array() != 2 {
		r.unknown()
	}
	k.id = r.text(maxTaskID)
	k.revision = r.Uint()
	return k
}

// check holds an operation to what can be written down. What the task is to be like is for the manager
// to check.
func (o *Op) check() error {
	for _, text := range append([]string{o.id(), o.ResultType, o.Spec.Kind, o.Spec.Pool, o.Spec.IdempotencyKey}, o.Spec.Capabilities...) {
		if len(text) > maxText || !utf8.ValidString(text) {
			return fmt.Errorf("%w: %.80q is not up to %d bytes of UTF-8", task.ErrInvalid, text, maxText)
		}
	}
	if n := len(o.Spec.Capabilities); n > MaxNames {
		return fmt.Errorf("%w: Capabilities names %d", task.ErrInvalid, n)
	}
	return nil
}

// checkProfile holds a profile to what can be written down.
func checkProfile(p *task.Profile) error {
	encoded := appendProfile(nil, p)
	if len(encoded) > maxProfile {
		return fmt.Errorf("it takes %d bytes where %d are allowed", len(encoded), maxProfile)
	}
	if len(encoded) == 1 { // empty, which is left out
		return nil
	}
	r := &reader{cose.NewReader(encoded)}
	r.profile()
	return r.End()
}
