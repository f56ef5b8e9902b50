package config_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

func TestAuditSection(t *testing.T) {
	c, err := config.Parse("etc/c.yaml", []byte(`network: n
data: state
audit: {sync: always, interval: 10ms, max_size: 8KiB, keep: 0, record: true}
`), config.Options{Environ: []string{"CONVERGE_AUDIT_MAX_SIZE=1MiB"}})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Audit{Enabled: true, Sync: config.SyncAlways, Interval: config.Duration(10 * time.Millisecond), MaxSize: 1 << 20, Record: true}
	if c.Audit != want {
		t.Errorf("%+v, want %+v", c.Audit, want)
	}
	if dir := c.AuditDir(c.Data); dir != filepath.FromSlash("etc/state/audit") {
		t.Errorf("the folder is %s", dir)
	}
	c.Audit.Dir = "elsewhere"
	if dir := c.AuditDir(c.Data); dir != "elsewhere" {
		t.Errorf("the folder is %s", dir)
	}
}

func TestAuditSectionIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"{sync: sometimes}":             `audit.sync: unknown value "sometimes"`,
		"{interval: 1us}":               "audit.interval: want at least 1ms, not 1µs",
		"{max_size: 100}":               "audit.max_size: want at least 4KiB, not 100B",
		"{max_size: 1GiB, keep: 1GiB}":  "audit.keep: want at least twice max_size, 2GiB, not 1GiB",
		"{enable: true}":                "audit.enable: unknown key",
		"{enabled: false, sync: never}": "",
	} {
		_, err := config.Parse("c.yaml", []byte("network: n\naudit: "+text+"\n"), config.Options{})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if all := problems(t, err); len(all) != 1 || all[0].Key+": "+all[0].Msg != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
