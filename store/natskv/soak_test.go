//go:build soak && unix

package natskv_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

// Loops of TestKilledServerLosesNothingAcknowledged; NATSKV_LOOPS sets another number.
const killLoops = 1000

const (
	childDir = "NATSKV_CHILD_DIR" // says that this process is the child, and where its server stores
	workers  = 8
)

// acked is what a child reports after a change was acknowledged to it.
type acked struct {
	Key      string
	Round    int
	Revision store.Revision
	Deleted  bool
}

// TestSoakChild is no test of its own: it is the process that gets killed.
func TestSoakChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	o := server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: dir, SyncAlways: true, JetStreamMaxStore: 8 << 30}
	n, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	if !n.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	s := open(t, natskv.Config{JetStream: connect(t, n.ClientURL()), Bucket: "soak"})
	var reporting sync.Mutex
	report := func(a acked) {
		reporting.Lock()
		defer reporting.Unlock()
		json.NewEncoder(os.Stdout).Encode(a)
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() { churnForever(t, s, fmt.Sprint("soak/", w), report) })
	}
	all.Wait()
}

// churnForever changes an entry, and now and then deletes it, and reports what was acknowledged.
func churnForever(t *testing.T, s *natskv.Store, key string, report func(acked)) {
	ctx := context.Background()
	e, err := s.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
		return
	}
	round := 0
	fmt.Sscan(string(e.Value), &round)
	for rev := e.Revision; ; {
		round++
		if rev != 0 && round%7 == 0 {
			if err := s.Delete(ctx, key, rev); err != nil {
				t.Error(err)
				return
			}
			rev = 0
			report(acked{Key: key, Round: round, Deleted: true})
			continue
		}
		if rev, err = s.Put(ctx, key, fmt.Append(nil, round), rev); err != nil {
			t.Error(err)
			return
		}
		report(acked{Key: key, Round: round, Revision: rev})
	}
}

// TestKilledServerLosesNothingAcknowledged kills a process with server and store at random moments, and compares
// what it had been acknowledged with what is there afterwards.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	loops := killLoops
	fmt.Sscan(os.Getenv("NATSKV_LOOPS"), &loops)
	total := 0
	for loop := range loops {
		last, n := runAndKill(t, dir)
		total += n
		checkSurvivors(t, dir, last)
		if t.Failed() {
			t.Fatalf("after loop %d", loop)
		}
	}
	t.Logf("%d acknowledged changes in %d loops", total, loops)
}

func runAndKill(t *testing.T, dir string) (last map[string]acked, n int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestSoakChild$")
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	lines := bufio.NewReader(out)
	last = map[string]acked{}
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return last, n
		}
		var a acked
		if err != nil || json.Unmarshal(line, &a) != nil {
			t.Fatalf("the child says %q, %v", line, err)
		}
		last[a.Key] = a
		if n++; n == 1 {
			time.AfterFunc(rand.N(100*time.Millisecond), func() { child.Process.Kill() })
		}
	}
}

// checkSurvivors opens what the child left. An entry may be one change ahead of what was acknowledged, or of what
// the report of which was lost in the pipe: the changes of one key follow each other, so it is never behind.
func checkSurvivors(t *testing.T, dir string, last map[string]acked) {
	t.Helper()
	b := &broker{options: server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: dir, SyncAlways: true, JetStreamMaxStore: 8 << 30, DisableJetStreamBanner: true}}
	b.start(t)
	defer b.stop()
	js := b.connect(t)
	defer js.Conn().Close()
	s := open(t, natskv.Config{JetStream: js, Bucket: "soak"})
	defer s.Close()
	for key, a := range last {
		e, err := s.Get(t.Context(), key)
		round := 0
		fmt.Sscan(string(e.Value), &round)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if !a.Deleted && (a.Round+1)%7 != 0 {
				t.Errorf("%s is gone; acknowledged was %+v", key, a)
			}
		case err != nil:
			t.Errorf("%s: %v", key, err)
		case round < a.Round, round > a.Round+1, round == a.Round && !a.Deleted && e.Revision != a.Revision:
			t.Errorf("%s is %s at %d; acknowledged was %+v", key, e.Value, e.Revision, a)
		}
	}
}
