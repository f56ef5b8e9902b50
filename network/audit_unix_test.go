//go:build unix

package network_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/network"
)

// TestToolFindsItsReceiptsOnTheDisk has a tool copy the log of receipts while it runs: with sync: always, all that led to the
// call is there, under a signature.
func TestToolFindsItsReceiptsOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	receipts, copied := filepath.Join(dir, "audit"), filepath.Join(dir, "copied")
	if err := os.Mkdir(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	check(t, os.Mkdir(receipts, 0o700))
	tool := fmt.Sprintf(`{command: [cp, -r, %s, %s], read: [%s], write: [%s]}`, receipts, copied, receipts, copied)
	rules := "policy: {rules: [{when: 'true', then: allow}]}\n"
	n := build(t, withTool(tool, "{}")+rules+fmt.Sprintf("audit: {dir: %s, sync: always, interval: 1h}\n", receipts), network.Options{})
	if r := runJob(t, n); r.Tasks.Completed != 1 {
		t.Fatalf("report %+v", r)
	}
	files, err := filepath.Glob(filepath.Join(copied, "audit", "*.audit"))
	check(t, err)
	var kinds []audit.Kind
	summary, err := audit.Verify(audit.Check{Each: func(e *audit.Entry) error {
		kinds = append(kinds, e.Kind)
		return nil
	}}, files...)
	check(t, err)
	for _, want := range []audit.Kind{audit.KindCall, audit.KindApproval} {
		if !slices.Contains(kinds[:summary.Signed], want) {
			t.Errorf("no receipt of the kind %s was on the disk when the tool ran: %v, %d of them signed", want, kinds, summary.Signed)
		}
	}
}
