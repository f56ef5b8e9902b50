package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/proof"
)

var (
	alice = seeded(1)
	bob   = seeded(2)

	work  = proof.Kind{Domain: cose.DomainTask, Typ: "application/converge-task"}
	other = proof.Kind{Domain: cose.DomainResult, Typ: "application/converge-result"}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func seeded(n byte) *identity.Identity {
	return must(identity.FromSeed(bytes.Repeat([]byte{n}, 32)))
}

func registry(known ...*identity.Identity) *identity.Registry {
	r := identity.NewRegistry(0)
	for _, id := range known {
		if err := r.Register(id.ID(), id.PublicKey()); err != nil {
			panic(err)
		}
	}
	return r
}

func newVerifier() *proof.Verifier { return proof.NewVerifier(registry(alice, bob)) }

// numbered returns n statements that differ.
func numbered(n int) []proof.Statement {
	all := make([]proof.Statement, n)
	for i := range all {
		all[i] = proof.Statement{Kind: work, Payload: fmt.Appendf(nil, "statement %d", i)}
	}
	return all
}

func TestOneSignatureIsThatOfACOSESign1(t *testing.T) {
	t.Parallel()
	s := numbered(1)[0]
	p := proof.NewSigner(alice).Sign(s)
	r := cose.NewReader(p)
	if r.Array() != 3 || r.Uint() != 0 || len(r.Bytes()) != 0 {
		t.Fatalf("the proof is %x", p)
	}
	m := veraison.Sign1Message{Payload: s.Payload, Signature: r.Bytes()}
	m.Headers.Protected = veraison.ProtectedHeader{
		veraison.HeaderLabelAlgorithm: veraison.AlgorithmEdDSA, veraison.HeaderLabelKeyID: idBytes(alice), int64(16): s.Typ,
	}
	if err := m.Verify([]byte(s.Domain), must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))); err != nil {
		t.Error(err)
	}
}

func idBytes(i *identity.Identity) []byte { id := i.ID(); return id[:] }

// TestBatchesOfEverySizeVerify reads them in order, in reverse, and each by a verifier of its own.
func TestBatchesOfEverySizeVerify(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 100, 255, 256, 257, 300} {
		s, v := numbered(n), newVerifier()
		signer := proof.NewSigner(alice)
		proofs := signer.SignAll(s)
		for _, order := range [][]int{upTo(n), reversed(n)} {
			for _, i := range order {
				if err := v.Verify(alice.ID(), s[i], proofs[i]); err != nil {
					t.Fatalf("%d of %d: %v", i, n, err)
				}
				if len(proofs[i]) > proof.MaxSize || proof.Check(proofs[i]) != nil {
					t.Fatalf("%d of %d: %d bytes, %v", i, n, len(proofs[i]), proof.Check(proofs[i]))
				}
			}
		}
		if err := newVerifier().Verify(alice.ID(), s[n/2], proofs[n/2]); err != nil {
			t.Errorf("%d of %d, by a fresh verifier: %v", n/2, n, err)
		}
		if signer.Signed() != uint64(n) {
			t.Errorf("%d statements count as %d", n, signer.Signed())
		}
	}
}

func upTo(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func reversed(n int) []int { order := upTo(n); slices.Reverse(order); return order }

func TestConcurrentStatementsAllVerify(t *testing.T) {
	t.Parallel()
	signer, v := proof.NewSigner(alice), newVerifier()
	var all sync.WaitGroup
	for worker := range 32 {
		all.Go(func() {
			for i := range 10 {
				s := proof.Statement{Kind: work, Payload: []byte{byte(worker), byte(i)}}
				if err := v.Verify(alice.ID(), s, signer.Sign(s)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if signer.Signed() != 320 {
		t.Errorf("320 statements count as %d", signer.Signed())
	}
}

// statements under test: one alone, one of five.
func examples() (s []proof.Statement, proofs [][]byte) {
	signer, all := proof.NewSigner(alice), numbered(6)
	proofs = signer.SignAll(all[:5])
	return []proof.Statement{all[5], all[2]}, [][]byte{signer.Sign(all[5]), proofs[2]}
}

// TestStatementOfAnotherKindAgentOrPayloadIsRefused moves a proof to what it was not made for.
func TestStatementOfAnotherKindAgentOrPayloadIsRefused(t *testing.T) {
	t.Parallel()
	all, proofs := examples()
	for i, s := range all {
		v := newVerifier()
		verify := func(by *identity.Identity, s proof.Statement) error { return v.Verify(by.ID(), s, proofs[i]) }
		if err := verify(alice, s); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"of another agent":   verify(bob, s),
			"of another kind":    verify(alice, proof.Statement{Kind: other, Payload: s.Payload}),
			"of another domain":  verify(alice, proof.Statement{Kind: proof.Kind{Domain: other.Domain, Typ: s.Typ}, Payload: s.Payload}),
			"of another typ":     verify(alice, proof.Statement{Kind: proof.Kind{Domain: s.Domain, Typ: other.Typ}, Payload: s.Payload}),
			"with other payload": verify(alice, proof.Statement{Kind: s.Kind, Payload: []byte("statement 3")}),
			"without payload":    verify(alice, proof.Statement{Kind: s.Kind}),
		} {
			if !errors.Is(err, proof.ErrForged) {
				t.Errorf("a statement %s: %v", what, err)
			}
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	keys := registry(alice)
	v := proof.NewVerifier(keys)
	all, proofs := examples()
	for i, s := range all {
		if err := v.Verify(bob.ID(), s, proofs[i]); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("a stranger: %v", err)
		}
		if err := v.Verify(alice.ID(), s, proofs[i]); err != nil {
			t.Fatal(err)
		}
	}
	keys.Unregister(alice.ID())
	for i, s := range all { // however well the root is known
		if err := v.Verify(alice.ID(), s, proofs[i]); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("an agent that was forgotten: %v", err)
		}
		if err := v.VerifyPast(alice.ID(), s, proofs[i]); err != nil {
			t.Errorf("what it has signed before: %v", err)
		}
		if err := v.VerifyPast(alice.ID(), all[(i+1)%2], proofs[i]); !errors.Is(err, proof.ErrForged) {
			t.Errorf("what it has not: %v", err)
		}
		if err := v.VerifyPast(bob.ID(), s, proofs[i]); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("an agent that never was known: %v", err)
		}
		if err := proof.NewVerifier(keys).VerifyPast(alice.ID(), s, proofs[i]); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("by a verifier that never knew it: %v", err)
		}
	}
}

// TestEverySingleBitFlipIsRefused flips each bit of a proof and of its payload, with the root known.
func TestEverySingleBitFlipIsRefused(t *testing.T) {
	t.Parallel()
	all, proofs := examples()
	for i, s := range all {
		v := newVerifier()
		if err := v.Verify(alice.ID(), s, proofs[i]); err != nil {
			t.Fatal(err)
		}
		for _, part := range [][]byte{proofs[i], s.Payload} {
			for bit := range 8 * len(part) {
				part[bit/8] ^= 1 << (bit % 8)
				if v.Verify(alice.ID(), s, proofs[i]) == nil {
					t.Errorf("accepted with bit %d flipped", bit)
				}
				part[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

// TestCutAndStretchedProofsAreRefused takes bytes away from the end and adds some.
func TestCutAndStretchedProofsAreRefused(t *testing.T) {
	t.Parallel()
	all, proofs := examples()
	for i, s := range all {
		v := newVerifier()
		for n := range proofs[i] {
			want := proof.ErrMalformed
			if n == 0 {
				want = proof.ErrMissing
			}
			if err := v.Verify(alice.ID(), s, proofs[i][:n]); !errors.Is(err, want) {
				t.Fatalf("the first %d bytes: %v", n, err)
			}
			if err := proof.Check(proofs[i][:n]); !errors.Is(err, want) {
				t.Fatalf("the form of the first %d bytes: %v", n, err)
			}
		}
		if err := v.Verify(alice.ID(), s, append(slices.Clone(proofs[i]), 0)); !errors.Is(err, proof.ErrMalformed) {
			t.Errorf("one byte more: %v", err)
		}
	}
}

// TestProofsCannotBeSpliced puts parts of proofs together that belong to others.
func TestProofsCannotBeSpliced(t *testing.T) {
	t.Parallel()
	signer, s := proof.NewSigner(alice), numbered(8)
	first, second := signer.SignAll(s[:4]), signer.SignAll(s[4:])
	alone := signer.Sign(s[0])
	v := newVerifier()
	for i := range 4 {
		if v.Verify(alice.ID(), s[i], first[i]) != nil || v.Verify(alice.ID(), s[4+i], second[i]) != nil {
			t.Fatal("a batch does not verify")
		}
	}
	for what, p := range map[string][]byte{
		"the path of another":                 first[1],
		"the root of another batch":           join(first[0], second[0]),
		"the signature of the statement only": join(first[0], alone),
		"the signature of the root only":      join(alone, first[0]),
	} {
		if err := v.Verify(alice.ID(), s[0], p); !errors.Is(err, proof.ErrForged) {
			t.Errorf("with %s: %v", what, err)
		}
	}
}

// join returns a proof with the inclusion proof of one and the signature of another.
func join(inclusion, signature []byte) []byte {
	a, b := cose.NewReader(inclusion), cose.NewReader(signature)
	a.Array()
	b.Array()
	p := cose.AppendUint(cose.AppendArray(nil, 3), a.Uint())
	p = cose.AppendBytes(p, a.Bytes())
	b.Uint()
	b.Bytes()
	return cose.AppendBytes(p, b.Bytes())
}

// revoked is a source that knows an agent and refuses it.
type revoked struct{ proof.KeySource }

var errRevoked = errors.New("revoked")

func (revoked) Lookup(identity.ID) (identity.Key, error) { return identity.Key{}, errRevoked }

// TestRevokedAgentsPastIsRefusedToo: who is revoked, is so for what was verified before.
func TestRevokedAgentsPastIsRefusedToo(t *testing.T) {
	t.Parallel()
	keys := &struct{ proof.KeySource }{registry(alice)}
	v := proof.NewVerifier(keys)
	all, proofs := examples()
	for i, s := range all {
		if err := v.Verify(alice.ID(), s, proofs[i]); err != nil {
			t.Fatal(err)
		}
	}
	keys.KeySource = revoked{}
	for i, s := range all {
		if err := v.VerifyPast(alice.ID(), s, proofs[i]); !errors.Is(err, errRevoked) {
			t.Errorf("an agent that is revoked: %v", err)
		}
	}
}

// TestProofUnderAnUnknownKeyIsRefused is about a key that Alice has stated and nobody has been told of.
func TestProofUnderAnUnknownKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := numbered(1)[0]
	p := proof.NewSigner(must(alice.Rotate(identity.Rotation{}))).Sign(s)
	if err := newVerifier().Verify(alice.ID(), s, p); !errors.Is(err, identity.ErrEpoch) {
		t.Errorf("key 1: %v", err)
	}
}

// life is Alice's keys, one after the other, and what she has signed with each of them.
type life struct {
	registry  *identity.Registry
	now       time.Time
	keys      []*identity.Identity
	statement proof.Statement
	proofs    [][]byte
}

func newLife(t *testing.T) *life {
	t.Helper()
	l := &life{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), statement: numbered(1)[0]}
	l.registry = identity.NewRegistryWith(identity.RegistryConfig{Now: func() time.Time { return l.now }})
	if err := l.registry.Register(alice.ID(), alice.PublicKey()); err != nil {
		t.Fatal(err)
	}
	signer := proof.NewSigner(alice)
	l.keys, l.proofs = append(l.keys, alice), append(l.proofs, signer.Sign(l.statement))
	for range 2 {
		l.now = l.now.Add(time.Hour)
		key := must(alice.Rotate(identity.Rotation{Current: l.registry.Statement(alice.ID()), NotBefore: l.now}))
		must(l.registry.Apply(key.Statement()))
		if err := signer.Rotate(key); err != nil {
			t.Fatal(err)
		}
		l.keys, l.proofs = append(l.keys, key), append(l.proofs, signer.Sign(l.statement))
	}
	l.now = l.now.Add(time.Hour)
	return l
}

// TestWhatWasSignedWithFormerKeysGoesOnVerifying has Alice change her key twice. What she signed before is hers, and
// nothing new can be signed with the keys that she had.
func TestWhatWasSignedWithFormerKeysGoesOnVerifying(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	for epoch, p := range l.proofs {
		if err := proof.NewVerifier(l.registry).VerifyPast(alice.ID(), l.statement, p); err != nil {
			t.Errorf("signed with key %d: %v", epoch, err)
		}
		err := proof.NewVerifier(l.registry).Verify(alice.ID(), l.statement, p)
		if current := epoch == len(l.proofs)-1; current != (err == nil) || !current && !errors.Is(err, identity.ErrEpoch) {
			t.Errorf("as something new, signed with key %d: %v", epoch, err)
		}
	}
}

// TestFormerKeyOfAnotherIsRefused puts statements of other agents and epochs into proofs.
func TestFormerKeyOfAnotherIsRefused(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	mallory := must(bob.Rotate(identity.Rotation{}))
	for name, statement := range map[string][]byte{
		"of another agent": mallory.Statement(), "of another epoch": l.keys[2].Statement(), "none": {}, "garbage": []byte("garbage"),
	} {
		forged := with(l.proofs[1], statement)
		if err := proof.NewVerifier(l.registry).VerifyPast(alice.ID(), l.statement, forged); !errors.Is(err, identity.ErrEpoch) {
			t.Errorf("a statement %s: %v", name, err)
		}
	}
	byMallory := with(proof.NewSigner(mallory).Sign(l.statement), l.keys[1].Statement())
	if err := proof.NewVerifier(l.registry).VerifyPast(alice.ID(), l.statement, byMallory); !errors.Is(err, proof.ErrForged) {
		t.Errorf("Mallory's signature with Alice's statement: %v", err)
	}
}

// with puts a key statement in place of that of a proof.
func with(p, statement []byte) []byte {
	r := cose.NewReader(p)
	b := cose.AppendUint(cose.AppendArray(nil, r.Array()), r.Uint())
	b = cose.AppendBytes(cose.AppendBytes(b, r.Bytes()), r.Bytes())
	return cose.AppendBytes(b, statement)
}

func TestRevokedAgentHasSignedNothing(t *testing.T) {
	t.Parallel()
	l := newLife(t)
	s := must(identity.OpenKeys(l.keys[2].Statement()))
	s.Revoked, s.Sequence = true, s.Sequence+1
	must(l.registry.Apply(must(identity.SignKeys(alice, s))))
	for epoch, p := range l.proofs {
		if err := proof.NewVerifier(l.registry).VerifyPast(alice.ID(), l.statement, p); !errors.Is(err, identity.ErrRevoked) {
			t.Errorf("signed with key %d: %v", epoch, err)
		}
	}
}

func TestSignerStaysThatOfItsAgent(t *testing.T) {
	t.Parallel()
	s, again := proof.NewSigner(alice), seeded(1)
	if err := s.Rotate(bob); !errors.Is(err, proof.ErrOtherAgent) || s.ID() != alice.ID() {
		t.Errorf("Alice's signer is turned into that of %s: %v", s.ID().Short(), err)
	}
	if err := s.Rotate(again); err != nil {
		t.Error(err)
	}
	statement := numbered(1)[0]
	if err := newVerifier().Verify(alice.ID(), statement, s.Sign(statement)); err != nil {
		t.Error(err)
	}
}

// TestForgettingRootsDecidesNothing has a verifier see more roots than it remembers.
func TestForgettingRootsDecidesNothing(t *testing.T) {
	t.Parallel()
	v, signer := newVerifier(), proof.NewSigner(alice)
	v.SetMaxRoots(2)
	var all []proof.Statement
	var proofs [][]byte
	for i := range 8 {
		pair := []proof.Statement{{Kind: work, Payload: []byte{byte(i), 0}}, {Kind: work, Payload: []byte{byte(i), 1}}}
		all, proofs = append(all, pair...), append(proofs, signer.SignAll(pair)...)
	}
	for range 3 {
		for i, s := range all {
			if err := v.Verify(alice.ID(), s, proofs[i]); err != nil {
				t.Fatal(err)
			}
			if err := v.Verify(alice.ID(), s, proofs[(i+1)%len(all)]); err == nil {
				t.Fatal("the proof of another statement is accepted")
			}
		}
		if n := v.Roots(); n > 4 {
			t.Errorf("%d roots are remembered", n)
		}
	}
}
