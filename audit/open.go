package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/internal/ondisk"
)

// Open opens the log in a folder, or begins one. What a killed process left after its last checkpoint was not
// acknowledged to anybody: it is cut off, and a receipt says how much that was. The first receipts are on
// the disk when Open returns. Close the log.
//
// Errors: [ErrLocked] if somebody has it open; [ErrDamaged] if what checkpoints cover is not as it was written,
// or is signed with another key than Config.Key and Config.Next: such a log is left alone.
func Open(c Config) (*Log, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	l, err := openLog(c)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return l, nil
}

func openLog(c Config) (*Log, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := acquire(c.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		config: c, key: c.Key, kid: c.Key.ID(), lock: lock,
		notify: make(chan struct{}, 1), ended: make(chan struct{}), signed: make(chan struct{}),
	}
	l.room.L = &l.mu
	if err := l.recover(); err != nil {
		if l.disk != nil {
			l.disk.Close()
		}
		return nil, errors.Join(err, lock.Close())
	}
	go l.write()
	return l, nil
}

// recover finds the end of the log, and goes on from there.
func (l *Log) recover() error {
	lost, err := l.resume()
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.header.file == 0 {
		if err := l.initiate(); err != nil {
			l.mu.Unlock()
			return err
		}
	}
	if lost.bytes > 0 {
		l.note(Receipt{
			Action: "recover", Outcome: "cut", Count: lost.receipts, Input: lost.hash,
			Reason: fmt.Sprintf("%d receipts in %d bytes came after the last checkpoint, and nobody had been told that they were safe", lost.receipts, lost.bytes),
		})
		l.config.Logger.Warn("cut what came after the audit log's last checkpoint", "receipts", lost.receipts, "bytes", lost.bytes)
	}
	l.note(Receipt{Action: "open", Outcome: "ok", Subject: filepath.Base(l.files[len(l.files)-1].name)})
	l.mu.Unlock()
	j := l.take(true)
	if err := l.carryOut(&j); err != nil {
		return err
	}
	l.done(&j, nil)
	return nil
}

// initiate begins a new log; mu is held.
func (l *Log) initiate() error {
	l.header = header{key: l.key.PublicKey(), network: l.config.Network}
	rand.Read(l.header.log[:]) // never fails
	l.head, l.seq = zeroHash, 0
	f := l.begin()
	beginning := l.pending
	l.pending = nil
	f.size = int64(len(beginning))
	return l.start(f, beginning)
}

// loss is what was cut off.
type loss struct {
	receipts uint64
	bytes    int64
	hash     [32]byte // SHA-256 of it, of the last file that lost something
}

// resume takes up the log after its last checkpoint, if there is a log.
func (l *Log) resume() (lost loss, err error) {
	names, err := Files(l.config.Dir)
	if err != nil {
		return lost, err
	}
	for len(names) > 0 {
		name := names[len(names)-1]
		end, err := l.scan(name)
		if err != nil {
			return lost, err
		}
		if err := lost.cut(name, end); err != nil {
			return lost, err
		}
		if end.at > 0 {
			return lost, l.follow(names, end)
		}
		names = names[:len(names)-1]
	}
	return lost, nil
}

// ending is where the last checkpoint of a file ends.
type ending struct {
	at       int64 // offset; 0 if there is no checkpoint
	size     int64
	header   header
	seq      uint64
	hash     [32]byte
	covered  checkpoint
	receipts uint64 // after it
}

// scan reads a file up to its last checkpoint. What comes after that may be anything, as long as there is no
// other checkpoint.
func (l *Log) scan(name string) (e ending, err error) {
	v := &verifier{only: l.config.keys()}
	err = v.file(name)
	if bad, ok := errors.AsType[*BadRecord](err); ok {
		if later, searchErr := hasCheckpoint(name, bad.Offset); searchErr != nil || later {
			return e, l.damaged(errors.Join(bad, searchErr))
		}
	} else if err != nil {
		return e, err
	}
	if v.safe.at > 0 && v.sum.Network != l.config.Network {
		return e, advice.On(fmt.Errorf("it is of network %q, and this is %q", v.sum.Network, l.config.Network), "give each network an audit folder of its own")
	}
	e = v.safe
	e.header, e.receipts = v.head, uint64(v.sum.Tail)
	info, err := os.Stat(name)
	if err != nil {
		return e, err
	}
	e.size = info.Size()
	return e, nil
}

func (l *Log) damaged(err error) error {
	return advice.On(err, fmt.Sprintf("look at it with: converge audit verify %q; to begin a new log, move the folder elsewhere", l.config.Dir))
}

// hasCheckpoint reports whether something that looks like a checkpoint is in a file from an offset on.
func hasCheckpoint(name string, from int64) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	rest, err := io.ReadAll(io.NewSectionReader(f, from, 1<<62))
	return bytes.Contains(rest, []byte(checkpointTyp)), err
}

// cut cuts a file after its last checkpoint, and removes one that has none.
func (lost *loss) cut(name string, e ending) error {
	if e.at > 0 && e.size == e.at {
		return nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, e.at, e.size-e.at)); err != nil {
		return err
	}
	lost.hash = [32]byte(sum.Sum(nil))
	lost.receipts += e.receipts
	lost.bytes += e.size - e.at
	if e.at == 0 {
		f.Close()
		return errors.Join(os.Remove(name), ondisk.SyncDir(filepath.Dir(name)))
	}
	return errors.Join(f.Truncate(e.at), f.Sync())
}

// follow goes on after the last checkpoint of the last file.
func (l *Log) follow(names []string, e ending) (err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		f := logFile{name: name, size: info.Size()}
		fmt.Sscanf(filepath.Base(name), "%d", &f.first)
		l.files = append(l.files, f)
	}
	l.header, l.head, l.seq, l.synced = e.header, e.hash, e.seq, e.covered
	if next := l.config.Next; next != nil && next.ID() == e.header.keyID() {
		l.key, l.kid = next, next.ID()
	}
	l.disk, err = l.config.create(names[len(names)-1], os.O_WRONLY|os.O_APPEND)
	return err
}
