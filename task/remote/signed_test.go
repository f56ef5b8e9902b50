package remote_test

import (
	"errors"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/task"
)

// newSignedSite is a site that believes what is signed.
func newSignedSite(t *testing.T) *site {
	s := newSite(t)
	s.stop()
	s.verifier = must(task.NewVerifier(s.registry, "test"))
	s.open()
	return s
}

func signerOf(id *identity.Identity) *task.Signer { return must(task.NewSigner(id, "test")) }

func signed(t *testing.T, by *identity.Identity, s task.Spec) task.Spec {
	t.Helper()
	if errs := signerOf(by).SignSpecs(&s); errs != nil {
		t.Fatal(errs)
	}
	return s
}

// TestSignaturesComeThroughAHost has Alice submit and Bob work, with all that can be set of a task, and shows
// that Alice can prove who did it, and Bob what he was asked to do.
func TestSignaturesComeThroughAHost(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSignedSite(t)
		boss, worker := s.client(alice), s.client(bob, "work")
		var ends recorder
		defer boss.Attach(ends.listen)()
		spec := signed(t, alice, task.Spec{
			Kind: "work", Capabilities: []string{"work"}, Params: []byte(`{"n": 1}`), Priority: -1, MaxAttempts: 3,
			Deadline: time.Now().Add(time.Hour + 1), NotBefore: time.Now().Add(time.Second + 1), IdempotencyKey: "k",
		})
		for range 2 { // once more, as if the answer had been lost
			if got, err := boss.Submit(t.Context(), spec); err != nil || s.verifier.VerifySpec(&got.Spec) != nil {
				t.Fatalf("%+v, %v", got, err)
			}
		}
		time.Sleep(2 * time.Second)
		claim, shown, err := worker.Claim(t.Context(), spec.ID, task.Profile{Agent: bob.ID()})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.verifier.VerifySpec(&shown.Spec); err != nil {
			t.Errorf("Bob is shown %+v: %v", shown, err)
		}
		end := task.Completion(claim, []byte("42"), "text/plain")
		if errs := signerOf(bob).SignEndings(&end); errs != nil {
			t.Fatal(errs)
		}
		for range 2 {
			if _, err := worker.End(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		told := ends.tell()
		if len(told) == 0 || told[len(told)-1].Status != task.Completed {
			t.Fatalf("Alice was told %+v", told)
		}
		last := told[len(told)-1]
		if err := errors.Join(s.verifier.VerifySpec(&last.Spec), s.verifier.VerifyEnding(&last)); err != nil {
			t.Errorf("Alice cannot prove %+v: %v", last, err)
		}
	})
}

// TestHostRefusesWhatTheAgentItselfHasNotSigned: that a request is signed is not enough.
func TestHostRefusesWhatTheAgentItselfHasNotSigned(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newSignedSite(t)
		boss, worker, thief := s.client(alice), s.client(bob), s.client(mallory)
		spec := signed(t, alice, task.Spec{ID: "a", Kind: "work"})
		_, err := boss.Submit(t.Context(), task.Spec{ID: "b", Kind: "work"})
		expectErr(t, "submission without a signature", err, task.ErrUnsigned)
		_, err = thief.Submit(t.Context(), spec)
		expectErr(t, "submission with Alice's signature", err, task.ErrForged)
		altered := spec
		altered.Priority++
		_, err = boss.Submit(t.Context(), altered)
		expectErr(t, "submission altered after signing", err, task.ErrForged)
		if _, err := boss.Submit(t.Context(), spec); err != nil {
			t.Fatal(err)
		}

		claim := worker.mustClaim(t, "a")
		_, err = worker.Report(t.Context(), claim, []byte("42"), "")
		expectErr(t, "report without a signature", err, task.ErrUnsigned)
		_, err = worker.Fail(t.Context(), claim, "why")
		expectErr(t, "failure without a signature", err, task.ErrUnsigned)
		end := task.Completion(claim, []byte("42"), "")
		if errs := signerOf(bob).SignEndings(&end); errs != nil {
			t.Fatal(errs)
		}
		_, err = thief.End(t.Context(), end)
		expectErr(t, "Bob's report by Mallory", err, task.ErrClaimLost)
		other := end
		other.Result = []byte("43")
		_, err = worker.End(t.Context(), other)
		expectErr(t, "another result", err, task.ErrForged)
		deceived := claim // as if a host had shown Bob other params than were submitted
		deceived.Submission[0]++
		lie := task.Completion(deceived, []byte("42"), "")
		if errs := signerOf(bob).SignEndings(&lie); errs != nil {
			t.Fatal(errs)
		}
		_, err = worker.End(t.Context(), lie)
		expectErr(t, "a result for other params", err, task.ErrForged)
		if _, err := worker.End(t.Context(), end); err != nil {
			t.Error(err)
		}
	})
}
