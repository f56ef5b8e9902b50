package task

import (
	"crypto/sha256"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/proof"
)

// The kinds of statements that agents sign about tasks; see docs/wire.md.
var (
	submissionKind = proof.Kind{Domain: cose.DomainTask, Typ: "application/converge-task"}
	endingKind     = proof.Kind{Domain: cose.DomainResult, Typ: "application/converge-result"}
)

// Digest is the SHA-256 digest of what was submitted: of a Spec in deterministic CBOR, without its proof.
type Digest [sha256.Size]byte

// Digest returns the digest of a complete Spec, such as one that [Signer.SignSpecs] has signed or a manager has
// returned.
func (s *Spec) Digest() Digest { return digestOf(s.submission()) }

func digestOf(submission []byte) Digest { return sha256.Sum256(submission) }

// submissionStatement is what the submitter of a task signs: [network, submission], the second of which is
// taken as it is in the record.
func submissionStatement(network string, submission []byte) proof.Statement {
	b := make([]byte, 0, len(network)+len(submission)+3)
	b = cose.AppendText(cose.AppendArray(b, 2), network)
	return proof.Statement{Kind: submissionKind, Payload: append(b, submission...)}
}

// ended is how a task has ended, as the agent that held it says.
type ended struct {
	taskID     string
	submission Digest
	epoch      uint64
	claimant   identity.ID
	status     Status
	outcome    *outcome
}

// statement is what the claimant signs: a map that names network, task, what was submitted, claim and agent,
// so that it holds for nothing else, and the outcome with a digest in the place of the result.
func (e *ended) statement(network string) proof.Statement {
	w := cose.NewMapWriter(make([]byte, 0, 256))
	w.Text(1, network)
	w.Text(2, e.taskID)
	w.Bytes(3, e.submission[:])
	w.Uint(4, e.epoch)
	w.Bytes(5, e.claimant[:])
	w.Uint(6, uint64(e.status))
	var o outcome
	if e.outcome != nil {
		o = *e.outcome
	}
	if e.status == Completed {
		digest := sha256.Sum256(o.result)
		w.Bytes(7, digest[:])
	}
	w.Text(8, o.resultType)
	w.Text(9, o.reason)
	return proof.Statement{Kind: endingKind, Payload: w.End()}
}
