package network_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/converge-agents/converge/network"
)

func TestUnreadableFolderIsNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "open/a", "secret/b")
	secret := filepath.Join(dir, "secret")
	check(t, os.Chmod(secret, 0))
	t.Cleanup(func() { check(t, os.Chmod(secret, 0o755)) })

	c := parse(t, catFiles(1, dir, ""))
	_, err := newAsNobody(t, dir, func() (*network.Network, error) { return network.New(t.Context(), c, network.Options{}) })
	wantError(t, err, `agent "coordinator": tasks[0]: each: "**" in "`+dir+`": `)
	wantError(t, err, "secret: permission denied")

	// A folder that is excluded need not be readable.
	c.Agents[1].Tasks[0].Exclude = []string{"secret/**"}
	n, err := newAsNobody(t, dir, func() (*network.Network, error) { return network.New(t.Context(), c, network.Options{}) })
	check(t, err)
	defer n.Close()
	wantRows(t, n.Report(), "open/a")
}

// newAsNobody calls f on a thread to which file modes apply, even if the test runs as root.
func newAsNobody(t *testing.T, dir string, f func() (*network.Network, error)) (n *network.Network, err error) {
	t.Helper()
	const nobody = 65534
	check(t, os.Chmod(filepath.Dir(dir), 0o755))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if _, err = unix.SetfsuidRetUid(nobody); err == nil {
			n, err = f()
		}
	}()
	<-done
	return n, err
}
