package task_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// newSigned returns a manager that knows the cast, and believes nobody else.
func newSigned(t testing.TB, s store.Store) *task.Manager {
	t.Helper()
	return newManager(t, s, func(c *task.Config) { c.UnsignedUnsafe, c.Verifier = false, newVerifier(t) })
}

func profileOf(id *identity.Identity) task.Profile { return task.Profile{Agent: id.ID()} }

// signed returns a spec as that agent submits it.
func signed(t testing.TB, by *identity.Identity, s task.Spec) task.Spec {
	t.Helper()
	if s.Kind == "" {
		s.Kind = "work"
	}
	if errs := signerOf(t, by).SignSpecs(&s); errs != nil {
		t.Fatal(errs)
	}
	return s
}

func submitted(t testing.TB, m *task.Manager, s task.Spec) task.Task {
	t.Helper()
	got, err := m.Submit(t.Context(), signed(t, ann, s))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func claimedBy(t testing.TB, m *task.Manager, id string, by *identity.Identity) task.Claim {
	t.Helper()
	c, _, err := m.Claim(t.Context(), id, profileOf(by))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// by signs an ending as an agent does, which says that the claim is its own.
func by(t testing.TB, id *identity.Identity, e task.Ending) task.Ending {
	t.Helper()
	holder := e.Claim.Agent
	e.Claim.Agent = id.ID()
	if errs := signerOf(t, id).SignEndings(&e); errs != nil {
		t.Fatal(errs)
	}
	e.Claim.Agent = holder
	return e
}

// done is how Ben completes a task that he holds.
func done(t testing.TB, c task.Claim) task.Ending {
	return by(t, ben, task.Completion(c, []byte("42"), "text/plain"))
}

func TestWhatIsSignedIsProvenByTheRecord(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	m := newSigned(t, s)
	defer m.Attach(func(task.Task) {})()
	spec := task.Spec{
		ID: "done", Params: []byte(`{"n": 1}`), Capabilities: []string{"b", "a"}, Topic: message.MustTopic("a.b"), Pool: "p",
		Deadline: time.Now().Add(time.Hour), Priority: 3, MaxAttempts: 1, IdempotencyKey: "",
	}
	submitted(t, m, spec)
	submitted(t, m, task.Spec{ID: "failed"})
	p := task.Profile{Agent: ben.ID(), Capabilities: []string{"a", "b"}, Pools: []string{"p"}, Topics: []message.Pattern{message.MustPattern(">")}}
	c, _, err := m.Claim(t.Context(), "done", p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.End(t.Context(), done(t, c)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.End(t.Context(), by(t, ben, task.Failure(claimedBy(t, m, "failed", ben), strings.Repeat("ä", 9000)))); err != nil {
		t.Fatal(err)
	}
	other := newSigned(t, s)
	for id, status := range map[string]task.Status{"done": task.Completed, "failed": task.Failed} {
		for _, m := range []*task.Manager{m, other} {
			got, err := m.Get(t.Context(), id)
			if err != nil || got.Status != status {
				t.Fatalf("%v, %v", got, err)
			}
			if err := errors.Join(newVerifier(t).VerifySpec(&got.Spec), newVerifier(t).VerifyEnding(&got)); err != nil {
				t.Error(err)
			}
		}
	}
	if n := m.Stats().Corrupt + other.Stats().Corrupt; n != 0 {
		t.Errorf("%d records are taken for corrupt", n)
	}
}

func TestSubmissionThatItsSubmitterHasNotSignedIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	m := newSigned(t, s)
	good := signed(t, ann, task.Spec{
		ID: "t", Params: []byte(`{"n":1}`), Capabilities: []string{"a"}, Topic: message.MustTopic("a.b"), Pool: "p",
		Deadline: time.Now().Add(time.Hour), NotBefore: time.Now().Add(time.Minute), Priority: 1, MaxAttempts: 2,
	})
	stranger, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := task.NewSigner(ann, "other.example")
	if err != nil {
		t.Fatal(err)
	}
	abroad := good
	if errs := elsewhere.SignSpecs(&abroad); errs != nil {
		t.Fatal(errs)
	}
	changed := func(change func(*task.Spec)) task.Spec { s := good; change(&s); return s }
	for what, c := range map[string]struct {
		spec task.Spec
		want error
	}{
		"unsigned":                  {changed(func(s *task.Spec) { s.Proof = nil }), task.ErrUnsigned},
		"half a signature":          {changed(func(s *task.Spec) { s.Proof = s.Proof[:30] }), task.ErrForged},
		"signed by Mallory":         {changed(func(s *task.Spec) { s.Proof = signed(t, mallory, task.Spec{ID: "t"}).Proof }), task.ErrForged},
		"of another submitter":      {changed(func(s *task.Spec) { s.Submitter = mallory.ID() }), task.ErrForged},
		"of a stranger":             {signed(t, stranger, task.Spec{ID: "t"}), identity.ErrUnknown},
		"signed for another one":    {changed(func(s *task.Spec) { s.Proof = signed(t, ann, task.Spec{ID: "u"}).Proof }), task.ErrForged},
		"with another ID":           {changed(func(s *task.Spec) { s.ID = "u" }), task.ErrForged},
		"with another kind":         {changed(func(s *task.Spec) { s.Kind = "play" }), task.ErrForged},
		"with other params":         {changed(func(s *task.Spec) { s.Params = []byte(`{"n":2}`) }), task.ErrForged},
		"with params set otherwise": {changed(func(s *task.Spec) { s.Params = []byte(`{"n": 1}`) }), task.ErrForged},
		"for everybody":             {changed(func(s *task.Spec) { s.Capabilities = nil }), task.ErrForged},
		"on no topic":               {changed(func(s *task.Spec) { s.Topic = message.Topic{} }), task.ErrForged},
		"outside of the pool":       {changed(func(s *task.Spec) { s.Pool = "" }), task.ErrForged},
		"for longer claims":         {changed(func(s *task.Spec) { s.ClaimTTL++ }), task.ErrForged},
		"with a later deadline":     {changed(func(s *task.Spec) { s.Deadline = s.Deadline.Add(1) }), task.ErrForged},
		"to begin at once":          {changed(func(s *task.Spec) { s.NotBefore = time.Time{} }), task.ErrForged},
		"with higher priority":      {changed(func(s *task.Spec) { s.Priority++ }), task.ErrForged},
		"with more attempts":        {changed(func(s *task.Spec) { s.MaxAttempts++ }), task.ErrForged},
		"for another network":       {abroad, task.ErrForged},
	} {
		if _, err := m.Submit(t.Context(), c.spec); !errors.Is(err, c.want) {
			t.Errorf("a submission %s: %v, want %v", what, err, c.want)
		}
	}
	for e := range s.List(t.Context(), "") {
		t.Errorf("what was refused is on the store: %s", e.Key)
	}
	if _, err := m.Submit(t.Context(), good); err != nil {
		t.Error(err)
	}
}

// TestResultThatTheHolderHasNotSignedIsRefused has Ben hold two tasks, of a manager that knows them by heart
// and of one that reads them each time.
func TestResultThatTheHolderHasNotSignedIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("attached", func(t *testing.T) {
		m := newSigned(t, newStore(t))
		defer m.Attach(func(task.Task) {})()
		refuseWhatBenHasNotSigned(t, m)
	})
	t.Run("alone", func(t *testing.T) { refuseWhatBenHasNotSigned(t, newSigned(t, newStore(t))) })
}

func refuseWhatBenHasNotSigned(t *testing.T, m *task.Manager) {
	submitted(t, m, task.Spec{ID: "t", Params: []byte(`{"n":1}`)})
	submitted(t, m, task.Spec{ID: "u"})
	first := claimedBy(t, m, "t", ben)
	if _, err := m.Release(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	c, other := claimedBy(t, m, "t", ben), claimedBy(t, m, "u", ben)
	good := done(t, c)
	changed := func(change func(*task.Ending)) task.Ending { e := good; change(&e); return e }
	of := func(c task.Claim) []byte { return done(t, c).Proof }
	elsewhere, err := task.NewSigner(ben, "other.example")
	if err != nil {
		t.Fatal(err)
	}
	abroad := good
	if errs := elsewhere.SignEndings(&abroad); errs != nil {
		t.Fatal(errs)
	}
	rival := c
	rival.Submission[0]++
	for what, d := range map[string]struct {
		ending task.Ending
		want   error
	}{
		"unsigned":                  {changed(func(e *task.Ending) { e.Proof = nil }), task.ErrUnsigned},
		"half a signature":          {changed(func(e *task.Ending) { e.Proof = e.Proof[:40] }), task.ErrForged},
		"signed by Mallory":         {by(t, mallory, good), task.ErrForged},
		"signed by Ann":             {by(t, ann, good), task.ErrForged},
		"with another result":       {changed(func(e *task.Ending) { e.Result = []byte("43") }), task.ErrForged},
		"with another type":         {changed(func(e *task.Ending) { e.ResultType = "text/html" }), task.ErrForged},
		"as a failure":              {changed(func(e *task.Ending) { e.Status, e.Result, e.ResultType = task.Failed, nil, "" }), task.ErrForged},
		"of another task":           {changed(func(e *task.Ending) { e.Proof = of(other) }), task.ErrForged},
		"of the claim before":       {changed(func(e *task.Ending) { e.Proof = of(first) }), task.ErrForged},
		"of what was not submitted": {changed(func(e *task.Ending) { e.Proof = of(rival) }), task.ErrForged},
		"for another network":       {abroad, task.ErrForged},
		"the submitter's proof":     {changed(func(e *task.Ending) { e.Proof = signed(t, ben, task.Spec{ID: "t"}).Proof }), task.ErrForged},
		"of who has no claim":       {changed(func(e *task.Ending) { e.Claim.Agent = mallory.ID() }), task.ErrClaimLost},
	} {
		if _, err := m.End(t.Context(), d.ending); !errors.Is(err, d.want) {
			t.Errorf("a result %s: %v, want %v", what, err, d.want)
		}
	}
	if got, err := m.Get(t.Context(), "t"); err != nil || got.Status != task.Assigned {
		t.Errorf("%v, %v", got.Status, err)
	}
	if _, err := m.End(t.Context(), good); err != nil {
		t.Error(err)
	}
}

// record is a record of the store, taken apart.
type record struct {
	version    int
	state      map[int]any
	submission map[int]any
	proof      []byte
}

func takeApart(t testing.TB, value []byte) (r record) {
	t.Helper()
	var parts []cbor.RawMessage
	into := func(b []byte, v any) {
		if err := cbor.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	into(value, &parts)
	into(parts[0], &r.version)
	into(parts[1], &r.state)
	into(parts[2], &r.submission)
	if len(parts) == 4 {
		into(parts[3], &r.proof)
	}
	return r
}

func (r record) bytes(t testing.TB) []byte {
	t.Helper()
	parts := []any{r.version, r.state, r.submission}
	if r.proof != nil {
		parts = append(parts, r.proof)
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := mode.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The fields of a record that the attacks below are about.
const (
	stateStatus, stateClaimant, stateEpoch         = 1, 5, 6
	stateResult, stateType, stateError, stateProof = 10, 11, 12, 13
	subID, subKind, subParams, subSubmitter        = 1, 2, 3, 7
)

// TestRecordThatOthersHaveAlteredIsNotBelieved has somebody who can write to the store, Mallory, alter records
// and make her own. Nobody gets to see them, and each is counted once.
func TestRecordThatOthersHaveAlteredIsNotBelieved(t *testing.T) {
	t.Parallel()
	prepared := newStore(t)
	m := newSigned(t, prepared)
	for _, id := range []string{"pending", "done", "other", "failed"} {
		submitted(t, m, task.Spec{ID: id, Params: []byte(`{"n":1}`)})
	}
	for _, id := range []string{"done", "other"} {
		if _, err := m.End(t.Context(), done(t, claimedBy(t, m, id, ben))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.End(t.Context(), by(t, ben, task.Failure(claimedBy(t, m, "failed", ben), "no paper"))); err != nil {
		t.Fatal(err)
	}
	read := func(id string) record {
		e, err := prepared.Get(t.Context(), store.Key("task", id))
		if err != nil {
			t.Fatal(err)
		}
		r := takeApart(t, e.Value)
		if !bytes.Equal(r.bytes(t), e.Value) {
			t.Fatal("the test writes records otherwise than managers do")
		}
		return r
	}
	idOf := func(i *identity.Identity) []byte { id := i.ID(); return id[:] }
	stranger := seeded(99)
	resigned := func(r *record, id string, s *identity.Identity) {
		spec := signed(t, s, task.Spec{ID: id, Params: []byte(`{"n":1}`)})
		r.submission[subSubmitter], r.proof = idOf(s), spec.Proof
	}
	for what, c := range map[string]struct {
		id     string
		attack func(*record)
		want   error
	}{
		"stripped of the submitter's proof":     {"pending", func(r *record) { r.proof = nil }, task.ErrUnsigned},
		"with the proof of another task":        {"pending", func(r *record) { r.proof = read("other").proof }, task.ErrForged},
		"with other params":                     {"pending", func(r *record) { r.submission[subParams] = []byte(`{"n":2}`) }, task.ErrForged},
		"with another kind":                     {"pending", func(r *record) { r.submission[subKind] = "play" }, task.ErrForged},
		"with another's name under it":          {"pending", func(r *record) { r.submission[subSubmitter] = idOf(mallory) }, task.ErrForged},
		"submitted by a stranger":               {"pending", func(r *record) { resigned(r, "pending", stranger) }, identity.ErrUnknown},
		"stripped of the result's proof":        {"done", func(r *record) { delete(r.state, stateProof) }, task.ErrUnsigned},
		"with another result":                   {"done", func(r *record) { r.state[stateResult] = []byte("43") }, task.ErrForged},
		"without result":                        {"done", func(r *record) { delete(r.state, stateResult) }, task.ErrForged},
		"with another type of result":           {"done", func(r *record) { r.state[stateType] = "text/html" }, task.ErrForged},
		"with the result of another task":       {"done", func(r *record) { r.state = read("other").state }, task.ErrForged},
		"of another claim":                      {"done", func(r *record) { r.state[stateEpoch] = 2 }, task.ErrForged},
		"of another claimant":                   {"done", func(r *record) { r.state[stateClaimant] = idOf(cleo) }, task.ErrForged},
		"with the result of other params":       {"done", func(r *record) { r.submission[subParams] = []byte(`{"n":2}`) }, task.ErrForged},
		"with the result for another submitter": {"done", func(r *record) { resigned(r, "done", mallory) }, task.ErrForged},
		"completed in Ben's name": {"pending", func(r *record) {
			r.state[stateStatus], r.state[stateClaimant], r.state[stateEpoch] = 3, idOf(ben), 1
			r.state[stateProof] = read("done").state[stateProof]
		}, task.ErrForged},
		"that says what Ben has not said": {"failed", func(r *record) { r.state[stateError] = "no ink" }, task.ErrForged},
		"that says so without a proof":    {"failed", func(r *record) { r.state[stateError] = "no ink"; delete(r.state, stateProof) }, task.ErrUnsigned},
		"turned from failure to success":  {"failed", func(r *record) { r.state[stateStatus] = 3; delete(r.state, stateError); delete(r.state, 9) }, task.ErrForged},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			altered := read(c.id)
			altered.state, altered.submission = maps.Clone(altered.state), maps.Clone(altered.submission)
			c.attack(&altered)
			s := newStore(t)
			m := newSigned(t, s)
			var told atomic.Int64
			defer m.Attach(func(task.Task) { told.Add(1) })()
			if _, err := s.Put(t.Context(), store.Key("task", c.id), altered.bytes(t), 0); err != nil {
				t.Fatal(err)
			}
			submitted(t, m, task.Spec{ID: "good"})
			for told.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			for range 2 {
				if got, err := m.Get(t.Context(), c.id); !errors.Is(err, task.ErrRecord) || !errors.Is(err, c.want) {
					t.Errorf("Get gives %+v, %v, want %v", got, err, c.want)
				}
			}
			if _, _, err := m.Claim(t.Context(), c.id, profileOf(ben)); !errors.Is(err, task.ErrRecord) {
				t.Errorf("it can be claimed: %v", err)
			}
			if _, err := m.Cancel(t.Context(), c.id, ann.ID()); !errors.Is(err, task.ErrRecord) {
				t.Errorf("it can be cancelled: %v", err)
			}
			if ids := idsOf(m.Visible(profileOf(ben), 10)); !slices.Equal(ids, []string{"good"}) {
				t.Errorf("visible are %v", ids)
			}
			if n := m.Stats().Corrupt; n != 1 || told.Load() != 1 {
				t.Errorf("counted %d times, told of %d tasks", n, told.Load())
			}
			if ids := idsOf(newSigned(t, s).Visible(profileOf(ben), 10)); !slices.Equal(ids, []string{"good"}) {
				t.Errorf("a manager that is not attached shows %v", ids)
			}
		})
	}
}

// countingKeys counts how often a key is wanted, which is once for each verification.
type countingKeys struct {
	*identity.Registry
	lookups atomic.Int64
}

func (k *countingKeys) LookupEpoch(id identity.ID, epoch uint64) (identity.Key, error) {
	k.lookups.Add(1)
	return k.Registry.LookupEpoch(id, epoch)
}

// TestEachSignatureIsVerifiedOnce: once by the manager that takes it in, and once by one that follows.
func TestEachSignatureIsVerifiedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		manager := func() (*task.Manager, *countingKeys) {
			keys := &countingKeys{Registry: identity.NewRegistry(0)}
			for _, id := range []*identity.Identity{ann, ben} {
				if err := keys.Register(id.ID(), id.PublicKey()); err != nil {
					t.Fatal(err)
				}
			}
			v, err := task.NewVerifier(keys, network)
			if err != nil {
				t.Fatal(err)
			}
			m := newManager(t, s, func(c *task.Config) { c.UnsignedUnsafe, c.Verifier = false, v })
			t.Cleanup(m.Attach(func(task.Task) {}))
			return m, keys
		}
		here, hereKeys := manager()
		_, thereKeys := manager()
		step := func(what string, here, there int64) {
			t.Helper()
			synctest.Wait()
			if got := [2]int64{hereKeys.lookups.Load(), thereKeys.lookups.Load()}; got != [2]int64{here, there} {
				t.Errorf("%s: verified %v times, want %d and %d", what, got, here, there)
			}
		}
		submitted(t, here, task.Spec{ID: "t"})
		step("submitted", 1, 1)
		c := claimedBy(t, here, "t", ben)
		step("claimed", 1, 1)
		if _, err := here.Heartbeat(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		step("renewed", 1, 1)
		if _, err := here.End(t.Context(), done(t, c)); err != nil {
			t.Fatal(err)
		}
		step("completed", 2, 2)
	})
}

func TestSignerSignsForItsAgentOnly(t *testing.T) {
	t.Parallel()
	s := signerOf(t, ann)
	good, others, bad := task.Spec{Kind: "work"}, task.Spec{Kind: "work", Submitter: ben.ID()}, task.Spec{Kind: "no work"}
	if errs := s.SignSpecs(&good, &others, &bad); len(errs) != 3 || errs[0] != nil || !errors.Is(errs[1], task.ErrInvalid) || !errors.Is(errs[2], task.ErrInvalid) {
		t.Errorf("signing gives %v", errs)
	}
	if good.ID == "" || good.Submitter != ann.ID() || good.ClaimTTL != task.DefaultClaimTTL || newVerifier(t).VerifySpec(&good) != nil {
		t.Errorf("the spec is %+v", good)
	}
	if others.Proof != nil || bad.Proof != nil || s.Signed() != 1 {
		t.Errorf("signed %d, of another %x, of a bad one %x", s.Signed(), others.Proof, bad.Proof)
	}
	mine := task.Claim{TaskID: "t", Agent: ann.ID(), Epoch: 1}
	endings := []task.Ending{
		task.Completion(mine, nil, ""), task.Completion(task.Claim{TaskID: "t", Agent: ben.ID(), Epoch: 1}, nil, ""),
		{Claim: mine, Status: task.Cancelled}, {Claim: mine, Status: task.Completed, Reason: "why"},
		{Claim: mine, Status: task.Failed, Result: []byte("x")}, {Claim: mine, Status: task.Completed, Permanent: true},
		task.Completion(mine, make([]byte, task.MaxResult+1), ""),
	}
	all := make([]*task.Ending, len(endings))
	for i := range endings {
		all[i] = &endings[i]
	}
	for i, err := range s.SignEndings(all...) {
		if (i == 0) != (err == nil) || i > 0 && !errors.Is(err, task.ErrInvalid) || (i == 0) != (endings[i].Proof != nil) {
			t.Errorf("ending %d: %v, %x", i, err, endings[i].Proof)
		}
	}
	for _, bad := range []func() error{
		func() error { _, err := task.NewSigner(nil, network); return err },
		func() error { _, err := task.NewSigner(ann, "No Network"); return err },
		func() error { _, err := task.NewVerifier(nil, network); return err },
		func() error { _, err := task.NewVerifier(identity.NewRegistry(0), ""); return err },
	} {
		if bad() == nil {
			t.Error("a signer or verifier of nothing")
		}
	}
}

// TestIdempotencyKeysWorkWithSignatures submits the same twice, in batches of their own.
func TestIdempotencyKeysWorkWithSignatures(t *testing.T) {
	t.Parallel()
	m := newSigned(t, newStore(t))
	spec := task.Spec{Kind: "work", IdempotencyKey: "k"}
	first, err := m.Submit(t.Context(), signed(t, ann, spec))
	if err != nil || first.Existed {
		t.Fatal(first, err)
	}
	again, other := signed(t, ann, spec), signed(t, ann, task.Spec{ID: "other"})
	if errs := signerOf(t, ann).SignSpecs(&again, &other); errs != nil {
		t.Fatal(errs)
	}
	second, err := m.Submit(t.Context(), again)
	if err != nil || !second.Existed || second.ID != first.ID {
		t.Errorf("%+v, %v", second, err)
	}
	spec.Priority = 1
	if _, err := m.Submit(t.Context(), signed(t, ann, spec)); !errors.Is(err, task.ErrExists) {
		t.Errorf("other content: %v", err)
	}
	again.Proof = nil
	if _, err := m.Submit(t.Context(), again); !errors.Is(err, task.ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
}

// TestUnsafeManagerSaysSo, and takes everybody's word.
func TestUnsafeManagerSaysSo(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	m, err := task.New(task.Config{Store: newStore(t), UnsignedUnsafe: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, "UNSAFE") {
		t.Errorf("the log says %q", text)
	}
	got, err := m.Submit(t.Context(), task.Spec{Kind: "work", Submitter: ann.ID(), Proof: []byte("?")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Report(t.Context(), claimedBy(t, m, got.ID, ben), []byte("42"), ""); err != nil {
		t.Error(err)
	}
}

// lockedBuffer is a buffer that several goroutines may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var _ io.Writer = (*lockedBuffer)(nil)

var _ = fmt.Sprint
