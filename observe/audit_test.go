package observe_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/observe"
)

// TestReceiptsAreCounted also looks at what there is without a log: nothing.
func TestReceiptsAreCounted(t *testing.T) {
	m := observe.NewMetrics()
	if body := get(m, "GET", "/metrics").Body.String(); strings.Contains(body, "converge_audit") {
		t.Error("there are metrics of a log that is not there")
	}
	l := must(audit.Open(audit.Config{Dir: t.TempDir(), Key: agent(9), Network: network}))
	m.AddAudit(l)
	m.Require("audit", func() bool { return l.Healthy() == nil })
	for range 3 {
		must(l.Append(&audit.Receipt{Kind: audit.KindStart}))
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := get(m, "GET", "/metrics").Body.String()
	for _, want := range []string{
		"converge_audit_receipts_total 4\n", "converge_audit_synced_total 4\n", "converge_audit_broken 0\n",
		"converge_audit_files_removed_total 0\n", "converge_audit_bytes_total ", "converge_audit_checkpoints_total 2\n",
		fmt.Sprintf("converge_audit_last_sync_timestamp_seconds %v\n", float64(l.Stats().LastSync.UnixMilli())/1e3),
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("no %q among the metrics", want)
		}
	}
	if w := get(m, "GET", "/readyz"); w.Code != good {
		t.Errorf("/readyz says %d", w.Code)
	}
	l.Close()
	if w := get(m, "GET", "/readyz"); w.Code != bad || !bytes.Contains(w.Body.Bytes(), []byte(`{"name":"audit","met":false}`)) {
		t.Errorf("without a log /readyz says %d, %s", w.Code, w.Body)
	}
}
