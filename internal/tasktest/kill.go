package tasktest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/store"
)

// livesOfAPlace is how often a process is killed on one store before what it left is finished and looked at.
const livesOfAPlace = 50

// Kills has a process work with tasks on a store, kills it with SIGKILL at random moments, and starts it again, so many
// times in all. The process is this test binary, which runs the calling test, and nothing else, as a child. It submits
// tasks with idempotency keys, claims them and ends them in several goroutines, all signed, follows the store, and says
// what it was told through a pipe.
//
// Now and then what is left is finished without kills. Then each task that was acknowledged has to be there, and every task
// has to be completed once, with the result of the winner of its last epoch; no epoch may have had two winners, and
// nobody may have seen a task again that was completed. After that it goes on in a new place.
//
// place names a new, empty store, in text that the child can open too; open opens the store of a place, in a process of
// which nothing is left when the store is closed and the test's cleanups have run, or which was killed.
func Kills(t *testing.T, loops int, place func(t *testing.T) string, open func(t *testing.T, place string) store.Store) {
	t.Helper()
	if at := os.Getenv(placeVariable); at != "" {
		live(t, open(t, at))
		return
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	total := newLedger(t)
	for left := loops; left > 0 && !t.Failed(); left -= livesOfAPlace {
		t.Run(fmt.Sprint("Loop", loops-left+1), func(t *testing.T) {
			k := &killer{t: t, test: name, place: place(t), ledger: newLedger(t)}
			for lives := min(left, livesOfAPlace); lives > 0; lives-- {
				if k.life(lives == 1); t.Failed() {
					return
				}
			}
			k.finish(open(t, k.place))
			total.add(k.ledger)
		})
	}
	t.Logf("%d kills: %d tasks were acknowledged, %d claims, %d ends; 0 lost, 0 completed twice",
		loops, total.submissions, total.claims, total.ends)
}

// killer runs a process on one place over and over.
type killer struct {
	t      *testing.T
	test   string
	place  string
	ledger *ledger
	told   bool // whether the process has said anything
}

// life runs the process, and takes down what it says until it is gone.
func (k *killer) life(last bool) {
	k.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+k.test+"$")
	cmd.Env = append(os.Environ(), placeVariable+"="+k.place, nextVariable+"="+k.ledger.next())
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		k.t.Fatal(err)
	}
	killed := make(chan struct{})
	early := rand.IntN(4) == 0 && (k.told || !last) // or there might be nothing to look at
	err = k.listen(out, early, sync.OnceFunc(func() { close(killed); cmd.Process.Kill() }))
	select {
	case <-killed:
	default:
		err = errors.Join(err, errors.New("it ended by itself"))
	}
	cmd.Wait()
	if err != nil {
		k.t.Errorf("the process: %v\n%s", err, complaints.Bytes())
	}
}

// listen has the process killed while it starts, or while it works, and reads to the end.
func (k *killer) listen(out io.Reader, early bool, kill func()) (err error) {
	defer time.AfterFunc(patience, kill).Stop()
	if early {
		defer time.AfterFunc(rand.N(100*time.Millisecond), kill).Stop()
	}
	told := 0
	for lines := bufio.NewReader(out); ; told++ {
		line, cut := lines.ReadString('\n')
		if cut != nil && told == 0 && !early {
			return errors.New("it has said nothing")
		}
		if cut != nil {
			return err // what is cut off was not told
		}
		k.told = true
		if told == 0 && !early {
			defer time.AfterFunc(rand.N(200*time.Millisecond), kill).Stop()
		}
		if err == nil {
			if err = k.ledger.take(line); err != nil {
				kill()
			}
		}
	}
}

// finish has what is left done, and looks at everything.
func (k *killer) finish(s store.Store) {
	k.t.Helper()
	defer s.Close()
	m := newCrew(k.t, s)
	m.workOff()
	k.ledger.check(m.all())
}
