package task

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/proof"
	"github.com/converge-agents/converge/message"
)

// KeySource returns the keys of agents; an [identity.Registry] is one. One that has a method
// LookupEpoch(identity.ID, uint64) (identity.Key, error) is asked for the key of the epoch that a proof
// names, and can let what was signed with an earlier key of an agent go on verifying.
type KeySource = proof.KeySource

// Verifier tells whether agents have signed what is said of the tasks of one network. It is safe for
// concurrent use. Agents that it does not know have signed nothing. One that it has known goes on counting for
// what it has signed, since tasks outlive the presence of those who work on them, but not for anything new.
//
// It remembers such agents, and signatures over several statements that it has verified, each up to a bound; one
// Verifier for all who look at the same tasks saves the others the work.
type Verifier struct {
	network string
	proofs  *proof.Verifier
}

// NewVerifier returns a verifier that takes the agents' keys from keys.
func NewVerifier(keys KeySource, network string) (*Verifier, error) {
	if keys == nil {
		return nil, errors.New("task.NewVerifier: a source of keys is required")
	}
	if err := message.CheckNetwork(network); err != nil {
		return nil, fmt.Errorf("task.NewVerifier: %w", err)
	}
	return &Verifier{network, proof.NewVerifier(keys)}, nil
}

// Remember tells v of an agent that was known once, with its root key: what it has signed goes on counting. It is
// for those who keep such keys over restarts, as identity.Saver does.
func (v *Verifier) Remember(agent identity.ID, root ed25519.PublicKey) {
	v.proofs.Remember(agent, root)
}

// VerifySpec reports why the submitter that a spec names cannot be shown to have submitted it: [ErrUnsigned]
// or [ErrForged].
func (v *Verifier) VerifySpec(s *Spec) error {
	return v.submission(s, s.submission())
}

// submission is VerifySpec for a spec with its encoding.
func (v *Verifier) submission(s *Spec, encoded []byte) error {
	return v.verify(v.proofs.VerifyPast, "its submitter", s.Submitter, submissionStatement(v.network, encoded), s.Proof)
}

// VerifyEnding reports why the agent that a task names as its claimant cannot be shown to have ended it so,
// after it was submitted so: [ErrUnsigned] or [ErrForged]. Who submitted it is for [Verifier.VerifySpec].
func (v *Verifier) VerifyEnding(t *Task) error {
	if t.Status != Completed && t.Status != Failed {
		return fmt.Errorf("%w: a task that is %s has not been ended by its claimant", ErrUnsigned, t.Status)
	}
	return v.ending(&ended{
		taskID: t.ID, submission: t.Spec.Digest(), epoch: t.Epoch, claimant: t.Claimant,
		status: t.Status, outcome: newOutcome(t.Result, t.ResultType, t.Error),
	}, t.ResultProof)
}

func (v *Verifier) ending(e *ended, p []byte) error {
	return v.verify(v.proofs.VerifyPast, "its claimant", e.claimant, e.statement(v.network), p)
}

func (v *Verifier) verify(how func(identity.ID, proof.Statement, []byte) error, role string, by identity.ID, s proof.Statement, p []byte) error {
	switch err := how(by, s, p); {
	case err == nil:
		return nil
	case errors.Is(err, proof.ErrMissing):
		return fmt.Errorf("%w: %s, agent %s", ErrUnsigned, role, by.Short())
	case errors.Is(err, identity.ErrUnknown):
		return &strangerError{by, fmt.Errorf("%w: %s: %w", ErrForged, role, err)}
	default:
		return fmt.Errorf("%w: %s, agent %s: %w", ErrForged, role, by.Short(), err)
	}
}

func (v *Verifier) knows(agent identity.ID) bool { return v.proofs.Knows(agent) }

// verifySubmission reports why a new record is not of the submitter that it names. A manager that is unsafe
// believes everything.
func (m *Manager) verifySubmission(r *record) error {
	if m.verifier == nil {
		return nil
	}
	v := m.verifier
	return v.verify(v.proofs.Verify, "its submitter", r.spec.Submitter, submissionStatement(v.network, r.encoded), r.spec.Proof)
}

// verifyEnding reports why the holder of a claim has not signed how it ends the task in r.
func (m *Manager) verifyEnding(r *record, e *Ending, o *outcome) error {
	if m.verifier == nil {
		return nil
	}
	v := m.verifier
	says := &ended{r.spec.ID, digestOf(r.encoded), r.epoch, r.claimant, e.Status, o}
	return v.verify(v.proofs.Verify, "its claimant", r.claimant, says.statement(v.network), e.Proof)
}

// verifyRecord reports why what a record says is not the word of those whom it names. Of a task that is known
// the submission was verified before. What has failed without a claimant's proof was ended by a manager, and
// has no reasons but those of managers.
func (m *Manager) verifyRecord(r *record) error {
	if m.verifier == nil {
		return nil
	}
	known := m.recall(r.spec.ID)
	if known == nil || !bytes.Equal(known.encoded, r.encoded) || !bytes.Equal(known.spec.Proof, r.spec.Proof) {
		if err := m.verifier.submission(&r.spec, r.encoded); err != nil {
			return err
		}
	}
	if r.status != Completed && (r.status != Failed || r.endedByManager()) {
		return nil
	}
	var p []byte
	if r.outcome != nil {
		p = r.outcome.proof
	}
	return m.verifier.ending(&ended{r.spec.ID, digestOf(r.encoded), r.epoch, r.claimant, r.status, r.outcome}, p)
}
