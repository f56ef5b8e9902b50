package audit_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/audit"
)

func TestReceiptsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	l := open(t, c)
	want := receipt(1)
	want.Time = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	seq := add(t, l, want)
	before := time.Now()
	add(t, l, audit.Receipt{Kind: audit.KindStop})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all := entries(t, c.Dir)
	if len(all) != 3 || all[0].Kind != audit.KindLog || all[0].Action != "open" {
		t.Fatalf("%d entries: %+v", len(all), all)
	}
	if got := all[1]; got.Seq != seq || !reflect.DeepEqual(got.Receipt, want) {
		t.Errorf("read %+v, wrote %+v", got, want)
	}
	if got := all[2]; got.Kind != audit.KindStop || got.Time.Before(before.Add(-time.Second)) || got.Content != nil || got.Causes != nil {
		t.Errorf("read %+v", got)
	}
}

func TestTextIsCutAndWhatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	l := open(t, c)
	long := strings.Repeat("é", 2000) + "\xff"
	many := slices.Repeat([]string{long}, 200)
	causes := slices.Repeat([]uint64{1}, 2000)
	add(t, l, audit.Receipt{Kind: audit.KindCall, Subject: long, Action: long, Outcome: long, Reason: long, Taint: many, Causes: causes})
	add(t, l, audit.Receipt{Kind: audit.KindCall, Subject: "a\xffb"})
	for name, r := range map[string]audit.Receipt{
		"no kind":             {},
		"a cause of its own":  {Kind: audit.KindCall, Causes: []uint64{4}},
		"cause 0":             {Kind: audit.KindCall, Causes: []uint64{0}},
		"too much content":    {Kind: audit.KindCall, Content: make([]byte, audit.MaxContent+1)},
		"a negative duration": {Kind: audit.KindCall, Duration: -1},
	} {
		if _, err := l.Append(&r); !errors.Is(err, audit.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.Close()
	all := entries(t, c.Dir)
	got := all[1]
	if len(got.Subject) != audit.MaxSubject || len(got.Outcome) != audit.MaxOutcome || len(got.Reason) != audit.MaxReason ||
		len(got.Taint) != audit.MaxTaint || len(got.Taint[0]) != audit.MaxLabel || len(got.Causes) != audit.MaxCauses {
		t.Errorf("read %+v", got)
	}
	if all[2].Subject != "a\uFFFDb" || len(all) != 3 {
		t.Errorf("read %+v", all[2])
	}
}

func TestOpenNamesTheFieldAtFault(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*audit.Config){
		"Dir": func(c *audit.Config) { c.Dir = "" }, "Key": func(c *audit.Config) { c.Key = nil },
		"Network": func(c *audit.Config) { c.Network = "" }, "Interval": func(c *audit.Config) { c.Interval = -1 },
		"MaxSize": func(c *audit.Config) { c.MaxSize = 10 }, "Keep": func(c *audit.Config) { c.Keep = audit.DefaultMaxSize },
		"Buffer": func(c *audit.Config) { c.Buffer = -1 },
	} {
		c := config(t.TempDir())
		change(&c)
		if _, err := audit.Open(c); err == nil || !strings.Contains(err.Error(), "audit.Config") || !strings.Contains(err.Error(), field) {
			t.Errorf("bad %s: %v", field, err)
		}
	}
}

// TestOneProcessAtATime opens a folder twice.
func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	l := open(t, c)
	if _, err := audit.Open(c); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	l.Close()
	open(t, c)
}

func TestLogGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	for i := range 3 {
		l := open(t, c)
		if seq := add(t, l, receipt(0)); seq != uint64(2*i+2) {
			t.Errorf("run %d: receipt %d", i, seq)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	sum := must(audit.Verify(audit.Check{Key: key.ID()}, c.Dir))
	if sum.Files != 1 || sum.First != 1 || sum.Last != 6 || sum.Signed != 6 || sum.TailBytes != 0 || sum.Earlier || sum.Network != c.Network {
		t.Errorf("%+v", sum)
	}
}

func TestOtherKeyOrNetworkDoesNotGoOn(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	written(t, c, 1)
	before := must(os.ReadFile(must(audit.Files(c.Dir))[0]))
	c.Key = otherKey
	if _, err := audit.Open(c); !errors.Is(err, audit.ErrDamaged) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("other key: %v", err)
	}
	c.Key, c.Network = key, "other.example"
	if _, err := audit.Open(c); err == nil || !strings.Contains(err.Error(), `"other.example"`) {
		t.Errorf("other network: %v", err)
	}
	if after := must(os.ReadFile(must(audit.Files(c.Dir))[0])); string(after) != string(before) {
		t.Error("the file has changed")
	}
}

func TestPeriodicSync(t *testing.T) {
	c := config(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		l := must(audit.Open(c))
		defer l.Close()
		seq := add(t, l, receipt(1))
		synctest.Wait()
		if synced, _ := l.Head(); synced != 1 {
			t.Errorf("synced up to %d at once", synced)
		}
		time.Sleep(audit.DefaultInterval)
		synctest.Wait()
		if synced, _ := l.Head(); synced != seq {
			t.Errorf("synced up to %d after the interval", synced)
		}
		before := l.Stats()
		time.Sleep(time.Hour)
		if after := l.Stats(); after != before {
			t.Errorf("an idle log went from %+v to %+v", before, after)
		}
		add(t, l, receipt(1))
		synctest.Wait()
		time.Sleep(audit.DefaultInterval)
		synctest.Wait()
		if synced, _ := l.Head(); synced != seq+1 {
			t.Errorf("synced up to %d after an hour", synced)
		}
	})
}

func TestSyncsAreShared(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	l := open(t, c)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 10 {
				seq := add(t, l, receipt(1))
				if err := l.Sync(t.Context(), seq); err != nil {
					t.Error(err)
				}
				if synced, _ := l.Head(); synced < seq {
					t.Errorf("Sync(%d) returned at %d", seq, synced)
				}
			}
		})
	}
	all.Wait()
	if s := l.Stats(); s.Receipts != 641 || s.Synced != 641 || s.Syncs > 320 {
		t.Errorf("%+v", s)
	}
	if err := l.Sync(t.Context(), 10_000); !errors.Is(err, audit.ErrInvalid) {
		t.Errorf("a receipt that is not there: %v", err)
	}
	l.Close()
	if n := len(entries(t, c.Dir)); n != 641 {
		t.Errorf("%d entries", n)
	}
	if _, err := l.Append(&audit.Receipt{Kind: audit.KindStop}); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if err := l.Healthy(); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("health after close: %v", err)
	}
}

func TestFilesRotateAndTheOldestGoWithAReceipt(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxSize, c.Keep = 8<<10, 32<<10
	written(t, c, 400)
	files := must(audit.Files(c.Dir))
	sum := must(audit.Verify(audit.Check{Key: key.ID()}, c.Dir))
	if !sum.Earlier || sum.First == 1 || sum.Files != len(files) || len(files) < 3 {
		t.Errorf("%+v with %d files", sum, len(files))
	}
	size := int64(0)
	for _, f := range files {
		size += must(os.Stat(f)).Size()
	}
	if size > c.Keep+c.MaxSize {
		t.Errorf("%d bytes are kept", size)
	}
	removed, next := 0, uint64(1)
	for _, e := range entries(t, files...) {
		if e.Kind == audit.KindLog && e.Action == "remove" {
			removed++
			next = e.Seq
			if _, err := os.Stat(filepath.Join(c.Dir, e.Subject)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", e.Subject, err)
			}
		}
	}
	if removed == 0 || next == 1 {
		t.Error("no receipt tells of what was removed")
	}
}

// TestFullBufferMakesAppendWait has a disk that hangs.
func TestFullBufferMakesAppendWait(t *testing.T) {
	c := config(t.TempDir())
	c.Buffer = 16 << 10
	c.Interval = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{gate: make(chan struct{})}
		l := must(audit.Open(audit.WithDisk(c, func(name string, flags int) (audit.Disk, error) {
			f, err := audit.OpenDisk(name, flags)
			d.Disk = f
			return d, err
		})))
		d.hang = true
		add(t, l, receipt(1))
		time.Sleep(time.Second) // the writer hangs in its sync now
		done := 0
		var adding sync.WaitGroup
		adding.Go(func() {
			for range 1000 {
				add(t, l, receipt(1))
				done++
			}
		})
		synctest.Wait()
		if done == 0 || done == 1000 {
			t.Errorf("%d receipts found room", done)
		}
		d.hang = false
		close(d.gate)
		adding.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if n := len(entries(t, c.Dir)); n != 1002 {
		t.Errorf("%d entries", n)
	}
}

type slowDisk struct {
	audit.Disk
	hang bool
	gate chan struct{}
}

func (d *slowDisk) Sync() error {
	if d.hang {
		<-d.gate
	}
	return d.Disk.Sync()
}

// failingDisk fails at a step once it is told to, having written half.
type failingDisk struct {
	audit.Disk
	fails *string
}

func (d *failingDisk) Write(p []byte) (int, error) {
	if *d.fails == "write" {
		n, _ := d.Disk.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return d.Disk.Write(p)
}

func (d *failingDisk) Sync() error {
	if *d.fails == "sync" {
		return syscall.EIO
	}
	return d.Disk.Sync()
}

func TestDiskThatFailsBreaksTheLog(t *testing.T) {
	t.Parallel()
	for step, cause := range map[string]error{"write": syscall.ENOSPC, "sync": syscall.EIO, "create": syscall.ENOSPC} {
		c := config(t.TempDir())
		c.MaxSize = audit.MinMaxSize
		fails := ""
		l := open(t, audit.WithDisk(c, func(name string, flags int) (audit.Disk, error) {
			if fails == "create" {
				return nil, syscall.ENOSPC
			}
			f, err := audit.OpenDisk(name, flags)
			return &failingDisk{f, &fails}, err
		}))
		safe := add(t, l, receipt(1))
		if err := l.Sync(t.Context(), safe); err != nil {
			t.Fatal(err)
		}
		fails = step
		var err error
		for range 40 {
			var seq uint64
			if seq, err = l.Append(&audit.Receipt{Kind: audit.KindCall, Reason: strings.Repeat("x", 500)}); err == nil {
				err = l.Sync(t.Context(), seq)
			}
			if err != nil {
				break
			}
		}
		if !errors.Is(err, audit.ErrBroken) || !errors.Is(err, cause) {
			t.Errorf("%s: sync: %v", step, err)
		}
		if err := l.Healthy(); !errors.Is(err, audit.ErrBroken) || !l.Stats().Broken {
			t.Errorf("%s: healthy: %v", step, err)
		}
		if _, err := l.Append(&audit.Receipt{Kind: audit.KindCall}); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: append: %v", step, err)
		}
		synced, _ := l.Head()
		if err := l.Close(); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: close: %v", step, err)
		}
		l = open(t, c) // the disk is mended
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if all := entries(t, c.Dir); uint64(len(all)) < synced || all[safe-1].Action != "fs.read" {
			t.Errorf("%s: %d of %d receipts that were safe are there", step, len(all), synced)
		}
	}
}

func TestSyncEndsWithItsContext(t *testing.T) {
	c := config(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		d := &slowDisk{gate: make(chan struct{})}
		l := must(audit.Open(audit.WithDisk(c, func(name string, flags int) (audit.Disk, error) {
			f, err := audit.OpenDisk(name, flags)
			d.Disk = f
			return d, err
		})))
		d.hang = true
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, os.ErrDeadlineExceeded)
		defer cancel()
		if err := l.Sync(ctx, add(t, l, receipt(1))); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(d.gate)
		l.Close()
	})
}

func TestKindsHaveNames(t *testing.T) {
	for _, k := range audit.Kinds() {
		if back, err := audit.ParseKind(k.String()); err != nil || back != k {
			t.Errorf("%v: %v, %v", k, back, err)
		}
	}
	if _, err := audit.ParseKind("nonsense"); err == nil {
		t.Error("nonsense is a kind")
	}
	if name := audit.Kind(200).String(); name != "kind-200" {
		t.Errorf("a kind of a later version is %q", name)
	}
}
