package network_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

// keptReceipts is a network that has run once, and left receipts in a folder.
func keptReceipts(t *testing.T) (text, data string) {
	t.Helper()
	data = filepath.Join(t.TempDir(), "state")
	text = one + "data: " + data + "\n"
	runOnce(t, text)
	return text, data
}

// runOnce runs a network to its end and returns what it has logged.
func runOnce(t *testing.T, text string) string {
	t.Helper()
	log, lines := newLog()
	n := build(t, text, network.Options{Logger: log})
	if r := runJob(t, n); r.Tasks.Failed > 0 {
		t.Errorf("%+v", r)
	}
	check(t, n.Close())
	return lines.String()
}

func keyIn(t *testing.T, path string) *identity.Identity {
	t.Helper()
	id, err := identity.ReadKeyFile(path, nil)
	check(t, err)
	return id
}

func wantKeys(t *testing.T, data string, inForce identity.ID, pins ...identity.ID) {
	t.Helper()
	for _, pin := range append(pins, inForce) {
		sum, err := audit.Verify(audit.Check{Key: pin}, filepath.Join(data, "audit"))
		if err != nil || sum.Key != inForce || sum.TailBytes != 0 {
			t.Errorf("pinned %s: %+v, %v", pin, sum, err)
		}
	}
	if got := keyIn(t, network.AuditKeyPath(data)).ID(); got != inForce {
		t.Errorf("the file holds %s, and %s is in force", got, inForce)
	}
	if _, err := os.Lstat(network.AuditKeyPath(data) + ".next"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of the next key: %v", err)
	}
}

func TestAuditKeyChangesBetweenRuns(t *testing.T) {
	text, data := keptReceipts(t)
	pins := []identity.ID{keyIn(t, network.AuditKeyPath(data)).ID()}
	for range 2 {
		log, _ := newLog()
		r, err := network.RotateAuditKey(t.Context(), parse(t, text), network.Options{Logger: log})
		check(t, err)
		if r.From != pins[len(pins)-1] || r.To == r.From || r.Receipt == 0 || len(r.Head) != 64 || r.File != network.AuditKeyPath(data) {
			t.Errorf("%+v", r)
		}
		wantKeys(t, data, r.To, pins...)
		runOnce(t, text)
		wantKeys(t, data, r.To, pins...)
		pins = append(pins, r.To)
	}
}

// TestKilledAmidAChangeOfTheAuditKey leaves the files as a process does that dies between two steps, and starts the network.
func TestKilledAmidAChangeOfTheAuditKey(t *testing.T) {
	for name, c := range map[string]struct {
		file, log, moved bool // what was done
		next             bool // then the next key is in force
		says             string
	}{
		"the key is written":     {file: true, says: "did not take place"},
		"the log has changed":    {file: true, log: true, next: true, says: "has changed"},
		"the file was moved too": {file: true, log: true, moved: true, next: true},
	} {
		t.Run(name, func(t *testing.T) {
			text, data := keptReceipts(t)
			path := network.AuditKeyPath(data)
			before, next := keyIn(t, path), must(identity.Generate())
			check(t, identity.WriteKeyFile(path+".next", next, nil))
			if c.log {
				l, err := audit.Open(audit.Config{Dir: filepath.Join(data, "audit"), Key: before, Network: "one"})
				check(t, err)
				check(t, errors.Join(l.RotateKey(t.Context(), next), l.Close()))
			}
			if c.moved {
				check(t, os.Rename(path+".next", path))
			}
			inForce := before.ID()
			if c.next {
				inForce = next.ID()
			}
			said := runOnce(t, text)
			if c.says != "" && !strings.Contains(said, c.says) {
				t.Errorf("the log lacks %q:\n%s", c.says, said)
			}
			wantKeys(t, data, inForce, before.ID())
			log, _ := newLog()
			_, err := network.RotateAuditKey(t.Context(), parse(t, text), network.Options{Logger: log})
			check(t, err)
		})
	}
}

// TestNextAuditKeyThatCannotBeRead is one that was half written: the log says whether it is needed.
func TestNextAuditKeyThatCannotBeRead(t *testing.T) {
	text, data := keptReceipts(t)
	path := network.AuditKeyPath(data)
	before, next := keyIn(t, path), must(identity.Generate())
	check(t, os.WriteFile(path+".next", []byte("-----BEGIN"), 0o600))
	runOnce(t, text)
	wantKeys(t, data, before.ID())

	l, err := audit.Open(audit.Config{Dir: filepath.Join(data, "audit"), Key: before, Network: "one"})
	check(t, err)
	check(t, errors.Join(l.RotateKey(t.Context(), next), l.Close()))
	check(t, os.WriteFile(path+".next", []byte("-----BEGIN"), 0o600))
	log, _ := newLog()
	_, err = network.New(t.Context(), parse(t, text), network.Options{Logger: log})
	if !errors.Is(err, audit.ErrDamaged) || !strings.Contains(err.Error(), next.ID().String()) || !strings.Contains(err.Error(), path+".next") {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(path + ".next"); err != nil {
		t.Errorf("the file of the next key is gone: %v", err)
	}
}

func TestAuditKeyThatCannotChange(t *testing.T) {
	text, data := keptReceipts(t)
	log, _ := newLog()
	n := build(t, text, network.Options{Logger: log})
	before := keyIn(t, network.AuditKeyPath(data)).ID()
	_, err := network.RotateAuditKey(t.Context(), parse(t, text), network.Options{Logger: log})
	if !errors.Is(err, audit.ErrLocked) {
		t.Errorf("while the network is there: %v", err)
	}
	check(t, n.Close())
	wantKeys(t, data, before)
	for text, says := range map[string]string{
		one:                                     "the state is temporary",
		text + "audit: {enabled: false}\n":      "audit.enabled is false",
		one + "data: " + t.TempDir() + "/new\n": "there are no receipts",
	} {
		_, err := network.RotateAuditKey(t.Context(), parse(t, text), network.Options{Logger: log})
		wantError(t, err, says)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
