package identity_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

// wallClock is a clock that is set by hand.
type wallClock struct {
	mu  sync.Mutex
	now time.Time
}

func newWallClock() *wallClock {
	return &wallClock{now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
}

func (c *wallClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *wallClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newSealingKeys(t testing.TB, c identity.SealingKeysConfig) *identity.SealingKeys {
	t.Helper()
	if c.Suite == 0 {
		c.Suite = identity.X25519 // the quicker one
	}
	keys, err := identity.NewSealingKeys(c)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func rotate(t testing.TB, keys *identity.SealingKeys) identity.PublicSealingKey {
	t.Helper()
	key, err := keys.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// opens reports whether keys open what was sealed to a key of theirs.
func opens(t testing.TB, keys *identity.SealingKeys, s sealed, to identity.SealingKeyID) bool {
	t.Helper()
	key, err := keys.Find(to)
	if err != nil {
		if err != identity.ErrNoSealingKey {
			t.Fatalf("Find: %v, want ErrNoSealingKey as it is", err)
		}
		return false
	}
	text, err := s.open(key)
	if err != nil || text != "under way" {
		t.Fatalf("open: %q, %v", text, err)
	}
	return true
}

func TestKeyOpensWhatIsUnderWayUntilItsOverlapIsOver(t *testing.T) {
	clock := newWallClock()
	keys := newSealingKeys(t, identity.SealingKeysConfig{Overlap: time.Hour, Now: clock.Now})
	old := keys.Current()
	underWay := sealTo(t, old, "under way")
	if due := keys.RotationDue(); !due.Equal(clock.Now().Add(identity.DefaultSealingRotation)) || !keys.ForgettingDue().IsZero() {
		t.Errorf("rotation is due %v, forgetting %v", due, keys.ForgettingDue())
	}
	clock.add(24 * time.Hour)
	if fresh := rotate(t, keys); fresh.ID() == old.ID() || keys.Current().ID() != fresh.ID() || keys.Len() != 2 {
		t.Fatalf("current is %s, %d keys", keys.Current(), keys.Len())
	}
	if due := keys.ForgettingDue(); !due.Equal(clock.Now().Add(time.Hour)) {
		t.Errorf("forgetting is due %v", due)
	}
	clock.add(time.Hour - time.Millisecond)
	if err := keys.Forget(); err != nil || !opens(t, keys, underWay, old.ID()) {
		t.Errorf("not opened within the overlap, %v", err)
	}
	clock.add(time.Millisecond)
	if opens(t, keys, underWay, old.ID()) {
		t.Error("opened after the overlap, though nobody called Forget")
	}
	if err := keys.Forget(); err != nil || keys.Len() != 1 {
		t.Errorf("%d keys are left, %v", keys.Len(), err)
	}
	clock.add(-time.Hour)
	if opens(t, keys, underWay, old.ID()) {
		t.Error("a forgotten key is back when the clock goes back")
	}
}

func TestCurrentKeyIsNeverForgotten(t *testing.T) {
	clock := newWallClock()
	keys := newSealingKeys(t, identity.SealingKeysConfig{Now: clock.Now})
	underWay, to := sealTo(t, keys.Current(), "under way"), keys.Current().ID()
	clock.add(1000 * time.Hour) // nobody has rotated
	if err := keys.Forget(); err != nil || !opens(t, keys, underWay, to) {
		t.Errorf("the only key opens nothing, %v", err)
	}
}

func TestRingOfSealingKeysIsBounded(t *testing.T) {
	clock := newWallClock()
	keys := newSealingKeys(t, identity.SealingKeysConfig{Now: clock.Now})
	oldest := keys.Current().ID()
	for range identity.MaxSealingKeys - 1 {
		rotate(t, keys)
	}
	if _, err := keys.Find(oldest); err != nil || keys.Len() != identity.MaxSealingKeys {
		t.Fatalf("%d keys, %v", keys.Len(), err)
	}
	rotate(t, keys)
	if _, err := keys.Find(oldest); !errors.Is(err, identity.ErrNoSealingKey) || keys.Len() != identity.MaxSealingKeys {
		t.Errorf("%d keys, the oldest: %v", keys.Len(), err)
	}
}

func TestAnotherSuiteIsDueAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	newSealingKeys(t, identity.SealingKeysConfig{Suite: identity.X25519, Path: path})
	keys := newSealingKeys(t, identity.SealingKeysConfig{Suite: identity.MLKEM768X25519, Path: path})
	if !keys.RotationDue().IsZero() {
		t.Errorf("due %v", keys.RotationDue())
	}
	if key := rotate(t, keys); key.Suite() != identity.MLKEM768X25519 || keys.RotationDue().IsZero() {
		t.Errorf("rotated to %s, due %v", key, keys.RotationDue())
	}
}

func TestSealingKeysConfigIsChecked(t *testing.T) {
	for field, c := range map[string]identity.SealingKeysConfig{
		"Suite":    {Suite: 9},
		"Rotation": {Rotation: -1},
		"Overlap":  {Overlap: identity.MinSealingOverlap - 1},
		"missing":  {Path: filepath.Join(t.TempDir(), "missing", "keys")},
	} {
		if _, err := identity.NewSealingKeys(c); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestRestartOpensWhatIsUnderWay(t *testing.T) {
	for _, suite := range suites {
		clock := newWallClock()
		c := identity.SealingKeysConfig{Suite: suite, Overlap: time.Hour, Path: filepath.Join(t.TempDir(), "keys"), Now: clock.Now}
		keys := newSealingKeys(t, c)
		old := keys.Current()
		first := sealTo(t, old, "under way")
		clock.add(30 * time.Hour)
		current := rotate(t, keys)
		second := sealTo(t, current, "under way")

		again := newSealingKeys(t, c)
		if !opens(t, again, first, old.ID()) || !opens(t, again, second, current.ID()) {
			t.Errorf("%s: what was under way is lost", suite)
		}
		if again.Current().ID() != current.ID() || !again.RotationDue().Equal(keys.RotationDue()) || !again.ForgettingDue().Equal(keys.ForgettingDue()) {
			t.Errorf("%s: the keys are others than before", suite)
		}
		clock.add(time.Hour)
		last := newSealingKeys(t, c)
		if opens(t, last, first, old.ID()) || last.Len() != 1 {
			t.Errorf("%s: a key whose overlap is over is back", suite)
		}
	}
}

// TestForgottenKeyIsNotInTheFile has what was recorded stay closed for who takes the file later.
func TestForgottenKeyIsNotInTheFile(t *testing.T) {
	clock := newWallClock()
	c := identity.SealingKeysConfig{Overlap: time.Hour, Path: filepath.Join(t.TempDir(), "keys"), Now: clock.Now}
	keys := newSealingKeys(t, c)
	old := keys.Current().ID()
	rotate(t, keys)
	clock.add(time.Hour)
	if err := keys.Forget(); err != nil {
		t.Fatal(err)
	}
	clock.add(-time.Hour) // or a key would be left out for its age
	stolen := newSealingKeys(t, c)
	if _, err := stolen.Find(old); !errors.Is(err, identity.ErrNoSealingKey) || stolen.Len() != 1 {
		t.Errorf("the file holds %d keys, the old one: %v", stolen.Len(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(c.Path)); err != nil || len(files) != 1 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
}

func TestFileOfSealingKeysIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	keys := newSealingKeys(t, identity.SealingKeysConfig{Path: path})
	rotate(t, keys)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewSealingKeys(identity.SealingKeysConfig{Path: path}); !errors.Is(err, identity.ErrExposed) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	if _, err := keys.Rotate(); !errors.Is(err, identity.ErrExposed) {
		t.Errorf("rotation into a file that others can read: %v", err)
	}
}

func TestDamagedFileOfSealingKeysIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	rotate(t, newSealingKeys(t, identity.SealingKeysConfig{Path: path}))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	repack := func(raw []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: raw}) }
	newer := bytes.Clone(block.Bytes)
	newer[1] = 2
	flipped := bytes.Clone(block.Bytes)
	flipped[2] ^= 1 // the number of keys
	for name, data := range map[string][]byte{
		"empty":            {},
		"text":             []byte("hello"),
		"truncated":        good[:len(good)/2],
		"something after":  append(bytes.Clone(good), "x"...),
		"something before": append([]byte("x\n"), good...),
		"another block":    bytes.ReplaceAll(good, []byte("CONVERGE SEALING KEYS"), []byte("PRIVATE KEY")),
		"CBOR cut":         repack(block.Bytes[:len(block.Bytes)-1]),
		"CBOR appended":    repack(append(bytes.Clone(block.Bytes), 0)),
		"a newer version":  repack(newer),
		"fewer keys":       repack(flipped),
		"no CBOR":          repack(nil),
		"no keys":          repack([]byte{0x82, 1, 0x80}),
		"too large":        bytes.Repeat([]byte("x"), 1<<16+1),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := identity.NewSealingKeys(identity.SealingKeysConfig{Path: path})
		if !errors.Is(err, identity.ErrSealingFile) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadFile(path); !bytes.Equal(left, data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// TestTwoProcessesDoNotLoseEachOthersKeys has both rotate in one file.
func TestTwoProcessesDoNotLoseEachOthersKeys(t *testing.T) {
	c := identity.SealingKeysConfig{Path: filepath.Join(t.TempDir(), "keys")}
	one, two := newSealingKeys(t, c), newSealingKeys(t, c)
	kept := rotate(t, one).ID()
	before := two.Current().ID()
	if _, err := two.Rotate(); !errors.Is(err, identity.ErrSealingFileTaken) {
		t.Errorf("the second process: %v", err)
	}
	if two.Current().ID() != before {
		t.Error("a key that was not written is current")
	}
	if _, err := newSealingKeys(t, c).Find(kept); err != nil {
		t.Errorf("the first one's key: %v", err)
	}
}

func TestKeyThatCannotBeWrittenIsNotHandedOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	keys := newSealingKeys(t, identity.SealingKeysConfig{Path: filepath.Join(dir, "keys")})
	before := keys.Current().ID()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Rotate(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rotate: %v", err)
	}
	if keys.Current().ID() != before || keys.Len() != 1 {
		t.Errorf("current is %s of %d keys", keys.Current(), keys.Len())
	}
}

func TestSealingKeysNeverPrintASecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	// The array of version 1 and one hybrid key, made and never replaced.
	raw := append([]byte{0x82, 1, 0x81, 0x84, 1, 0x58, 0x20}, secretSeed...)
	raw = append(raw, 0x01, 0)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CONVERGE SEALING KEYS", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := newSealingKeys(t, identity.SealingKeysConfig{Suite: identity.MLKEM768X25519, Path: path})
	want, err := identity.SealingKeyFrom(identity.MLKEM768X25519, secretSeed)
	if err != nil || keys.Current().ID() != want.Public().ID() {
		t.Fatalf("the file holds %s, not %s, %v", keys.Current(), want, err)
	}
	expectNeverPrinted(t, map[string]any{
		"pointer": keys, "pointer to pointer": &keys, "field": struct{ Keys *identity.SealingKeys }{keys},
		"unexported field": struct{ keys *identity.SealingKeys }{keys}, "slice": []*identity.SealingKeys{keys},
		"embedded": struct{ *identity.SealingKeys }{keys}, "configuration": map[string]*identity.SealingKeys{"k": keys},
	})
	if out, err := json.Marshal(keys); err == nil {
		t.Errorf("JSON is %s", out)
	}
}

func TestSealingKeysAreSafeForConcurrentUse(t *testing.T) {
	keys := newSealingKeys(t, identity.SealingKeysConfig{Path: filepath.Join(t.TempDir(), "keys")})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 8 {
				if _, err := keys.Find(keys.Current().ID()); err != nil {
					t.Errorf("the current key is not found: %v", err)
				}
				_, _ = keys.RotationDue(), keys.ForgettingDue()
				if err := keys.Forget(); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() { rotate(t, keys) })
	}
	all.Wait()
	if keys.Len() != 5 {
		t.Errorf("%d keys after 4 rotations", keys.Len())
	}
}

// FuzzSealingFile holds the reader to files that are as they were written.
func FuzzSealingFile(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "seed")
	keys := newSealingKeys(f, identity.SealingKeysConfig{Path: path})
	for range 2 {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(data)
		f.Add(block.Bytes)
		rotate(f, keys)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "keys")
		data := pem.EncodeToMemory(&pem.Block{Type: "CONVERGE SEALING KEYS", Bytes: raw})
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		start := func() time.Time { return time.UnixMilli(0) } // nothing is over
		keys, err := identity.NewSealingKeys(identity.SealingKeysConfig{Path: path, Now: start})
		if err != nil {
			return
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, data) {
			t.Fatalf("%x was read, and written as %x, %v", data, left, err)
		}
		s := sealTo(t, keys.Current(), "under way")
		if !opens(t, keys, s, keys.Current().ID()) {
			t.Fatal("the current key is not found")
		}
	})
}
