package transporttest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/converge-agents/converge/identity"
)

var cutTests = []test{
	{"CutPathIsToldAndComesBack", testCut},
	{"SubscriptionsSurviveACut", testSubscriptionsSurvive},
	{"CutsUnderLoadDeliverOnceAndInOrder", testCutsUnderLoad},
}

var stallTests = []test{
	{"SilentPathIsNoticedAndComesBack", testSilence},
	{"PathSilentInOneDirectionIsNoticedAndComesBack", testSilenceOneWay},
}

var strandTests = []test{
	{"StrandedConnectionIsReplaced", testStrand},
	{"RestartedPeerReplacesItsStrandedConnection", testStrandAndRestart},
}

var flapTests = []test{{"FlappingPathDeliversOnceAndInOrder", testFlapping}}

var slowTests = []test{{"SlowPathLosesNothing", testSlow}}

// pair is two players who speak to each other, and a third whose paths are sound throughout.
type pair struct {
	t             *testing.T
	alice, bob    *player
	there, back   *stream
	aside, answer *stream // alice to carol and back
}

func (c *cast) pair(patterns ...string) *pair {
	c.t.Helper()
	alice, bob, carol := c.play(), c.play(patterns...), c.play()
	p := &pair{
		t: c.t, alice: alice, bob: bob,
		there: newStream(alice, bob), back: newStream(bob, alice),
		aside: newStream(alice, carol), answer: newStream(carol, alice),
	}
	p.flows()
	return p
}

// flows waits until the path is up in both directions, and then wants everything to arrive.
func (p *pair) flows() {
	p.t.Helper()
	p.there.through()
	p.back.through()
	p.there.pour(poured)
	p.back.pour(poured)
}

// noticed waits until both know that the path is gone, and checks that the third knows nothing of it.
func (p *pair) noticed() {
	p.t.Helper()
	p.there.unreachable()
	p.back.unreachable()
	p.undisturbed()
}

func (p *pair) undisturbed() {
	p.t.Helper()
	p.aside.pour(aside)
	p.answer.pour(aside)
}

func (p *pair) audit() {
	p.t.Helper()
	for _, s := range []*stream{p.there, p.back, p.aside, p.answer} {
		s.audit(true)
	}
}

// both returns the two agents.
func (p *pair) both() (a, b identity.ID) { return p.alice.id.ID(), p.bob.id.ID() }

func testCut(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Cutter)
	for range 2 {
		path.Cut(p.both())
		p.noticed()
		path.Heal(p.both())
		p.flows()
	}
	p.audit()
}

func testSubscriptionsSurvive(t *testing.T, c *cast) {
	p := c.pair("kept", "dropped", "new")
	path := c.fabric.(Cutter)
	p.bob.unsubscribe("new")
	path.Cut(p.both())
	p.noticed()
	p.bob.unsubscribe("dropped")
	p.bob.subscribe("new")
	path.Heal(p.both())
	p.flows()
	for _, topic := range []string{"kept", "new"} {
		p.there.topic = topic
		p.there.through()
		p.there.pour(10)
	}
	first := p.there.next
	p.there.topic = "dropped"
	if err := p.there.send(); err != nil {
		t.Errorf("Send to a topic: %v", err)
	}
	p.there.topic = ""
	p.there.pour(1)
	if got := p.bob.heardFrom(p.alice, first); len(got) != 1 {
		t.Error("a subscription that was ended during the cut goes on")
	}
	p.audit()
}

// pump sends on the streams until stop is called: thousands of messages a second, but not so many that
// signing them is all that the machine does.
func pump(t *testing.T, streams ...*stream) (stop func()) {
	var stopped atomic.Bool
	var pumping sync.WaitGroup
	for _, s := range streams {
		pumping.Go(func() {
			for i := 0; !stopped.Load() && !t.Failed(); i++ {
				if err := s.send(); err != nil || i%burst == 0 {
					pause()
				}
			}
		})
	}
	stop = func() { stopped.Store(true); pumping.Wait() }
	t.Cleanup(stop)
	return stop
}

// hears waits until n more messages of each stream have arrived.
func hears(t *testing.T, n int, streams ...*stream) {
	t.Helper()
	for _, s := range streams {
		before := len(s.to.heardFrom(s.from, 0))
		until(t, "messages arrive", func() bool { return len(s.to.heardFrom(s.from, 0)) >= before+n })
	}
}

func testCutsUnderLoad(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Cutter)
	for range cuts {
		stop := pump(t, p.there, p.back)
		hears(t, heard, p.there, p.back)
		path.Cut(p.both())
		p.undisturbed()
		path.Heal(p.both())
		hears(t, heard, p.there, p.back)
		stop()
	}
	p.flows()
	p.audit()
}

func testSilence(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Staller)
	a, b := p.both()
	path.Stall(a, b)
	path.Stall(b, a)
	p.noticed()
	path.Heal(a, b)
	p.flows()
	p.audit()
}

func testSilenceOneWay(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Staller)
	a, b := p.both()
	for range 2 { // whichever of them dials
		path.Stall(a, b)
		p.noticed()
		path.Heal(a, b)
		p.flows()
		a, b = b, a
	}
	p.audit()
}

func testStrand(t *testing.T, c *cast) {
	p := c.pair()
	for range 2 {
		c.fabric.(Strander).Strand(p.both())
		p.undisturbed()
		p.flows()
	}
	p.audit()
}

// testStrandAndRestart has bob die without a word: alice holds a connection to nobody when the new bob comes.
func testStrandAndRestart(t *testing.T, c *cast) {
	p := c.pair()
	c.fabric.(Strander).Strand(p.both())
	p.bob.close()
	p.there.audit(true)
	bob := c.listen(c.again(p.bob.actor))
	there, back := newStream(p.alice, bob), newStream(bob, p.alice)
	there.next, back.next = p.there.next, p.back.next
	there.through()
	back.through()
	there.pour(poured)
	back.pour(poured)
	there.audit(true)
	back.audit(true)
}

func testFlapping(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Flapper)
	a, b := p.both()
	const carried = 96 << 10
	p.there.size, p.back.size = 1<<10, 1<<10
	path.Flap(a, b, carried)
	stop := pump(t, p.there, p.back)
	hears(t, flapped, p.there, p.back) // some six connections' worth, or three
	stop()
	path.Heal(a, b)
	p.flows()
	p.undisturbed()
	p.audit()
}

func testSlow(t *testing.T, c *cast) {
	p := c.pair()
	path := c.fabric.(Slower)
	a, b := p.both()
	path.Slow(a, b, 128<<10)
	p.there.size = 4 << 10
	p.there.pour(48) // a second and a half
	p.back.pour(1)
	p.undisturbed()
	path.Heal(a, b)
	p.flows()
	if len(p.there.refused)+len(p.back.refused) > 0 {
		t.Error("Send returned an error on a path that was merely slow")
	}
	p.audit()
}
