package transporttest

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestSoundTransportPasses(t *testing.T) {
	Run(t, func(t *testing.T) Fabric { return newLab(t, Blocks, 0, nil) })
}

func TestOtherPoliciesPass(t *testing.T) {
	for name, policy := range map[string]Overflow{"Refuses": Refuses, "Sheds": Sheds} {
		t.Run(name, func(t *testing.T) {
			for _, test := range memoryTests {
				t.Run(test.name, func(t *testing.T) { test.run(t, newCast(t, newLab(t, policy, 0, nil))) })
			}
			for _, test := range pressureTests {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t, newCast(t, newLab(t, policy, 0, nil)))
				})
			}
		})
	}
}

func TestEveryTestOfTheSuiteCatchesADefect(t *testing.T) {
	tests, _, absent := choose(newLab(t, Blocks, 0, nil))
	if len(absent) > 0 {
		t.Errorf("the lab has no interface for %q", absent)
	}
	tests = append(tests, chosen{test: test{name: "Malformed"}})
	for _, test := range tests {
		caught := slices.ContainsFunc(defects, func(d defect) bool { return slices.Contains(d.caughtBy, test.name) })
		if !caught {
			t.Errorf("no defect shows that %s can fail", test.name)
		}
	}
	for _, d := range defects {
		for _, name := range d.caughtBy {
			if !slices.ContainsFunc(tests, func(c chosen) bool { return c.name == name }) {
				t.Errorf("%q is to be caught by %s, which does not exist", d.name, name)
			}
		}
	}
}

// defectVariable names the defect that TestDefect shows; it is set in the processes that TestSuiteCatches
// starts.
const defectVariable = "CONVERGE_TRANSPORTTEST_DEFECT"

// TestDefect runs the suite on a transport that has a defect, and so fails. It does nothing in an
// ordinary run.
func TestDefect(t *testing.T) {
	name := os.Getenv(defectVariable)
	i := slices.IndexFunc(defects, func(d defect) bool { return d.name == name })
	if i < 0 {
		return
	}
	patience = time.Second
	d := defects[i]
	Run(t, func(t *testing.T) Fabric { return newLab(t, d.policy, d.capacity, d.install) })
	t.Run("Malformed", func(t *testing.T) { // no test of the suite, but caught likewise
		Malformed(t, newLab(t, d.policy, d.capacity, d.install), MalformedConfig{Frames: 2000})
	})
}

// TestSuiteCatches runs the tests that have to fail on a defect, each in a process of its own. Those mostly
// wait, so that many run at once.
func TestSuiteCatches(t *testing.T) {
	var trials []*trial
	var running sync.WaitGroup
	atOnce := make(chan struct{}, 8)
	for _, d := range defects {
		for _, name := range d.caughtBy {
			r := &trial{defect: d.name, test: name}
			trials = append(trials, r)
			running.Go(func() {
				atOnce <- struct{}{}
				defer func() { <-atOnce }()
				r.run(t.Context())
			})
		}
	}
	running.Wait()
	for _, r := range trials {
		t.Run(r.defect+"/"+r.test, r.check)
	}
}

// trial is one test on a transport with one defect.
type trial struct {
	defect, test string
	output       string
	err          error
}

func (r *trial) run(ctx context.Context) {
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDefect$/^"+r.test+"$", "-test.v", "-test.timeout=2m")
	child.Env = append(os.Environ(), defectVariable+"="+r.defect, "GORACE=atexit_sleep_ms=0") // it need not wait a second at its end
	output, err := child.CombinedOutput()
	r.output, r.err = string(output), err
}

func (r *trial) check(t *testing.T) {
	t.Log(r.output)
	if !strings.Contains(r.output, "=== RUN   TestDefect/"+r.test) {
		t.Errorf("the test did not run: %v", r.err)
	} else if !strings.Contains(r.output, "--- FAIL: TestDefect/"+r.test) {
		t.Errorf("no orderly failure on a transport that %s: %v", r.defect, r.err)
	}
}
