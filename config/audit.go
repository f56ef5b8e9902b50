package config

import (
	"path/filepath"
	"time"

	"github.com/converge-agents/converge/audit"
)

// When receipts are synced to the disk.
const (
	SyncInterval = "interval" // every Audit.Interval
	SyncAlways   = "always"   // and before each tool call begins, and before one that was approved runs
)

// Audit says what is recorded of what agents are sent, decide and do: receipts, hash-chained and signed, which
// `converge audit` verifies and shows.
type Audit struct {
	// Enabled keeps receipts. While they cannot be written, agents do nothing. Default true.
	Enabled bool `key:"enabled"`
	// Dir is the folder, for one process at a time. Default "", which is the folder audit in Data.
	Dir string `key:"dir"`
	// Sync is interval, or always, by which a tool call begins only when that it does is on the disk; see
	// [SyncInterval]. Default interval.
	Sync string `key:"sync"`
	// Interval is how long a receipt may wait for the disk, at least 1ms. Default 1s.
	Interval Duration `key:"interval"`
	// MaxSize is how large a file grows before there is a new one, at least 4KiB. Default 64MiB.
	MaxSize Size `key:"max_size"`
	// Keep bounds all files together, at least twice MaxSize: then the oldest are removed, and a receipt says so. 0
	// keeps all. Default 4GiB.
	Keep Size `key:"keep"`
	// Record keeps what agents see and decide in full, contents of messages, tasks and tool results included, so
	// that `converge audit replay` can have them decide again. THESE MAY HOLD SECRETS. Default false.
	Record bool `key:"record"`
}

func (a *Audit) setDefaults() {
	*a = Audit{
		Enabled: true, Sync: SyncInterval, Interval: Duration(audit.DefaultInterval),
		MaxSize: audit.DefaultMaxSize, Keep: audit.DefaultKeep,
	}
}

// AuditDir returns the folder of the receipts, in a state directory.
func (c *Config) AuditDir(data string) string {
	if c.Audit.Dir != "" {
		return c.Audit.Dir
	}
	return filepath.Join(data, "audit")
}

func (k checker) audit() {
	a := k.Audit
	if !a.Enabled {
		return
	}
	k.oneOf("audit.sync", a.Sync, SyncInterval, SyncAlways)
	if time.Duration(a.Interval) < time.Millisecond {
		k.bad("audit.interval", "", "want at least 1ms, not %s", a.Interval)
	}
	if a.MaxSize < audit.MinMaxSize {
		k.bad("audit.max_size", "", "want at least %s, not %s", Size(audit.MinMaxSize), a.MaxSize)
	}
	if a.Keep != 0 && a.Keep < 2*a.MaxSize {
		k.bad("audit.keep", "0 keeps all", "want at least twice max_size, %s, not %s", 2*a.MaxSize, a.Keep)
	}
}
