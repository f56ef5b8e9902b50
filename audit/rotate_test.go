package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
)

var thirdKey = seeded(3)

// turned is a log whose key went from key to otherKey, with so many receipts before and after, and its files.
func turned(t testing.TB, before, after int) (c audit.Config, files []string) {
	t.Helper()
	c = config(t.TempDir())
	l := open(t, c)
	for range before {
		add(t, l, receipt(0))
	}
	if err := l.RotateKey(t.Context(), otherKey); err != nil {
		t.Fatal(err)
	}
	for range after {
		add(t, l, receipt(0))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.Key = otherKey
	if files = must(audit.Files(c.Dir)); len(files) != 2 {
		t.Fatalf("%d files", len(files))
	}
	return c, files
}

// TestKeyChangesWhileReceiptsAreWritten changes the key twice, and follows it from any of the three.
func TestKeyChangesWhileReceiptsAreWritten(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxSize, c.Keep = audit.MinMaxSize, -1
	l := open(t, c)
	var adding sync.WaitGroup
	for range 4 {
		adding.Go(func() {
			for range 30 {
				if err := l.Sync(t.Context(), add(t, l, receipt(0))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, next := range []*identity.Identity{otherKey, thirdKey} {
		if err := l.RotateKey(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if l.Key() != next.ID() {
			t.Errorf("the key is %s", l.Key())
		}
	}
	adding.Wait()
	last, head := l.Head()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pin := range []identity.ID{{}, key.ID(), otherKey.ID(), thirdKey.ID()} {
		actions := ""
		sum, err := audit.Verify(audit.Check{Key: pin, Head: head, Each: func(e *audit.Entry) error {
			if e.Action == "rotate_key" {
				actions += e.Outcome + " "
			}
			return nil
		}}, c.Dir)
		if err != nil || sum.Key != thirdKey.ID() || sum.Signed < last || sum.First != 1 || sum.Tail != 0 || actions != "begun ok begun ok " {
			t.Errorf("%s: %+v, %v, %s", pin, sum, err, actions)
		}
		if r := sum.Rotations; len(r) != 2 || r[0].From != key.ID() || r[0].To != otherKey.ID() || r[1].From != otherKey.ID() ||
			r[1].To != thirdKey.ID() || r[0].Receipt == 0 || r[1].Receipt <= r[0].Receipt || r[0].Time.IsZero() {
			t.Errorf("%+v", r)
		}
	}
	_, err := audit.Verify(audit.Check{Key: seeded(9).ID()}, c.Dir)
	if bad := wantBad(t, err, "foreign key"); !strings.Contains(bad.Error(), thirdKey.ID().String()) {
		t.Error(bad)
	}
	// What is left when the oldest files are gone leads to the first key too.
	files := must(audit.Files(c.Dir))
	for _, pin := range []*identity.Identity{key, otherKey, thirdKey} {
		if sum, err := audit.Verify(audit.Check{Key: pin.ID()}, files[len(files)-1]); err != nil || !sum.Earlier || len(sum.Rotations) != 2 {
			t.Errorf("%+v, %v", sum, err)
		}
	}
	// The log goes on with the last key, and with no other.
	for _, before := range []*identity.Identity{key, otherKey} {
		c.Key = before
		if _, err := audit.Open(c); !errors.Is(err, audit.ErrDamaged) || !strings.Contains(err.Error(), "another key") {
			t.Errorf("opened with an earlier key: %v", err)
		}
	}
	c.Key, c.Next = otherKey, thirdKey
	l = open(t, c)
	add(t, l, receipt(1))
	if l.Key() != thirdKey.ID() || l.Close() != nil {
		t.Errorf("the key is %s", l.Key())
	}
	if sum, err := audit.Verify(audit.Check{Key: key.ID(), Head: head}, c.Dir); err != nil || sum.Last <= last {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestKeysThatCannotFollowAreRefused(t *testing.T) {
	t.Parallel()
	c, _ := turned(t, 1, 1)
	l := open(t, c)
	operational := must(thirdKey.Rotate(identity.Rotation{}))
	for name, next := range map[string]*identity.Identity{"none": nil, "the same": otherKey, "one before": key, "operational": operational} {
		if err := l.RotateKey(t.Context(), next); !errors.Is(err, audit.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	add(t, l, receipt(1))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.RotateKey(t.Context(), thirdKey); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if sum := must(audit.Verify(audit.Check{Key: key.ID()}, c.Dir)); len(sum.Rotations) != 1 || sum.TailBytes != 0 {
		t.Errorf("%+v", sum)
	}
}

// TestForgedChangesOfTheKey has somebody without the key in force, or with one that is no longer, go on with the log.
func TestForgedChangesOfTheKey(t *testing.T) {
	t.Parallel()
	_, files := turned(t, 3, 3)
	_, otherFiles := turned(t, 3, 3)
	one := written(t, config(t.TempDir()), 3)[0] // a log that is still under key
	thief := seeded(9)
	ends, oneEnds, otherEnds := audit.EndOf(files[0]), audit.EndOf(one), audit.EndOf(otherFiles[0])
	to := func(p audit.Place, next *identity.Identity, change func(*audit.Change)) audit.Change {
		c := p.Change
		c.To = next.PublicKey()
		if change != nil {
			change(&c)
		}
		return c
	}
	genuine := audit.EndOf(files[1]).Changes
	replayed := audit.EndOf(otherFiles[1]).Changes
	after := audit.EndOf(files[1])
	for name, c := range map[string]struct {
		before []string
		forged []byte
		pin    *identity.Identity // nil pins nothing
		says   string             // "" is found by nobody who does not pin
	}{
		"no statement":              {files[:1], ends.Continue(thief, nil), nil, "has not named it"},
		"signed by the thief":       {files[:1], ends.Continue(thief, [][]byte{to(ends, thief, nil).Sign(thief)}), nil, "not signed by the key before"},
		"of the thief's own":        {files[:1], ends.Continue(thief, [][]byte{to(ends, thief, func(c *audit.Change) { c.From = otherKey.PublicKey() }).Sign(otherKey)}), nil, "another place"},
		"nonsense":                  {files[:1], ends.Continue(thief, [][]byte{{1, 2, 3}}), nil, "not signed by the key before"},
		"names another":             {files[:1], ends.Continue(thief, genuine), nil, "has not named it"},
		"replayed in another log":   {[]string{one}, oneEnds.Continue(otherKey, replayed), nil, "of another log"},
		"replayed at another place": {[]string{one}, oneEnds.Continue(otherKey, [][]byte{to(oneEnds, otherKey, func(c *audit.Change) { c.Seq-- }).Sign(key)}), nil, "another place"},
		"over another history":      {[]string{one}, oneEnds.Continue(otherKey, [][]byte{to(oneEnds, otherKey, func(c *audit.Change) { c.Head[0] ^= 1 }).Sign(key)}), nil, "another place"},
		"of another network":        {files[:1], ends.Continue(otherKey, [][]byte{to(ends, otherKey, func(c *audit.Change) { c.Network = "other.example" }).Sign(key)}), nil, "of another log"},
		"of the future":             {[]string{one}, oneEnds.Continue(otherKey, [][]byte{to(oneEnds, otherKey, func(c *audit.Change) { c.Seq += 7 }).Sign(key)}), nil, "another place"},
		"two at once":               {files[:1], ends.Continue(thief, [][]byte{genuine[0], to(ends, thief, func(c *audit.Change) { c.Seq++; c.From = otherKey.PublicKey() }).Sign(otherKey)}), nil, "other changes"},
		"the past is left out":      {files, after.Continue(otherKey, nil), nil, "other changes"},
		"the past is another":       {files, after.Continue(otherKey, replayed), nil, "other changes"},
		"back to the first":         {files, after.Continue(key, append(slices.Clone(genuine), to(after, key, nil).Sign(otherKey))), nil, "has signed before"},
		"to itself":                 {[]string{one}, oneEnds.Continue(key, [][]byte{to(oneEnds, key, nil).Sign(key)}), nil, "has signed before"},
		"spliced":                   {files[:1], must(os.ReadFile(otherFiles[1])), nil, "belongs to another log"},
		"the old key goes on":       {files, after.Continue(key, genuine), nil, "has not named it"},
		// Who has stolen the first key can end this log where it liked to, and make another end. The next key tells.
		"stolen, another end":   {files[:1], ends.Continue(thief, [][]byte{to(ends, thief, nil).Sign(key)}), otherKey, "another key than the one asked for"},
		"stolen, no other end":  {files[:1], ends.Continue(key, nil), otherKey, "another key than the one asked for"},
		"stolen, in its name":   {files[:1], unsigned(ends.Continue(otherKey, [][]byte{to(ends, otherKey, nil).Sign(key)})), otherKey, "no checkpoint is signed with the key"},
		"cut before the change": {files[:0], must(os.ReadFile(files[0])), otherKey, "another key than the one asked for"},
	} {
		dir := t.TempDir()
		all := append(copyTo(t, dir, c.before...), filepath.Join(dir, "forged.audit"))
		if err := os.WriteFile(all[len(all)-1], c.forged, 0o600); err != nil {
			t.Fatal(err)
		}
		pins := []identity.ID{{}, key.ID()}
		if c.pin != nil {
			pins = []identity.ID{c.pin.ID()}
		}
		for _, pin := range pins {
			sum, err := audit.Verify(audit.Check{Key: pin}, all...)
			if bad := wantBad(t, err, name); !strings.Contains(bad.Error(), c.says) || bad.Seq == 0 || bad.Offset == 0 || bad.File == "" {
				t.Errorf("%s: %v; want %q\n%+v", name, err, c.says, sum)
			}
		}
	}
	// The place is that of the header of the file.
	_, err := audit.Verify(audit.Check{}, append(slices.Clone(files[:1]), otherFiles[1])...)
	if bad := wantBad(t, err, "spliced"); bad.File != otherFiles[1] || bad.Offset != 17 || bad.Seq != otherEnds.Seq+1 {
		t.Errorf("%+v", bad)
	}
}

// unsigned leaves the checkpoint of a forged file out.
func unsigned(file []byte) []byte {
	return audit.Reframe(file, func(i int, record []byte) []byte {
		if i == 2 {
			return nil
		}
		return record
	})
}

// TestCheckpointOfTheKeyBeforeCountsNoMore signs with the first key after it has named the second.
func TestCheckpointOfTheKeyBeforeCountsNoMore(t *testing.T) {
	t.Parallel()
	_, files := turned(t, 1, 1)
	ends := audit.EndOf(files[0])
	genuine := audit.EndOf(files[1]).Changes
	header := ends.Continue(otherKey, genuine)
	signed := ends.Continue(key, nil)
	var checkpoint []byte
	audit.Reframe(signed, func(i int, record []byte) []byte {
		if i == 2 {
			checkpoint = record
		}
		return record
	})
	forged := audit.Reframe(header, func(i int, record []byte) []byte {
		if i == 2 {
			return checkpoint
		}
		return record
	})
	path := filepath.Join(t.TempDir(), "forged.audit")
	if err := os.WriteFile(path, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Verify(audit.Check{}, files[0], path)
	if bad := wantBad(t, err, "checkpoint"); !strings.Contains(bad.Error(), "not signed by the log's key") {
		t.Error(bad)
	}
}

// TestFlippedBitsOfAChangeOfTheKeyAreFound flips bits of the file that begins with one.
func TestFlippedBitsOfAChangeOfTheKeyAreFound(t *testing.T) {
	t.Parallel()
	_, files := turned(t, 1, 0)
	dir := t.TempDir()
	all := copyTo(t, dir, files...)
	file := must(os.ReadFile(files[1]))
	for bit := 0; bit < 8*len(file); bit += 41 {
		flipped := bytes.Clone(file)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(all[1], flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(audit.Check{Key: otherKey.ID()}, all...)
		if err == nil {
			t.Fatalf("bit %d of byte %d flipped: nobody minds", bit%8, bit/8)
		}
		wantBad(t, err, "flipped bit")
	}
}

// TestNewerHeadersAreRefusedClearly is what programs that do not know of changes do, as this one with what comes after it.
func TestNewerHeadersAreRefusedClearly(t *testing.T) {
	t.Parallel()
	_, files := turned(t, 1, 1)
	for version, says := range map[byte]string{1: "not the header", 3: "newer version than 2"} {
		forged := audit.Reframe(must(os.ReadFile(files[1])), func(i int, record []byte) []byte {
			if i == 0 {
				if record[1] != 2 {
					t.Errorf("the header has version %d", record[1])
				}
				record[1] = version
			}
			return record
		})
		path := filepath.Join(t.TempDir(), "forged.audit")
		if err := os.WriteFile(path, forged, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.Verify(audit.Check{}, path)
		if bad := wantBad(t, err, "version"); !strings.Contains(bad.Error(), says) {
			t.Errorf("version %d: %v", version, err)
		}
	}
	forged := audit.Reframe(must(os.ReadFile(files[1])), func(i int, record []byte) []byte {
		if i == 1 {
			record[1] = 2 // receipts are of version 1
		}
		return record
	})
	path := filepath.Join(t.TempDir(), "forged.audit")
	if err := os.WriteFile(path, forged, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Verify(audit.Check{}, path)
	wantBad(t, err, "receipt of version 2")
}

// TestKilledAmidAChangeOfTheKey leaves the files of a change as far as they were written, at places all over them, and opens them with both
// keys: one of them is in force.
func TestKilledAmidAChangeOfTheKey(t *testing.T) {
	t.Parallel()
	_, files := turned(t, 2, 0)
	first, second := must(os.ReadFile(files[0])), must(os.ReadFile(files[1]))
	before := must(audit.Verify(audit.Check{}, files[0]))
	for n := 0; n <= len(first)+len(second); n += 97 {
		killedAt(t, files, first[:min(n, len(first))], second[:max(n-len(first), 0)], before.Last)
	}
	if got := killedAt(t, files, first, second, before.Last); got != otherKey.ID() {
		t.Errorf("all was written, and %s is in force", got)
	}
}

// killedAt opens a log of which so much is there, and goes on with it.
func killedAt(t *testing.T, files []string, first, second []byte, last uint64) identity.ID {
	t.Helper()
	c := config(t.TempDir())
	c.Next = otherKey
	whole := must(os.ReadFile(files[0]))
	names := copyTo(t, c.Dir, files[:1]...)
	if err := os.WriteFile(names[0], first, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(first) == len(whole) {
		if err := os.WriteFile(filepath.Join(c.Dir, filepath.Base(files[1])), second, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := audit.Open(c)
	if err != nil {
		t.Fatalf("%d and %d bytes: %v", len(first), len(second), err)
	}
	add(t, l, receipt(1))
	inForce := l.Key()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	sum, err := audit.Verify(audit.Check{Key: inForce}, c.Dir)
	if err != nil || sum.TailBytes != 0 || sum.Key != inForce || len(first) == len(whole) && sum.Last <= last {
		t.Fatalf("%d and %d bytes: %+v, %v", len(first), len(second), sum, err)
	}
	return inForce
}

// stepDisk fails at the step with a number, and at all after it, as if the process had ended there.
type stepDisk struct {
	audit.Disk
	left *int
}

func (d *stepDisk) step() error {
	if *d.left--; *d.left < 0 {
		return syscall.EIO
	}
	return nil
}

func (d *stepDisk) Write(p []byte) (int, error) {
	if err := d.step(); err != nil {
		n, _ := d.Disk.Write(p[:len(p)/2])
		return n, err
	}
	return d.Disk.Write(p)
}

func (d *stepDisk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	return d.Disk.Sync()
}

// TestDiskThatFailsAmidAChangeOfTheKey fails at each step of one.
func TestDiskThatFailsAmidAChangeOfTheKey(t *testing.T) {
	t.Parallel()
	for steps := 0; ; steps++ {
		c := config(t.TempDir())
		left := 1 << 30
		l := open(t, audit.WithDisk(c, func(name string, flags int) (audit.Disk, error) {
			if left--; left < 0 {
				return nil, syscall.ENOSPC
			}
			f, err := audit.OpenDisk(name, flags)
			return &stepDisk{f, &left}, err
		}))
		safe := add(t, l, receipt(1))
		if err := l.Sync(t.Context(), safe); err != nil {
			t.Fatal(err)
		}
		left = steps
		err := l.RotateKey(t.Context(), otherKey)
		if err != nil && !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%d steps: %v", steps, err)
		}
		l.Close()
		c.Next = otherKey
		again := open(t, c)
		inForce := again.Key()
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		if err == nil && inForce != otherKey.ID() {
			t.Errorf("%d steps: it was told to be in force, and is not", steps)
		}
		sum, verifyErr := audit.Verify(audit.Check{Key: inForce}, c.Dir)
		if verifyErr != nil || sum.Last <= safe || sum.Key != inForce {
			t.Errorf("%d steps: %+v, %v", steps, sum, verifyErr)
		}
		if err == nil {
			if steps < 4 {
				t.Errorf("a change took %d steps", steps)
			}
			return
		}
	}
}

func FuzzChange(f *testing.F) {
	genuine := audit.Change{ // the same in every process
		Network: "test.example", Log: [16]byte{1}, Seq: 7, Head: [32]byte{2}, From: key.PublicKey(), To: otherKey.PublicKey(),
	}.Sign(key)
	f.Add(genuine)
	f.Add(genuine[:len(genuine)/2])
	f.Add([]byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, payload, err := audit.DecodeChange(raw)
		if err != nil {
			return
		}
		if bytes.Equal(c.From, key.PublicKey()) && !bytes.Equal(raw, genuine) {
			t.Fatalf("%x is accepted, and nobody has signed it", raw)
		}
		if !bytes.Contains(raw, payload) {
			t.Fatalf("%x is read, and written as %x", raw, payload)
		}
	})
}
