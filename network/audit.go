package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
)

// AuditKeyPath returns where the key lies that signs the receipts. No agent holds it.
func AuditKeyPath(dataDir string) string { return filepath.Join(dataDir, "audit.pem") }

// openAudit opens the log of receipts, unless the configuration has none.
func (n *Network) openAudit() error {
	c := n.config.Audit
	if !c.Enabled {
		return nil
	}
	keys, err := n.auditKeys()
	if err != nil {
		return err
	}
	keep := int64(c.Keep)
	if keep == 0 {
		keep = -1
	}
	n.audit, err = audit.Open(audit.Config{
		Dir: n.config.AuditDir(n.dir), Key: keys.key, Next: keys.next, Network: n.config.Network, Interval: time.Duration(c.Interval),
		MaxSize: int64(c.MaxSize), Keep: keep, Logger: n.log,
	})
	if err == nil {
		err = keys.settle(n.audit.Key(), n.log)
	}
	if err != nil {
		return errors.Join(err, keys.unread)
	}
	if c.Record {
		n.log.Warn("recording all that agents see and decide; that may hold secrets", "folder", n.audit.Dir())
	}
	n.metrics.AddAudit(n.audit)
	n.metrics.Require("audit", func() bool { return n.audit.Healthy() == nil })
	return nil
}

// auditConfig returns what an agent's receipts are to be.
func (n *Network) auditConfig() converge.AuditConfig {
	return converge.AuditConfig{Log: n.audit, Content: n.config.Audit.Record, Sync: n.config.Audit.Sync == config.SyncAlways}
}

// flushAudit makes the receipts durable, so that the report can tell of them.
func (n *Network) flushAudit() error {
	if n.audit == nil {
		return nil
	}
	return n.audit.Flush(context.Background())
}

// closeAudit ends the log; all who write to it have ended.
func (n *Network) closeAudit() error {
	if n.audit == nil {
		return nil
	}
	if err := n.audit.Close(); err != nil {
		return fmt.Errorf("close audit log: %w", err)
	}
	return nil
}

// AuditReport says where the receipts are.
type AuditReport struct {
	Receipts uint64 `json:"receipts"` // that are on the disk, from the first one of the log on
	Head     string `json:"head"`     // the hash of the last one, for `converge audit verify --head`
	Folder   string `json:"folder"`   // "" if it is gone with the temporary state
}

func (n *Network) auditReport() AuditReport {
	if n.audit == nil {
		return AuditReport{}
	}
	seq, head := n.audit.Head()
	r := AuditReport{Receipts: seq, Head: hex.EncodeToString(head[:]), Folder: n.audit.Dir()}
	if n.removes && n.config.Audit.Dir == "" {
		r.Folder = ""
	}
	return r
}

// line is the report's line.
func (r AuditReport) line() string {
	if r.Folder == "" {
		return fmt.Sprintf("receipts   %d, gone with the temporary state\n", r.Receipts)
	}
	return fmt.Sprintf("receipts   %d in %s, head %s\n", r.Receipts, r.Folder, r.Head)
}
