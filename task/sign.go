package task

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/proof"
	"github.com/converge-agents/converge/message"
)

// Ending is how an agent ends a task that it holds.
type Ending struct {
	Claim  Claim
	Status Status // Completed or Failed

	Result     []byte // of a task that is completed, at most MaxResult bytes
	ResultType string // its media type; may be empty
	Reason     string // for a failure, of which MaxReason bytes are kept

	Permanent bool // of a failure: nobody can do the task, so that it has failed whatever attempts it has left

	Proof []byte // that the holder of the claim says so; see Signer.SignEndings
}

// Completion returns the ending of a task that has been done.
func Completion(c Claim, result []byte, mediaType string) Ending {
	return Ending{Claim: c, Status: Completed, Result: result, ResultType: mediaType}
}

// Failure returns the ending of a task that could not be done.
func Failure(c Claim, reason string) Ending {
	return Ending{Claim: c, Status: Failed, Reason: fitReason(reason)}
}

// outcome returns what a record keeps of the ending. It shares the result.
func (e *Ending) outcome() *outcome {
	return newOutcome(e.Result, e.ResultType, fitReason(e.Reason)).provenBy(e.Proof)
}

// check holds an ending to the rules.
func (e *Ending) check() error {
	switch {
	case e.Status != Completed && e.Status != Failed:
		return invalid("Status is %s; an ending is completed or failed", e.Status)
	case e.Status == Completed && e.Reason != "", e.Status == Failed && (len(e.Result) > 0 || e.ResultType != ""), e.Status == Completed && e.Permanent:
		return invalid("a task that is %s has a result or a reason, and not the other", e.Status)
	}
	if err := checkProof(e.Proof); err != nil {
		return err
	}
	return checkResult(e.Result, e.ResultType)
}

// ended returns what the claimant of an ending says.
func (e *Ending) ended() *ended {
	return &ended{
		taskID: e.Claim.TaskID, submission: e.Claim.Submission, epoch: e.Claim.Epoch, claimant: e.Claim.Agent,
		status: e.Status, outcome: e.outcome(),
	}
}

// Signer signs what an agent submits to a network, and how it ends the tasks that it holds. It is safe for
// concurrent use. What comes while a signature is being made shares the next one, as messages do; what
// comes alone is signed at once.
type Signer struct {
	network string
	proofs  *proof.Signer
}

// NewSigner returns a signer for an agent in a network; see [message.CheckNetwork] for its name.
func NewSigner(id *identity.Identity, network string) (*Signer, error) {
	if id == nil {
		return nil, errors.New("task.NewSigner: an identity is required")
	}
	if err := message.CheckNetwork(network); err != nil {
		return nil, fmt.Errorf("task.NewSigner: %w", err)
	}
	return &Signer{network, proof.NewSigner(id)}, nil
}

// ID returns the agent that s signs for.
func (s *Signer) ID() identity.ID { return s.proofs.ID() }

// Rotate has s sign with another key of its agent from now on. It refuses the identity of another agent.
func (s *Signer) Rotate(id *identity.Identity) error { return s.proofs.Rotate(id) }

// Signed returns how many submissions and endings s has signed.
func (s *Signer) Signed() uint64 { return s.proofs.Signed() }

// SignSpecs makes specs submissions of the signer's agent: it fills in what they leave to others (ID,
// Params, the order of Capabilities, ClaimTTL, for which it is [DefaultClaimTTL]), and Submitter and Proof.
// Nothing may be changed afterwards. It shares no memory with what they held. Several share a signature.
// errs is nil if all were signed; one that is nil itself was. Errors wrap [ErrInvalid].
func (s *Signer) SignSpecs(specs ...*Spec) (errs []error) {
	b := batch{signer: s}
	for i, spec := range specs {
		encoded, err := s.complete(spec)
		if err != nil {
			err = taskError("sign", spec.ID, err)
		}
		b.add(i, err, len(specs), func() proof.Statement { return submissionStatement(s.network, encoded) }, &spec.Proof)
	}
	return b.sign()
}

// complete makes a spec one of the signer's agent, and returns its encoding.
func (s *Signer) complete(spec *Spec) ([]byte, error) {
	if !spec.Submitter.IsZero() && spec.Submitter != s.ID() {
		return nil, invalid("Submitter is agent %s, and the signer is of agent %s", spec.Submitter.Short(), s.ID().Short())
	}
	whole := *spec
	if whole.Submitter = s.ID(); whole.ID == "" && whole.IdempotencyKey == "" {
		whole.ID = NewID()
	}
	whole, err := whole.checked(DefaultClaimTTL)
	if err != nil {
		return nil, err
	}
	*spec = whole
	return whole.submission(), nil
}

// SignEndings sets the Proof of endings of tasks that the signer's agent holds. Several share a signature.
// errs is nil if all were signed; one that is nil itself was. Errors wrap [ErrInvalid].
func (s *Signer) SignEndings(endings ...*Ending) (errs []error) {
	b := batch{signer: s}
	for i, e := range endings {
		err := e.check()
		if err == nil && e.Claim.Agent != s.ID() {
			err = invalid("the claim is of agent %s, and the signer is of agent %s", e.Claim.Agent.Short(), s.ID().Short())
		}
		if err != nil {
			err = taskError("sign the end of", e.Claim.TaskID, err)
		}
		b.add(i, err, len(endings), func() proof.Statement { return e.ended().statement(s.network) }, &e.Proof)
	}
	return b.sign()
}

// batch is statements that are signed together, and where their proofs go.
type batch struct {
	signer     *Signer
	statements []proof.Statement
	proofs     []*[]byte
	errs       []error
}

// add takes in the statement at a place among n, or why there is none.
func (b *batch) add(place int, err error, n int, statement func() proof.Statement, to *[]byte) {
	if err != nil {
		if b.errs == nil {
			b.errs = make([]error, n)
		}
		b.errs[place] = err
		return
	}
	b.statements = append(b.statements, statement())
	b.proofs = append(b.proofs, to)
}

func (b *batch) sign() []error {
	if len(b.statements) == 1 { // which may share a signature with those of others
		*b.proofs[0] = b.signer.proofs.Sign(b.statements[0])
		return b.errs
	}
	for i, p := range b.signer.proofs.SignAll(b.statements) {
		*b.proofs[i] = p
	}
	return b.errs
}
