package held_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/held"
)

func TestEachKindIsCounted(t *testing.T) {
	before := settled(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	go func() { <-stop }()
	program := exec.Command("sh", "-c", "sh -c 'echo; read x; exit 0'; exit 0") // a child and a grandchild
	in, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	program.Stdout = w
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	now := held.Now(t)
	if now.Goroutines != before.Goroutines+1 || now.Processes != before.Processes+2 || now.Descriptors < before.Descriptors+3 {
		t.Errorf("%v before, %v now", before, now)
	}
	close(stop)
	in.Close()
	if err := program.Wait(); err != nil {
		t.Error(err)
	}
	r.Close()
	w.Close()
	before.Plus(held.Held{Descriptors: 2}).AtMost(t) // what the runtime polls with, once it does
}

// settled looks until nothing changes any more: what an earlier test has ended takes a moment to be gone.
func settled(t *testing.T) held.Held {
	t.Helper()
	before := held.Now(t)
	for range 500 {
		time.Sleep(10 * time.Millisecond)
		now := held.Now(t)
		if now == before {
			break
		}
		before = now
	}
	return before
}
