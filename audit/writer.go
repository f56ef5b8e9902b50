package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/ondisk"
)

// disk is the current file.
type disk interface {
	Write(p []byte) (int, error)
	Sync() error
	Close() error
}

func openDisk(name string, flags int) (disk, error) { return os.OpenFile(name, flags, 0o600) }

// logFile is a file of the log.
type logFile struct {
	name  string
	first uint64 // receipt
	size  int64
}

// job is what the writer does at once.
type job struct {
	frames []byte // for the current file
	sync   bool   // then they end with a checkpoint
	signed checkpoint
	next   []byte // the file after it; nil if there is none
	file   logFile
	doomed []logFile // removed once it is on the disk that they are
	turn   *turn     // to another key; nil if there is none
	last   bool
}

// write moves what is appended to the disk until the log is closed. While there is nothing new, it waits.
func (l *Log) write() {
	defer close(l.ended)
	timer := time.NewTimer(l.config.Interval)
	timer.Stop()
	armed := false
	for {
		due := false
		select {
		case <-l.notify:
		case <-timer.C:
			due, armed = true, false
		}
		j := l.take(due)
		l.done(&j, l.carryOut(&j))
		if j.last {
			l.end()
			return
		}
		if !armed && l.isDirty() {
			timer.Reset(l.config.Interval)
			armed = true
		}
	}
}

// isDirty reports whether there is something that no checkpoint covers.
func (l *Log) isDirty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsigned > 0 && l.broken == nil
}

// take returns what is to be done now: a sync if one is due, asked for or the last one, and otherwise a write
// if that is worth it.
func (l *Log) take(due bool) (j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j.last = l.closing
	if l.broken == nil && !j.last && l.turn != nil {
		l.changeKey(&j)
		return j
	}
	if l.broken != nil || l.unsigned == 0 {
		return j
	}
	j.sync = due || j.last || l.asked > l.synced.seq
	if !j.sync && len(l.pending) < eager {
		return j
	}
	full := l.files[len(l.files)-1].size+int64(len(l.pending)) >= l.config.MaxSize
	if j.sync = j.sync || full; j.sync {
		j.signed = l.sign()
	}
	j.frames, l.pending = l.pending, l.spare[:0]
	l.spare = nil
	if full && !j.last {
		l.rotate(&j)
	}
	l.room.Broadcast()
	return j
}

// sign adds a checkpoint over everything so far; mu is held.
func (l *Log) sign() checkpoint {
	c := checkpoint{network: l.header.network, log: l.header.log, seq: l.seq, head: l.head, time: time.Now().UnixNano()}
	buf, start := beginFrame(l.pending)
	l.pending = endFrame(c.append(buf, l.key, &l.kid), start, &l.head)
	l.unsigned = 0
	return c
}

// begin adds the beginning of a file; mu is held.
func (l *Log) begin() logFile {
	l.header.file++
	l.header.first, l.header.previous, l.header.created = l.seq+1, l.head, time.Now().UnixNano()
	buf, start := beginFrame(append(l.pending, magic...))
	l.pending = endFrame(l.header.append(buf), start, &l.head)
	l.unsigned++
	return logFile{name: filepath.Join(l.config.Dir, fmt.Sprintf("%016d%s", l.header.first, Suffix)), first: l.header.first}
}

// rotate has the job end the current file and begin the next one, and remove those that are too many; mu is
// held, and nothing is pending.
func (l *Log) rotate(j *job) {
	j.file = l.begin()
	if j.turn != nil {
		l.note(j.turn.done())
	}
	j.doomed = l.tooMany(int64(len(j.frames)))
	for i, f := range j.doomed {
		after := append(l.files[i+1:], j.file)[0]
		l.note(Receipt{
			Action: "remove", Outcome: "ok", Subject: filepath.Base(f.name),
			Reason: fmt.Sprintf("receipts %d to %d, %d bytes: all files together may have %d", f.first, after.first-1, f.size, l.config.Keep),
		})
	}
	j.signed = l.sign()
	j.next, l.pending = l.pending, nil
	j.file.size = int64(len(j.next))
}

// tooMany returns the oldest files, as many as have to go so that a whole new one has room beside the rest,
// the current one included.
func (l *Log) tooMany(pending int64) []logFile {
	if l.config.Keep < 0 {
		return nil
	}
	sum := pending + l.config.MaxSize
	for _, f := range l.files {
		sum += f.size
	}
	n := 0
	for ; n < len(l.files)-1 && sum > l.config.Keep; n++ {
		sum -= l.files[n].size
	}
	return l.files[:n:n]
}

// carryOut does a job. After an error the files are in a state that only opening the log again can tell.
func (l *Log) carryOut(j *job) error {
	if len(j.frames) == 0 {
		return nil
	}
	current := &l.files[len(l.files)-1]
	n, err := l.disk.Write(j.frames)
	if current.size += int64(n); err == nil && j.sync {
		err = l.disk.Sync()
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", current.name, err)
	}
	if j.next == nil {
		return nil
	}
	if err := l.disk.Close(); err != nil {
		return fmt.Errorf("close %q: %w", current.name, err)
	}
	if err := l.start(j.file, j.next); err != nil {
		return err
	}
	l.remove(j.doomed)
	return nil
}

// start makes the next file, with its beginning.
func (l *Log) start(f logFile, beginning []byte) (err error) {
	l.disk, err = l.config.create(f.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND)
	if err != nil {
		l.disk = nil
		return fmt.Errorf("begin audit file: %w", err)
	}
	_, err = l.disk.Write(beginning)
	if err == nil {
		err = l.disk.Sync()
	}
	if err == nil {
		err = ondisk.SyncDir(l.config.Dir)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", f.name, err)
	}
	l.files = append(l.files, f)
	return nil
}

// remove removes files. What cannot be removed now is tried again with the next file.
func (l *Log) remove(doomed []logFile) {
	for _, f := range doomed {
		if err := os.Remove(f.name); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.config.Logger.Warn("cannot remove an old audit file", "error", err)
			return
		}
		l.files = l.files[1:]
		l.mu.Lock()
		l.stats.Removed++
		l.mu.Unlock()
	}
}

// done takes in how a job has ended, and tells those who wait.
func (l *Log) done(j *job, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.fail(err)
	}
	l.answer(j)
	if err != nil {
		return
	}
	l.stats.Bytes += uint64(len(j.frames) + len(j.next))
	if cap(j.frames) <= 2*l.config.Buffer && l.spare == nil {
		l.spare = j.frames
	}
	if !j.sync {
		return
	}
	l.synced = j.signed
	l.stats.Syncs++
	l.stats.LastSync = cose.ToTime(j.signed.time)
	l.stats.Synced = l.stats.Receipts - uint64(l.seq-l.synced.seq)
	l.tell()
}

// tell wakes those who wait for a sync; mu is held.
func (l *Log) tell() {
	close(l.signed)
	l.signed = make(chan struct{})
}

// fail ends the log; mu is held.
func (l *Log) fail(err error) {
	l.broken = fmt.Errorf("%w: %w", ErrBroken, err)
	l.stats.Broken = true
	l.pending = nil
	l.tell()
	l.room.Broadcast()
	l.config.Logger.Error("the audit log is broken: what needs a receipt is refused from now on", "error", err)
}

// end lets go of the files.
func (l *Log) end() {
	var err error
	if l.disk != nil {
		err = l.disk.Close()
	}
	if err = errors.Join(err, l.lock.Close()); err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = fmt.Errorf("%w: close: %w", ErrBroken, err)
	}
}
