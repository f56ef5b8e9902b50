package nats

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

const (
	// laneFresh is for how long after the last frame a recipient is taken to be there without asking.
	laneFresh = 5 * time.Second
	// lanePatience is after what time a sender asks whether a recipient that takes nothing in is still there.
	lanePatience = 250 * time.Millisecond
	// laneFrames bounds the frames that are on their way to one recipient.
	laneFrames = 4096
	// maxLanes bounds the recipients that an agent remembers. Beyond, idle ones are forgotten.
	maxLanes = 1 << 16
)

// lanes are one agent's ways to others.
//
// Before the first frame, a lane asks for a sign of life of the recipient's endpoint. From then on, the
// broker tells at the reply subject of each frame if nobody listens for it. At each half window a frame has a
// mark: the recipient's endpoint answers it when the agent has taken in all up to there. What a recipient
// that stops receiving has not taken in is therefore bounded by the window of each of its senders, wherever
// it is.
type lanes struct {
	core    *core
	prefix  string        // of the subjects of notices
	nowhere string        // a subject of notices that nobody looks at: it says from which endpoint a frame is
	window  int           // bytes
	life    time.Duration // after what time without an answer a recipient is taken to be away

	mu      sync.Mutex
	byID    map[identity.ID]*lane
	byToken map[string]*lane
}

// lane is the way to one recipient.
type lane struct {
	lanes   *lanes
	id      identity.ID
	token   string
	subject string // of its frames
	reply   string // of those without a mark

	mu      sync.Mutex
	fresh   time.Time // until then nobody asks
	onWay   load      // since the last mark that was answered
	since   load      // since the last mark
	marks   []mark    // that were not answered, oldest first
	last    uint64    // number of the last mark
	lives   uint64    // number of the last bare mark to which there was a sign of life
	absent  uint64    // number of the last bare mark for which nobody listened
	asked   time.Time // since when the recipient owes an answer; zero if it does not
	changed chan struct{}
}

// load is an amount of frames.
type load struct{ frames, bytes int }

func (l load) plus(o load) load  { return load{l.frames + o.frames, l.bytes + o.bytes} }
func (l load) minus(o load) load { return load{l.frames - o.frames, l.bytes - o.bytes} }

// part returns a part of the load, but not nothing.
func (l load) part(of int) load { return load{max(l.frames/of, 1), max(l.bytes/of, 1)} }

type mark struct {
	number uint64
	load   load // of the frames up to it, from the mark before
}

func newLanes(c *core) *lanes {
	prefix := c.subjects.notices(newNonce())
	return &lanes{
		core:    c,
		prefix:  prefix,
		nowhere: prefix + newToken(),
		window:  c.network.config.Window,
		life:    c.network.config.ConnectTimeout,
		byID:    map[identity.ID]*lane{},
		byToken: map[string]*lane{},
	}
}

// to returns the lane to a recipient.
func (ls *lanes) to(id identity.ID) *lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.byID[id]; l != nil {
		return l
	}
	if len(ls.byID) >= maxLanes {
		ls.forgetOne()
	}
	token := newToken()
	l := &lane{
		lanes: ls, id: id, token: token,
		subject: ls.core.subjects.agent(id),
		reply:   ls.prefix + token,
		changed: make(chan struct{}),
	}
	ls.byID[id], ls.byToken[token] = l, l
	return l
}

// forgetOne makes room: of some lanes, it forgets the one that was used least lately.
func (ls *lanes) forgetOne() {
	var oldest *lane
	looks := 0
	for _, l := range ls.byID { // in random order
		if oldest == nil || l.usedBefore(oldest) {
			oldest = l
		}
		if looks++; looks == 16 {
			break
		}
	}
	delete(ls.byID, oldest.id)
	delete(ls.byToken, oldest.token)
}

func (l *lane) usedBefore(o *lane) bool {
	l.mu.Lock()
	fresh := l.fresh
	l.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	return fresh.Before(o.fresh)
}

// reset forgets what is on its way: the connection was lost, and perhaps all that with it.
func (ls *lanes) reset() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.byID {
		l.mu.Lock()
		l.clear()
		l.mu.Unlock()
	}
}

// clear has the recipient asked for again; l.mu is held.
func (l *lane) clear() {
	l.fresh, l.asked = time.Time{}, time.Time{}
	l.onWay, l.since, l.marks = load{}, load{}, nil
	l.wake()
}

// wake tells those who wait to look again; l.mu is held.
func (l *lane) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// send sends a frame to a recipient that is there, when the window has room for it.
func (ls *lanes) send(ctx context.Context, id identity.ID, frame []byte) error {
	link, closed := ls.core.link, ls.core.endpoint.closed
	for {
		l := ls.to(id) // it may have been forgotten meanwhile
		changed, err := l.try(frame)
		switch err {
		case errStale:
			err = l.probe(ctx)
		case errFull:
			err = l.wait(ctx, changed)
		case errBroken:
			err = link.await(ctx, closed)
		default:
			return err
		}
		if err != nil {
			return err
		}
	}
}

var (
	errStale = errors.New("nobody knows whether the recipient is there")
	errFull  = errors.New("the window is full")
)

// try sends the frame if that is possible at once. Otherwise the error says what to wait for; for errFull,
// the channel is closed when it is worth another try.
func (l *lane) try(frame []byte) (changed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	step, now := load{1, len(frame)}, time.Now()
	switch {
	case !now.Before(l.fresh):
		return nil, errStale
	case !l.hasRoom(step):
		return l.changed, errFull
	}
	next := l.since.plus(step)
	marked := next.frames >= laneFrames/2 || next.bytes >= l.lanes.window/2
	reply := l.reply
	if marked {
		reply = l.markSubject(l.last+1, false)
	}
	if err := l.publish(reply, frame); err != nil {
		return nil, err
	}
	l.fresh = now.Add(laneFresh)
	l.onWay, l.since = l.onWay.plus(step), next
	if marked {
		l.marked()
	}
	return nil, nil
}

// hasRoom reports whether the window has room; a frame that is alone always has. l.mu is held.
func (l *lane) hasRoom(step load) bool {
	all := l.onWay.plus(step)
	return l.onWay.frames == 0 || all.frames <= laneFrames && all.bytes <= l.lanes.window
}

// markSubject returns where a mark is answered.
func (l *lane) markSubject(number uint64, bare bool) string {
	return l.lanes.prefix + notice{token: l.token, mark: number, bare: bare}.String()
}

// marked notes that the next mark is on its way; l.mu is held.
func (l *lane) marked() {
	l.last++
	l.marks = append(l.marks, mark{l.last, l.since})
	l.since = load{}
}

// publish sends to the recipient; l.mu is held, so that marks go out in their order.
func (l *lane) publish(reply string, frame []byte) error {
	return l.lanes.core.link.try(len(frame), func(conn *client.Conn) error {
		return conn.PublishRequest(l.subject, reply, frame)
	})
}

// publishMark sends a mark without a frame. It says who asks, so that the recipient does not have to ask back.
func (l *lane) publishMark(number uint64) error {
	m := &client.Msg{
		Subject: l.subject,
		Reply:   l.markSubject(number, true),
		Header:  client.Header{headerFrom: {l.lanes.core.endpoint.id.String()}},
	}
	return l.lanes.core.link.try(0, func(conn *client.Conn) error { return conn.PublishMsg(m) })
}

// seen notes that an agent is there, by its own account: if that is not so, the broker says so at the next
// frame.
func (ls *lanes) seen(id identity.ID) {
	ls.mu.Lock()
	known, full := ls.byID[id] != nil, len(ls.byID) >= maxLanes/2
	ls.mu.Unlock()
	if !known && full {
		return // what strangers say does not displace anything
	}
	l := ls.to(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh = time.Now().Add(laneFresh)
}

// ask sends a bare mark, so that the broker says if nobody listens, and the recipient that it is there. It
// returns the mark's number.
func (l *lane) ask() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.publishMark(l.last + 1); err != nil {
		return 0, err
	}
	l.marked()
	if l.asked.IsZero() {
		l.asked = time.Now()
	}
	return l.last, nil
}

// askAgain is ask by the mark that is on its way, if there is one and no frame came after it.
func (l *lane) askAgain() error {
	l.mu.Lock()
	if len(l.marks) > 0 && l.since.frames == 0 {
		defer l.mu.Unlock()
		return l.publishMark(l.last)
	}
	l.mu.Unlock()
	_, err := l.ask()
	return err
}

// probe asks whether the recipient is there. That costs a round trip.
func (l *lane) probe(ctx context.Context) error {
	core := l.lanes.core
	for attempt := 0; ; {
		err := l.question(ctx)
		switch err {
		case nil:
			return nil
		case errBroken:
			err = core.link.await(ctx, core.endpoint.closed)
		case errAbsent:
			err = core.link.spread(ctx, core.endpoint.closed, attempt)
			attempt++
		}
		if err != nil {
			return err
		}
	}
}

// errAbsent says that nobody listens for the recipient.
var errAbsent = errors.New("nobody listens")

// question asks whether the recipient is there, and waits for the answer.
func (l *lane) question(ctx context.Context) error {
	number, err := l.ask()
	if err != nil {
		return err
	}
	life := time.NewTimer(l.lanes.life)
	defer life.Stop()
	for {
		changed, answer := l.answer(number)
		if answer != errStale {
			return answer
		}
		if err := l.waitFor(ctx, changed, life.C); err != nil {
			return err
		}
	}
}

// answer returns what was answered to a bare mark: nil, errAbsent, or errStale if nothing was; then the
// channel is closed when it is worth another look.
func (l *lane) answer(number uint64) (changed <-chan struct{}, answer error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.absent >= number:
		return nil, errAbsent
	case l.lives >= number:
		l.fresh = time.Now().Add(laneFresh)
		return nil, nil
	default:
		return l.changed, errStale
	}
}

// waitFor waits for a change of the lane. When it is over, the recipient is taken to be away; when the
// connection breaks, the answer does not come.
func (l *lane) waitFor(ctx context.Context, changed <-chan struct{}, over <-chan time.Time) error {
	link := l.lanes.core.link
	lost, turned := link.state()
	if !lost.IsZero() {
		return errBroken
	}
	select {
	case <-changed:
		return nil
	case <-turned:
		return nil
	case <-over:
		return transport.ErrUnreachable
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.lanes.core.endpoint.closed:
		return transport.ErrClosed
	}
}

// wait waits until the window has room again, and asks from time to time whether the recipient is there; at
// once, if no mark is on its way that could be answered.
func (l *lane) wait(ctx context.Context, changed <-chan struct{}) error {
	patience := lanePatience
	if l.unmarked() {
		patience = 0
	}
	again := time.NewTimer(patience)
	defer again.Stop()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.lanes.core.endpoint.closed:
		return transport.ErrClosed
	case <-again.C:
	}
	l.doubt()
	if err := l.askAgain(); err != nil && err != errBroken {
		return err
	}
	return nil
}

// doubt has the recipient asked for again that was silent for too long.
func (l *lane) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.asked.IsZero() && time.Since(l.asked) > l.lanes.life {
		l.clear()
	}
}

func (l *lane) unmarked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.marks) == 0
}

// notice takes in what came to the subject of notices: the broker says that nobody listens, or a recipient
// that it took in all up to a mark.
func (ls *lanes) notice(m *client.Msg) {
	n, ok := parseNotice(strings.TrimPrefix(m.Subject, ls.prefix))
	ls.mu.Lock()
	l := ls.byToken[n.token]
	ls.mu.Unlock()
	switch {
	case !ok || l == nil:
	case isNoResponders(m):
		l.missed(n)
	case n.mark > 0:
		l.answered(n)
	}
}

func isNoResponders(m *client.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get("Status") == "503"
}

// missed notes that nobody listens for the recipient.
func (l *lane) missed(n notice) {
	if !n.bare {
		l.lanes.core.network.counters.lost.Inc()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.bare && n.mark <= l.last {
		l.absent = max(l.absent, n.mark)
	}
	l.clear()
}

// answered notes that the recipient is there, and took in all up to a mark unless it was a sign of life.
func (l *lane) answered(n notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.mark > l.last {
		return // a stranger's making
	}
	l.asked = time.Time{}
	if n.bare {
		l.lives = max(l.lives, n.mark)
	}
	for !n.alive && len(l.marks) > 0 && l.marks[0].number <= n.mark {
		l.onWay = l.onWay.minus(l.marks[0].load)
		l.marks = l.marks[1:]
	}
	l.wake()
}
