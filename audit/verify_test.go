package audit_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/internal/cose"
)

// flip reports where a file with one bit changed is bad.
func flip(t *testing.T, path string, file []byte, bit int) error {
	t.Helper()
	file[bit/8] ^= 1 << (bit % 8)
	defer func() { file[bit/8] ^= 1 << (bit % 8) }()
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Verify(audit.Check{Key: key.ID()}, path)
	if err == nil {
		t.Errorf("bit %d of byte %d flipped: nobody minds", bit%8, bit/8)
	} else if bad := wantBad(t, err, "flipped bit"); bad.Offset > int64(bit/8) {
		t.Errorf("bit %d of byte %d flipped: found at %d", bit%8, bit/8, bad.Offset)
	}
	return err
}

// TestEveryFlippedBitIsFound flips each bit of a small log; with the race detector, one of each byte, in turn.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	file := must(os.ReadFile(written(t, config(t.TempDir()), 1)[0]))
	const shares = 2
	for share := range shares {
		t.Run(strconv.Itoa(share), func(t *testing.T) {
			t.Parallel()
			path, mine := filepath.Join(t.TempDir(), "flipped.audit"), bytes.Clone(file)
			for at := share; at < len(mine); at += shares {
				for i := range flipsOfAByte {
					flip(t, path, mine, 8*at+(at/shares+i)%8)
				}
			}
		})
	}
}

func TestFlippedBitsOfALargeLogAreFound(t *testing.T) {
	t.Parallel()
	file := must(os.ReadFile(written(t, config(t.TempDir()), largeLog)[0]))
	path := filepath.Join(t.TempDir(), "flipped.audit")
	random := rand.New(rand.NewPCG(1, 2))
	for range largeFlips {
		flip(t, path, file, random.IntN(8*len(file)))
	}
}

func TestFlippedBitIsFoundInItsReceipt(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	name := written(t, c, 20)[0]
	file := must(os.ReadFile(name))
	for _, e := range entries(t, name) {
		bad := wantBad(t, flip(t, filepath.Join(t.TempDir(), "x.audit"), file, 8*int(e.Offset+40)), "flipped bit")
		if bad.Seq != e.Seq || bad.Offset != e.Offset {
			t.Errorf("a bit of receipt %d at %d was flipped, and %d at %d is told", e.Seq, e.Offset, bad.Seq, bad.Offset)
		}
	}
}

// rotated returns the files of a log that has several.
func rotated(t *testing.T) []string {
	t.Helper()
	c := config(t.TempDir())
	c.MaxSize, c.Keep = audit.MinMaxSize, -1
	files := written(t, c, 200)
	if len(files) < 4 {
		t.Fatalf("only %d files", len(files))
	}
	return files
}

func TestFilesMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	files := rotated(t)
	want := must(audit.Verify(audit.Check{}, files...))
	slices.Reverse(files)
	if got := must(audit.Verify(audit.Check{}, files...)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, and in reverse %+v", want, got)
	}
	if some := must(audit.Verify(audit.Check{}, files[0], files[1])); !some.Earlier || some.Last != want.Last {
		t.Errorf("the last two: %+v", some)
	}
}

func TestMissingFileIsFound(t *testing.T) {
	t.Parallel()
	files := rotated(t)
	for i := 1; i < len(files)-1; i++ {
		_, err := audit.Verify(audit.Check{}, slices.Delete(slices.Clone(files), i, i+1)...)
		if bad := wantBad(t, err, "missing file"); bad.File != files[i+1] || !strings.Contains(bad.Error(), "missing") {
			t.Errorf("file %d is missing: %v", i, err)
		}
	}
	_, err := audit.Verify(audit.Check{}, files[0], files[1], files[1])
	wantBad(t, err, "the same file twice")
}

// TestTruncationIsFound cuts files at every byte behind which something is known to have been.
func TestTruncationIsFound(t *testing.T) {
	t.Parallel()
	files := rotated(t)
	sum := must(audit.Verify(audit.Check{}, files...))
	for _, which := range []int{1, len(files) - 1} {
		dir := t.TempDir()
		copies := copyTo(t, dir, files...)
		file := must(os.ReadFile(files[which]))
		for n := 0; n < len(file); n += truncationStep {
			if err := os.WriteFile(copies[which], file[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := audit.Verify(audit.Check{Head: sum.Head}, copies...); err == nil {
				t.Fatalf("file %d is cut to %d of %d bytes: nobody minds", which, n, len(file))
			}
		}
	}
	if _, err := audit.Verify(audit.Check{Head: sum.Head}, files...); err != nil {
		t.Error(err)
	}
}

// TestTailIsReported cuts the last file, of which nobody knows that there was more.
func TestTailIsReported(t *testing.T) {
	t.Parallel()
	name := written(t, config(t.TempDir()), 20)[0]
	all, file := entries(t, name), must(os.ReadFile(name))
	path := filepath.Join(t.TempDir(), "x.audit")
	cut := all[10].Offset
	for more, whole := range map[int64]int{0: 9, 5: 9, all[11].Offset - cut: 10} { // the first receipt is under a checkpoint
		if err := os.WriteFile(path, file[:cut+more], 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := audit.Verify(audit.Check{}, path)
		if err != nil || sum.Signed != 1 || sum.Tail != whole || sum.TailBytes == 0 {
			t.Errorf("%d bytes into a receipt: %+v, %v", more, sum, err)
		}
	}
}

// TestChangesByOneWithoutTheKey makes the chain anew after changing records: checkpoints tell.
func TestChangesByOneWithoutTheKey(t *testing.T) {
	t.Parallel()
	file := must(os.ReadFile(written(t, config(t.TempDir()), 6)[0]))
	// Records: header, open, checkpoint, six receipts, checkpoint.
	var swapped []byte
	for name, change := range map[string]func(i int, record []byte) []byte{
		"a word of a receipt": func(i int, r []byte) []byte {
			if i == 4 {
				return bytes.Replace(r, []byte("because"), []byte("becausf"), 1)
			}
			return r
		},
		"a receipt left out": func(i int, r []byte) []byte {
			if i == 4 {
				return nil
			}
			return r
		},
		"two receipts exchanged": func(i int, r []byte) []byte {
			if i == 4 {
				swapped = r
				return nil
			}
			if i == 5 {
				return append(r, swapped...)
			}
			return r
		},
		"a checkpoint left out, and a change": func(i int, r []byte) []byte {
			if i == 2 {
				return nil
			}
			return bytes.Replace(r, []byte("because"), []byte("becausf"), 1)
		},
		"another network": func(i int, r []byte) []byte {
			return bytes.Replace(r, []byte("test.example"), []byte("best.example"), 1)
		},
		"a checkpoint of another place": func(i int, r []byte) []byte {
			if i == 2 {
				swapped = r
			}
			if i == 9 {
				return swapped
			}
			return r
		},
		"a header in the middle": func(i int, r []byte) []byte {
			if i == 0 {
				swapped = r
			}
			if i == 5 {
				return swapped
			}
			return r
		},
	} {
		changed := audit.Reframe(file, change)
		path := filepath.Join(t.TempDir(), "x.audit")
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(audit.Check{Key: key.ID()}, path)
		wantBad(t, err, name)
	}
	if same := audit.Reframe(file, func(_ int, r []byte) []byte { return r }); !bytes.Equal(same, file) {
		t.Error("the chain made anew differs")
	}
}

// TestForgedCheckpoint signs with another key in the name of the log's.
func TestForgedCheckpoint(t *testing.T) {
	t.Parallel()
	file := must(os.ReadFile(written(t, config(t.TempDir()), 2)[0]))
	for name, forge := range map[string]func(s cose.Sign1) []byte{
		"other key": func(s cose.Sign1) []byte {
			return cose.Sign(otherKey, cose.DomainReceipt, s.Protected, s.Payload).Append(nil)
		},
		"other domain": func(s cose.Sign1) []byte {
			return cose.Sign(key, cose.DomainTask, s.Protected, s.Payload).Append(nil)
		},
		"other kid": func(s cose.Sign1) []byte {
			other := otherKey.ID()
			header := cose.StatementHeader(other[:], "application/converge-audit-checkpoint")
			return cose.Sign(otherKey, cose.DomainReceipt, header, s.Payload).Append(nil)
		},
		"other payload": func(s cose.Sign1) []byte {
			s.Payload = bytes.Replace(s.Payload, []byte("test"), []byte("best"), 1)
			return s.Append(nil)
		},
	} {
		changed := audit.Reframe(file, func(i int, r []byte) []byte {
			at := bytes.Index(r, []byte{0xd2}) // the tag of a COSE_Sign1
			if i != 5 || at < 0 {
				return r
			}
			forged := forge(must(cose.Parse(r[at:])))
			return append(cose.AppendArray(nil, 3), append([]byte{1, 3}, cose.AppendBytes(nil, forged)...)...)
		})
		if bytes.Equal(changed, file) {
			t.Fatal("nothing was forged")
		}
		path := filepath.Join(t.TempDir(), "x.audit")
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(audit.Check{}, path)
		if bad := wantBad(t, err, name); !strings.Contains(bad.Error(), "not signed by the log's key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWholeLogMadeWithAnotherKey is not found unless the key is known.
func TestWholeLogMadeWithAnotherKey(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.Key = otherKey
	files := written(t, c, 3)
	if sum, err := audit.Verify(audit.Check{}, files...); err != nil || sum.Key != otherKey.ID() {
		t.Errorf("%+v, %v", sum, err)
	}
	_, err := audit.Verify(audit.Check{Key: key.ID()}, files...)
	if bad := wantBad(t, err, "other key"); !strings.Contains(bad.Error(), otherKey.ID().String()) {
		t.Errorf("%v", err)
	}
}

// TestFileOfAnotherLogIsNotSplicedIn takes a file with the same numbers, signed with the same key.
func TestFileOfAnotherLogIsNotSplicedIn(t *testing.T) {
	t.Parallel()
	a, b := rotated(t), rotated(t)
	_, err := audit.Verify(audit.Check{Key: key.ID()}, append(slices.Clone(a[:1]), b[1:]...)...)
	if bad := wantBad(t, err, "spliced"); bad.File != b[1] {
		t.Errorf("%v", err)
	}
}

func TestVerifySaysWhatIsNoLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "text": "hello\n", "magic only": "converge audit 1\n", "other version": "converge audit 2\nxx"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(audit.Check{}, path)
		wantBad(t, err, name)
	}
	if _, err := audit.Verify(audit.Check{}, filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := audit.Verify(audit.Check{}, t.TempDir()); err == nil {
		t.Error("an empty folder is a log")
	}
}

// TestDamagedLogIsLeftAlone flips a bit under a checkpoint, and one after the last.
func TestDamagedLogIsLeftAlone(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	name := written(t, c, 10)[0]
	all, file := entries(t, name), must(os.ReadFile(name))
	file[all[4].Offset+50] ^= 1
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Open(c)
	if !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("opened: %v", err)
	}
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "converge audit verify") {
		t.Errorf("no hint: %v", err)
	}
	if now := must(os.ReadFile(name)); !bytes.Equal(now, file) {
		t.Error("the file has changed")
	}
	if err := os.WriteFile(name, file[:all[8].Offset], 0o600); err != nil { // as a process that was killed leaves it
		t.Fatal(err)
	}
	open(t, c).Close()
	if all := entries(t, name); all[1].Action != "recover" || all[1].Outcome != "cut" || all[1].Count == 0 {
		t.Errorf("%+v", all[1])
	}
}

// TestFileThatWasJustBegunIsCut leaves a new file without a checkpoint, in whole or in part.
func TestFileThatWasJustBegunIsCut(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 5, 17, 40, 200} {
		c := config(t.TempDir())
		c.MaxSize, c.Keep = audit.MinMaxSize, -1
		files := written(t, c, 100)
		last := files[len(files)-1]
		if err := os.Truncate(last, size); err != nil {
			t.Fatal(err)
		}
		before := must(audit.Verify(audit.Check{}, files[:len(files)-1]...))
		l := open(t, c)
		l.Close()
		if after := must(audit.Verify(audit.Check{Head: before.Head}, c.Dir)); after.Last <= before.Last || after.TailBytes != 0 {
			t.Errorf("%d bytes: %+v, then %+v", size, before, after)
		}
	}
}

func FuzzVerify(f *testing.F) {
	file := must(os.ReadFile(written(f, config(f.TempDir()), 2)[0]))
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("converge audit 1\n"))
	path := filepath.Join(f.TempDir(), "x.audit")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := audit.Verify(audit.Check{Key: key.ID()}, path)
		// Nobody but the key can have made a checkpoint; without one, nothing counts as signed.
		if err == nil && sum.Checkpoints > 0 && !bytes.Contains(data, []byte("application/converge-audit-checkpoint")) {
			t.Fatalf("accepted without a checkpoint: %+v", sum)
		}
		if err != nil {
			wantBad(t, err, "fuzzed file")
		}
	})
}

func FuzzReceipt(f *testing.F) {
	f.Add([]byte{0x84, 1, 2, 1, 0xa2, 1, 1, 2, 1})
	f.Add([]byte{0x84, 1, 2, 3, 0xa3, 1, 1, 2, 1, 4, 0x81, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, again, err := audit.DecodeEntry(data); err == nil && !bytes.Equal(again, data) {
			t.Fatalf("%x is read, and written as %x", data, again)
		}
		if again, err := audit.DecodeHeader(data); err == nil && !bytes.Equal(again, data) {
			t.Fatalf("%x is read, and written as %x", data, again)
		}
	})
}
