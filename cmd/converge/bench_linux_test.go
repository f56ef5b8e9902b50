package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestBenchOnATerminal interrupts a measurement that would take half an hour.
func TestBenchOnATerminal(t *testing.T) {
	t.Parallel()
	x := newTerminal(t)
	p := &process{t: t, tmp: t.TempDir()}
	p.cmd = exec.CommandContext(t.Context(), "converge", "bench", "--transport", "local", "--signature", "all", "--messages", "1800", "--rate", "1")
	p.cmd.Env = []string{"TMPDIR=" + p.tmp, "GORACE=" + raceOptions}
	p.cmd.Stdout = &p.stdout
	p.cmd.Stderr = x.tty
	check(t, p.cmd.Start())
	check(t, x.tty.Close())

	x.await(eraseLine + "bench local batch: ")
	x.await(" of 1980 messages, ")
	p.signal(os.Interrupt)
	x.rest()
	p.end(exitInterrupted)
	lines := strings.Split(strings.TrimSpace(x.screen()), "\n")
	if last := lines[len(lines)-1]; len(lines) != 1 || !strings.HasPrefix(last, "converge: bench local batch: interrupted: ") || !strings.HasSuffix(last, " of 1980 messages had arrived") {
		t.Errorf("the terminal shows %q, want that the measurement was interrupted and nothing else", lines)
	}
	if p.stdout.Len() > 0 {
		t.Errorf("an interrupted measurement printed %q", p.stdout.String())
	}
}
