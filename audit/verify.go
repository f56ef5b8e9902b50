package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// Check says what [Verify] is to hold files to, beyond what they say of themselves.
type Check struct {
	// Key is the ID of the key that has to have signed: up to the last checkpoint, or up to where it has named the key
	// after it ([Log.RotateKey]). Of a log whose key has changed any of its keys will do. The latest says most, since its
	// checkpoints cover all that is before: whoever has stolen an earlier one can make another log, and this one not.
	// Zero takes the key that the files name, so that they are consistent, but anybody can have made them.
	Key identity.ID
	// Head is the hash of a receipt that has to be there, such as the one that a process printed when it ended.
	// Zero does not ask for any. Without it nobody can tell that the end of the last file is missing.
	Head [32]byte
	// Each, if set, is called for each receipt, in their order, and ends the reading with its error. It may keep
	// the entry, but for Content, which is valid until it returns.
	Each func(*Entry) error
}

// Entry is a receipt and where it is.
type Entry struct {
	Receipt
	Seq    uint64
	File   string
	Offset int64
	Hash   [32]byte // of the chain, after this receipt
}

// Summary is what files say of themselves, once that is verified.
type Summary struct {
	Log         [16]byte
	Network     string
	Key         identity.ID // of the last checkpoint
	Rotations   []Rotation  // that led to it, from the first key on
	Files       int
	First, Last uint64 // sequence numbers of the first and the last receipt; First is above Last if there is none
	Earlier     bool   // the files before the first one are not here: they were removed, or not given
	Checkpoints int

	// What the last checkpoint covers: everything up to the receipt Signed.
	Signed     uint64
	Head       [32]byte
	SignedTime time.Time

	// What comes after it in the last file, which nobody vouches for.
	Tail      int   // whole receipts
	TailBytes int64 // all bytes
}

// errHead says that a receipt that was there is not there.
var errHead = errors.New("no signed receipt has the hash that was asked for: the log was cut or rewritten")

// Verify reads the files of one log, given in any order, and reports the first place where they are not as the
// log has written them, as a [*BadRecord]. A folder stands for the files in it. It needs memory for one record, whatever the
// size of the files. It is safe to verify a log that is being written.
func Verify(c Check, files ...string) (Summary, error) {
	v := &verifier{check: c}
	sources, err := order(files)
	if err != nil {
		return Summary{}, err
	}
	if err := v.expectKey(sources); err != nil {
		return Summary{}, err
	}
	for _, s := range sources {
		if err := v.file(s.name); err != nil {
			return v.sum, err
		}
	}
	if v.check.Key != (identity.ID{}) && v.sum.Checkpoints > 0 && !v.signed {
		return v.sum, &BadRecord{File: v.name, Offset: v.end, Seq: v.sum.Last, Err: errNotYet}
	}
	if v.check.Head != zeroHash && !v.found {
		return v.sum, &BadRecord{File: v.name, Offset: v.end, Seq: v.sum.Last, Err: errHead}
	}
	return v.sum, nil
}

// Suffix is how the names of audit files end.
const Suffix = ".audit"

// Files returns the audit files in a folder, the oldest first.
func Files(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), Suffix) {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// listed is a file and what it says of itself.
type listed struct {
	name   string
	header header
	offset int64 // of the header
}

// order returns files, and those in folders, by their numbers in their log.
func order(files []string) (all []listed, err error) {
	names, err := expand(files)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		s, err := openSource(name)
		if err != nil {
			if i == len(names)-1 && i > 0 && errors.Is(err, errTorn) { // a process was killed while it began the file
				continue
			}
			return nil, err
		}
		s.file.Close()
		all = append(all, listed{name, s.header, s.frame.offset})
	}
	slices.SortStableFunc(all, func(a, b listed) int { return cmp.Compare(a.header.file, b.header.file) })
	return all, nil
}

// expectKey looks whether the files name the key that they are to be signed with at all.
func (v *verifier) expectKey(all []listed) error {
	if v.check.Key == (identity.ID{}) || slices.ContainsFunc(all, func(l listed) bool { return l.header.names(v.check.Key) }) {
		return nil
	}
	first := &all[0]
	return &BadRecord{
		File: first.name, Offset: first.offset, Seq: first.header.first,
		Err: fmt.Errorf("%w: it names %s", errKey, all[len(all)-1].header.keyID()),
	}
}

func expand(files []string) (names []string, err error) {
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		if !info.IsDir() {
			names = append(names, name)
			continue
		}
		inside, err := Files(name)
		if err != nil {
			return nil, err
		}
		names = append(names, inside...)
	}
	if len(names) == 0 {
		return nil, errors.New("read audit log: there are no files")
	}
	return names, nil
}

// verifier is what is known of a log so far.
type verifier struct {
	check Check
	sum   Summary
	name  string   // of the current file
	head  header   // of the current file
	hash  [32]byte // of the chain
	end   int64    // of what was read of the current file
	seen  bool     // the receipt of Check.Head was
	found bool     // and a checkpoint covers it
	again []byte   // memory
	safe  ending   // of the last checkpoint

	changes   []change      // of the key, up to that of the current file
	rotations []Rotation    // the same
	named     bool          // Check.Key is that of the current file, or has led to it
	signed    bool          // a checkpoint by Check.Key, or by one that came after it
	only      []identity.ID // the keys that files may be signed with; none for all
}

func (v *verifier) bad(offset int64, err error) error {
	return &BadRecord{File: v.name, Offset: offset, Seq: v.sum.Last + 1, Err: err}
}

// Errors of how files follow each other.
var (
	errUnclosed = errors.New("the file ends without a checkpoint, and a later file is there: its end is missing")
	errMissing  = errors.New("files in between are missing")
	errTwice    = errors.New("the file is there twice")
	errOther    = errors.New("the file belongs to another log")
	errSplice   = errors.New("the file does not follow the one before it: their hashes differ")
	errKey      = errors.New("the log is signed with another key than the one asked for")
	errNotYet   = errors.New("no checkpoint is signed with the key that was asked for, nor with one that came after it")
)

// file reads one file to its end.
func (v *verifier) file(name string) error {
	if v.sum.Files > 0 && v.sum.TailBytes > 0 {
		return v.bad(v.end-v.sum.TailBytes, errUnclosed)
	}
	s, err := openSource(name)
	if err != nil {
		return err
	}
	defer s.file.Close()
	if err := v.begin(s); err != nil {
		return err
	}
	for {
		f, err := s.reader.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errTorn) { // of the last file, that is what a killed process leaves
			return v.tail(s)
		}
		if err == nil {
			err = v.frame(&f)
		}
		if err != nil {
			if own, ok := errors.AsType[*callerError](err); ok {
				return own.error
			}
			return v.bad(f.offset, err)
		}
		if v.end = s.reader.at; v.sum.TailBytes == 0 {
			v.safe.at, v.safe.seq, v.safe.hash = v.end, v.sum.Last, v.hash
		}
	}
}

// tail takes in that the file ends within a record.
func (v *verifier) tail(s *source) error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	v.sum.TailBytes += max(info.Size()-v.end, 1)
	v.end = info.Size()
	return nil
}

// begin takes in the header of a file.
func (v *verifier) begin(s *source) error {
	h := &s.header
	first := v.sum.Files == 0
	last := v.head.file
	v.name, v.end = s.name, s.reader.at
	at := func(err error) error { return &BadRecord{File: s.name, Offset: s.frame.offset, Seq: h.first, Err: err} }
	switch {
	case len(v.only) > 0 && !slices.Contains(v.only, h.keyID()):
		return at(fmt.Errorf("%w: it names %s", errKey, h.keyID()))
	case first:
		v.sum = Summary{Log: h.log, Network: h.network, First: h.first, Last: h.first - 1, Earlier: h.file > 1}
	case h.log != v.sum.Log || h.network != v.sum.Network:
		return at(errOther)
	case h.file == last:
		return at(errTwice)
	case h.file != last+1:
		return at(fmt.Errorf("%w: file %d of the log comes after file %d", errMissing, h.file, last))
	case h.first != v.sum.Last+1 || h.previous != v.hash:
		return at(errSplice)
	}
	if err := v.follow(h, first); err != nil {
		return at(err)
	}
	if v.sum.Checkpoints == 0 {
		v.sum.Key, v.sum.Rotations = h.keyID(), v.rotations
	}
	v.head, v.hash = *h, s.frame.hash
	v.sum.Files++
	v.sum.TailBytes += frameSize + int64(len(s.frame.record))
	return nil
}

func (v *verifier) frame(f *frame) error {
	before := v.hash
	if v.hash = chain(&before, f.record); v.hash != f.hash {
		return errHash
	}
	r, kind, err := open(f.record)
	if err != nil {
		return err
	}
	v.sum.TailBytes += frameSize + int64(len(f.record))
	switch kind {
	case typeReceipt:
		seq := r.Uint()
		if seq != v.sum.Last+1 {
			return fmt.Errorf("receipt %d is here instead", seq)
		}
		return v.receipt(f, seq)
	case typeCheckpoint:
		raw := r.Bytes()
		if err := r.End(); err != nil {
			return err
		}
		return v.checkpoint(raw, &before)
	}
	return errType
}

// callerError is an error of Check.Each.
type callerError struct{ error }

func (v *verifier) receipt(f *frame, seq uint64) (err error) {
	e := &Entry{Seq: seq, File: v.name, Offset: f.offset, Hash: f.hash}
	if e.Receipt, v.again, err = decodeEntry(f.record, v.again); err != nil {
		return err
	}
	if err := checkCauses(e.Causes, seq-1); err != nil {
		return err
	}
	v.sum.Last = seq
	v.sum.Tail++
	v.seen = v.seen || f.hash == v.check.Head
	if v.check.Each != nil {
		if err := v.check.Each(e); err != nil {
			return &callerError{err}
		}
	}
	return nil
}

// Errors of checkpoints.
var (
	errWrongLog   = errors.New("the checkpoint is of another log")
	errWrongPlace = errors.New("the checkpoint is of another place in the log, or what is before it was changed")
)

func (v *verifier) checkpoint(raw []byte, before *[32]byte) error {
	c, err := decodeCheckpoint(raw, &v.head)
	switch {
	case err != nil:
		return err
	case c.log != v.sum.Log || c.network != v.sum.Network:
		return errWrongLog
	case c.seq != v.sum.Last || c.head != *before:
		return errWrongPlace
	}
	v.sum.Checkpoints++
	v.sum.Key, v.sum.Rotations = v.head.keyID(), v.rotations
	v.signed = v.signed || v.named
	v.sum.Signed, v.sum.Head, v.sum.SignedTime = c.seq, *before, cose.ToTime(c.time)
	v.sum.Tail, v.sum.TailBytes, v.safe.covered = 0, 0, c
	v.found = v.found || v.seen || *before == v.check.Head
	return nil
}
