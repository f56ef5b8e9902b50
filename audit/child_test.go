package audit_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/converge-agents/converge/audit"
)

// child is a process that appends and syncs from several goroutines, and says which receipts are safe.
func child(dir string) int {
	c := config(dir)
	c.MaxSize, c.Keep = 64<<10, -1
	l, err := audit.Open(c)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 4 {
		go func() {
			for {
				seq, err := l.Append(&audit.Receipt{Kind: audit.KindCall, Subject: "s", Reason: strings.Repeat("r", 100)})
				if err == nil {
					err = l.Sync(context.Background(), seq)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("%d\n", seq)
			}
		}()
	}
	select {}
}

// killLoops kills processes that write to one log, from the kill with the number first on, and looks each time whether
// all is there that they have been told is safe.
func killLoops(t *testing.T, first, loops int) {
	dir := t.TempDir()
	safe, cuts := uint64(0), uint64(0)
	for i := first; i < first+loops; i++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_TEST_ROLE="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 20+i*37%100 {
				cmd.Process.Kill()
			}
			seq := uint64(0)
			if _, err := fmt.Sscan(lines.Text(), &seq); err != nil {
				break // the last line was cut
			}
			safe = max(safe, seq)
		}
		cmd.Wait()
		sum, err := audit.Verify(audit.Check{Key: key.ID()}, dir)
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		if sum.Signed < safe {
			t.Fatalf("after kill %d: receipt %d was acknowledged, and the last that is signed is %d", i, safe, sum.Signed)
		}
		if sum.TailBytes > 0 {
			cuts++
		}
	}
	told := uint64(0)
	l := open(t, config(dir))
	l.Close()
	for _, e := range entries(t, dir) {
		if e.Action == "recover" {
			told++
		}
	}
	if told != cuts {
		t.Errorf("%d tails were cut, and %d receipts say so", cuts, told)
	}
	t.Logf("killed %d times: %d receipts safe, %d tails cut", loops, safe, cuts)
}

func TestKilledAmidWritesLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	killLoops(t, 0, 5)
}
