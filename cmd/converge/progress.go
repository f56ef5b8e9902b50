package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/converge-agents/converge/role"
)

// progressLine is standard error with, if it is a terminal, a line at the bottom that says how far the
// job is. Log lines go above it. It is safe for concurrent use.
type progressLine struct {
	file     *os.File
	terminal bool
	start    time.Time

	mu       sync.Mutex
	line     string // what is shown now
	last     time.Time
	stopping bool
}

func newProgressLine(f *os.File) *progressLine {
	return &progressLine{file: f, terminal: term.IsTerminal(int(f.Fd())), start: time.Now()}
}

const (
	// refresh spaces the redrawing of the line.
	refresh = 100 * time.Millisecond
	// eraseLine moves to the beginning of the line and erases it.
	eraseLine = "\r\x1b[K"
)

// show says how far the job is.
func (p *progressLine) show(now role.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping || time.Since(p.last) < refresh && !now.Done() {
		return
	}
	p.last = time.Now()
	p.draw(fmt.Sprintf("%d of %d tasks done, %d failed, %.0f s", now.Completed+now.Failed, now.Total, now.Failed, time.Since(p.start).Seconds()))
}

// stop says that the network is about to end.
func (p *progressLine) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
	p.draw("stopping: running tools get time to finish; interrupt again to end at once")
}

func (p *progressLine) draw(line string) {
	if p.terminal {
		p.line = line
		fmt.Fprint(p.file, eraseLine+line)
	}
}

// clear takes the line away.
func (p *progressLine) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line != "" {
		fmt.Fprint(p.file, eraseLine)
		p.line = ""
	}
}

// Write prints log lines above the progress line.
func (p *progressLine) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line == "" {
		return p.file.Write(text)
	}
	fmt.Fprint(p.file, eraseLine)
	n, err := p.file.Write(text)
	fmt.Fprint(p.file, p.line)
	return n, err
}
