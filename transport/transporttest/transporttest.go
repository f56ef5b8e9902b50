// Package transporttest is the suite that every transport passes, and the equipment for it: a [Proxy]
// that breaks, silences and slows TCP connections, [Wires] of such proxies between agents, and the
// proofs under attack that take longer, [Malformed] and [SlowSockets].
//
// The suite assumes of a transport what package transport promises, and no more: what one agent sends
// another arrives in that order, whichever the routes, and at most once; the frames of several senders
// mix in any order. When a path breaks, frames that were accepted may be lost, and a frame may be carried
// twice, which is for verification to refuse. [Run] says how it tests that.
package transporttest

import (
	"cmp"
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Run runs the suite. Each test gets a fabric of its own, which should use t.Cleanup to end what it
// started: once a test is over, no goroutine of it may be left, so Run must not run beside other tests. Tests that
// mostly wait, for what a fault leads to, run beside each other at the end; see [Main].
// One more fabric is made to see which faults it can make: the tests of a group are listed only if the
// fabric has the interface that the group needs.
func Run(t *testing.T, newFabric func(t *testing.T) Fabric) {
	tests, present, absent := choose(newFabric(t))
	t.Logf("groups that run: %s; the fabric has no interface for: %s", list(present), list(absent))
	expectNoLeak(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.waits {
				t.Parallel()
			} else {
				expectNoLeak(t)
			}
			test.run(t, newCast(t, newFabric(t)))
		})
	}
}

// Main runs the tests of a package that calls [Run], as goleak.VerifyTestMain does. It lets more tests wait
// beside each other than there are cores, unless the flag -parallel says how many.
func Main(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == parallelFlag })
	if !chosen {
		if err := flag.Set(parallelFlag, "8"); err != nil {
			panic(err) // package testing has it
		}
	}
	goleak.VerifyTestMain(m)
}

const parallelFlag = "test.parallel"

// test is one test of the suite.
type test struct {
	name string
	run  func(*testing.T, *cast)
}

// group is tests that need the same of a fabric.
type group struct {
	name  string
	fits  func(Fabric) bool
	waits bool // for the most part, so that others can run beside them
	tests []test
}

// chosen is a test of a group that a fabric fits.
type chosen struct {
	test
	waits bool
}

func always(Fabric) bool { return true }

func has[T any](f Fabric) bool {
	_, ok := f.(T)
	return ok
}

func groups() []group {
	return []group{
		{"contract", always, false, contractTests},
		{"order", always, false, orderTests},
		{"load", always, false, loadTests},
		{"away", always, true, awayTests},
		{"memory", always, false, memoryTests},
		{"pressure", always, true, pressureTests},
		{"large frames", has[Limits], false, sizeTests},
		{"cut", has[Cutter], true, cutTests},
		{"half-open", has[Staller], true, stallTests},
		{"stranded", has[Strander], true, strandTests},
		{"flapping", has[Flapper], true, flapTests},
		{"slow", has[Slower], true, slowTests},
		{"replay", has[Replayer], false, replayTests},
		{"reorder", has[Reorderer], false, reorderTests},
	}
}

// choose returns the tests that a fabric can run, and the names of the groups that run and that do not.
func choose(f Fabric) (tests []chosen, present, absent []string) {
	for _, g := range groups() {
		if g.fits(f) {
			for _, test := range g.tests {
				tests = append(tests, chosen{test, g.waits})
			}
			present = append(present, g.name)
		} else {
			absent = append(absent, g.name)
		}
	}
	return tests, present, absent
}

func list(names []string) string { return cmp.Or(strings.Join(names, ", "), "none") }

// expectNoLeak checks at the end of a test, after all that it cleans up, that its goroutines are gone.
func expectNoLeak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		var left error
		for deadline := time.Now().Add(patience); ; {
			if left = goleak.Find(before); left == nil {
				return
			}
			if t.Failed() || time.Now().After(deadline) {
				break
			}
		}
		t.Errorf("goroutines of the test are left: %v", left)
	})
}
