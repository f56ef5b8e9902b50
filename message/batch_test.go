package message_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// draftsToBob are n messages that differ.
func draftsToBob(n int) []message.Draft {
	all := make([]message.Draft, n)
	for i := range all {
		all[i] = message.Draft{To: bob.ID(), Body: fmt.Appendf(nil, "%d", i)}
	}
	return all
}

// signAll signs n drafts of Alice's together.
func signAll(t testing.TB, c *clock, n int) []*message.Message {
	t.Helper()
	signed, errs := newSigner(alice, c).SignAll(t.Context(), draftsToBob(n))
	if errs != nil {
		t.Fatal(errs)
	}
	return signed
}

// TestBatchesOfEverySizeVerify signs and verifies batches of all shapes that a tree can have up to 66
// leaves, and of those around the bound on a batch.
func TestBatchesOfEverySizeVerify(t *testing.T) {
	sizes := []int{255, 256, 257, 1000}
	for n := range 67 {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		c := newClock()
		v := newVerifier(bob, c)
		for i, m := range signAll(t, c, n) {
			got := accepts(t, v, m.Raw(), fmt.Sprintf("%d of %d", i, n))
			if want := fmt.Sprint(i); string(got.Body()) != want || string(m.Body()) != want || got.ID() != m.ID() {
				t.Fatalf("%d of %d arrived as %q, %v", i, n, got.Body(), got)
			}
			if alone := n == 1 || n == 257 && i == 256; (proofOf(m.Raw()) == nil) != alone {
				t.Errorf("%d of %d: the proof is %x", i, n, proofOf(m.Raw()))
			}
		}
	}
}

// TestBatchesAreTheTreesOfRFC9162 makes each batch once more by the definitions of the RFC.
func TestBatchesAreTheTreesOfRFC9162(t *testing.T) {
	for _, n := range []int{2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 33, 100, 256} {
		signed := signAll(t, newClock(), n)
		b := &batch{signature: must(cose.Parse(signed[0].Raw())).Signature}
		for _, m := range signed {
			parts := must(cose.Parse(m.Raw()))
			b.headers, b.bodies = append(b.headers, parts.Protected), append(b.bodies, parts.Payload)
			b.entries = append(b.entries, must(core.Marshal([]any{"Signature1", parts.Protected, []byte("converge/message/v1"), parts.Payload})))
		}
		if want := signRoot(alice, idBytes(alice), n, treeHash(b.entries), "converge/batch/v1"); !bytes.Equal(b.signature, want) {
			t.Errorf("%d messages: the signature is not over the root", n)
		}
		for i, m := range signed {
			if !bytes.Equal(m.Raw(), b.frame(i)) {
				t.Fatalf("%d of %d is\n%x, not\n%x", i, n, m.Raw(), b.frame(i))
			}
		}
	}
}

// TestBatchSignatureIsACOSESign1 checks the root's signature with another library, as a third party
// would.
func TestBatchSignatureIsACOSESign1(t *testing.T) {
	b := newBatch(numbered(5)...)
	m := veraison.Sign1Message{Payload: treeHash(b.entries), Signature: b.signature}
	m.Headers.Protected = veraison.ProtectedHeader{
		veraison.HeaderLabelAlgorithm: veraison.AlgorithmEdDSA, veraison.HeaderLabelKeyID: idBytes(alice),
		labelTyp: "application/converge-batch", labelVDS: int64(1), labelTreeSize: int64(5),
	}
	if err := m.Verify([]byte("converge/batch/v1"), must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))); err != nil {
		t.Error(err)
	}
}

// TestEverySingleBitFlipInABatchIsRefused flips each bit of a message of a batch. The soak test does so for
// more places.
func TestEverySingleBitFlipInABatchIsRefused(t *testing.T) {
	flipEveryBitInABatch(t, 5, 2)
}

// flipEveryBitInABatch flips when the receiver has seen the root of the batch.
func flipEveryBitInABatch(t *testing.T, size, index int) {
	b := newBatch(numbered(size)...)
	v := newVerifier(bob, newClock())
	accepts(t, v, b.frame((index+1)%size), "another message of the batch")
	flipEveryBit(t, v, b.frame(index))
	accepts(t, v, b.frame(index), "the unharmed message")
}

// TestProofsCannotBeAltered tries every other index, size and path for messages of batches of up to nine,
// with the root known to the receiver.
func TestProofsCannotBeAltered(t *testing.T) {
	for _, size := range batchSizes {
		b := newBatch(numbered(size)...)
		v := newVerifier(bob, newClock())
		accepts(t, v, b.frame(0), "the first message, with which the root is known")
		refused := func(raw []byte, what string, args ...any) {
			t.Helper()
			if m, err := v.Verify(raw); err == nil {
				t.Fatalf("%d messages: accepted %v with %s", size, m, fmt.Sprintf(what, args...))
			}
		}
		for i := 1; i < size; i++ {
			for n := range 12 {
				for at := range n {
					for from := range size {
						if n != size || at != i || from != i {
							refused(b.withProof(i, n, at, inclusionPath(from, b.entries)), "size %d, index %d, the path of %d", n, at, from)
						}
					}
				}
			}
			path := inclusionPath(i, b.entries)
			refused(b.withProof(i, size, i, path[1:]), "the first step left out")
			refused(b.withProof(i, size, i, path[:len(path)-1]), "the last step left out")
			refused(b.withProof(i, size, i, append(slices.Clone(path), path[0])), "a step more")
			reversed := slices.Clone(path)
			slices.Reverse(reversed)
			if len(path) > 1 {
				refused(b.withProof(i, size, i, reversed), "the path reversed")
			}
			accepts(t, v, b.frame(i), "the message itself")
		}
	}
}

// TestBatchAndSingleSignaturesDoNotPassAsEachOther is about the mode in the header.
func TestBatchAndSingleSignaturesDoNotPassAsEachOther(t *testing.T) {
	v := newVerifier(bob, newClock())
	pair := numbered(2)
	b := newBatch(pair...)
	proof := labels{labelVDP: labels{-1: []any{must(core.Marshal([]any{2, 0, inclusionPath(0, b.entries)}))}}}

	refuses(t, v, b.withUnprotected(0, labels{}), message.ErrMalformed, "a message of a batch without its proof")
	signedAlone := pair[0].raw() // its header says batch
	refuses(t, v, signedAlone, message.ErrMalformed, "a single signature under the header of a batch")
	delete(pair[0].header, labelVDS)
	single := must(cose.Parse(pair[0].raw()))
	withProof := slices.Concat([]byte{0xd2}, must(core.Marshal([]any{single.Protected, proof, single.Payload, single.Signature})))
	refuses(t, v, withProof, message.ErrMalformed, "a single message with a proof")
	b.headers[0] = single.Protected
	refuses(t, v, b.withProof(0, 2, 0, inclusionPath(0, b.entries)), message.ErrMalformed, "a batch signature under the header of a single one")

	alone := newBatch(numbered(1)...)
	refuses(t, v, alone.frame(0), message.ErrMalformed, "a tree of one")
	large := &batch{headers: b.headers[1:], bodies: b.bodies[1:], signature: b.signature}
	refuses(t, v, large.withProof(0, 1025, 0, make([][]byte, 10)), message.ErrMalformed, "a tree of 1,025")
	refuses(t, v, edited(direct(bob), head(labelVDS, 2)).raw(), message.ErrUnsupported, "another data structure")
}

// TestRootOfAnotherBatchSignerOrDomainIsRefused swaps what belongs to the root.
func TestRootOfAnotherBatchSignerOrDomainIsRefused(t *testing.T) {
	v := newVerifier(bob, newClock())
	b, other := newBatch(numbered(4)...), newBatch(numbered(3)...)
	genuine, root := b.signature, treeHash(b.entries)
	accepts(t, v, other.frame(2), "a message of another batch, whose root is known now")
	for name, signature := range map[string][]byte{
		"another batch's":                 other.signature,
		"Carol's":                         signRoot(carol, idBytes(alice), 4, root, "converge/batch/v1"),
		"Carol's, as Carol":               signRoot(carol, idBytes(carol), 4, root, "converge/batch/v1"),
		"Alice's, for Carol":              signRoot(alice, idBytes(carol), 4, root, "converge/batch/v1"),
		"for another size":                signRoot(alice, idBytes(alice), 5, root, "converge/batch/v1"),
		"of the message domain":           signRoot(alice, idBytes(alice), 4, root, "converge/message/v1"),
		"of the receipt domain":           signRoot(alice, idBytes(alice), 4, root, "converge/receipt/v1"),
		"over the bare root":              alice.Sign(root),
		"over the entry, as a single one": alice.Sign(b.entries[3]),
		"of zeros":                        make([]byte, 64),
	} {
		b.signature = signature
		refuses(t, v, b.frame(3), message.ErrBadSignature, "signature "+name)
	}
	b.signature = genuine
	accepts(t, v, b.frame(3), "the genuine signature")
}

// TestForeignBatchCannotCarryAMessageOfTheVictim has Carol put an envelope that names Alice into her own
// batch.
func TestForeignBatchCannotCarryAMessageOfTheVictim(t *testing.T) {
	v := newVerifier(bob, newClock())
	forged := numbered(2)
	for _, e := range forged {
		e.signer = carol
	}
	b := newBatch(forged...)
	refuses(t, v, b.frame(0), message.ErrBadSignature, "kid says Alice")
	b.signature = signRoot(carol, idBytes(carol), 2, treeHash(b.entries), "converge/batch/v1")
	refuses(t, v, b.frame(0), message.ErrBadSignature, "the root's kid says Carol")
}

// TestKnownRootDiesWithItsKey is about the cache: it saves work and decides nothing.
func TestKnownRootDiesWithItsKey(t *testing.T) {
	keys := registryOf(alice, bob, carol)
	v := configured(message.VerifierConfig{Keys: keys, Now: newClock().Now})
	b := newBatch(numbered(3)...)
	accepts(t, v, b.frame(0), "the first message")
	keys.Unregister(alice.ID())
	refuses(t, v, b.frame(1), message.ErrUnknownSender, "once Alice is unregistered")
	if err := keys.Register(alice.ID(), alice.PublicKey()); err != nil {
		t.Fatal(err)
	}
	accepts(t, v, b.frame(1), "once she is back")

	swapped := &swappedKey{}
	v = configured(message.VerifierConfig{Keys: swapped, Now: newClock().Now})
	swapped.key = alice
	accepts(t, v, b.frame(0), "under Alice's key")
	swapped.key = carol
	refuses(t, v, b.frame(1), message.ErrBadSignature, "under another key for the same ID")
}

// swappedKey is a key source that gives every agent the same key.
type swappedKey struct{ key *identity.Identity }

func (s *swappedKey) LookupEpoch(identity.ID, uint64) (identity.Key, error) {
	return identity.Key{Public: s.key.PublicKey()}, nil
}

func TestReplayOfABatchedMessageIsDropped(t *testing.T) {
	v, other := newVerifier(bob, newClock()), newVerifier(carol, newClock())
	b := newBatch(numbered(8)...)
	for _, i := range []int{5, 0, 7, 1} {
		accepts(t, v, b.frame(i), "in any order")
		refuses(t, v, b.frame(i), message.ErrReplayed, "the second time")
		refuses(t, other, b.frame(i), message.ErrMisaddressed, "at Carol's")
	}
}

// TestMoreSendersThanRememberedRootsVerify goes over the bound of the cache and comes back.
func TestMoreSendersThanRememberedRootsVerify(t *testing.T) {
	c, keys := newClock(), identity.NewRegistry(0)
	v := configured(message.VerifierConfig{Keys: keys, Now: c.Now})
	var later [][]byte
	for range 1040 {
		id := must(identity.Generate())
		if err := keys.Register(id.ID(), id.PublicKey()); err != nil {
			t.Fatal(err)
		}
		signed, errs := newSigner(id, c).SignAll(t.Context(), draftsToBob(2))
		if errs != nil {
			t.Fatal(errs)
		}
		accepts(t, v, signed[0].Raw(), "the first of two")
		later = append(later, signed[1].Raw())
	}
	for _, raw := range later {
		accepts(t, v, raw, "the second of two")
	}
}

// TestMessageAloneIsSignedAtOnceAndAlone is what keeps the latency at low load that of single signatures.
func TestMessageAloneIsSignedAtOnceAndAlone(t *testing.T) {
	s := newSigner(alice, newClock())
	for _, d := range draftsToBob(3) {
		if raw := sign(t, s, d); proofOf(raw) != nil {
			t.Errorf("a message without company has the proof %x", proofOf(raw))
		}
	}
	if s.Signed() != 3 || s.Batches() != 0 {
		t.Errorf("%d signed, %d batches", s.Signed(), s.Batches())
	}
}

// TestConcurrentSignersFormBatches signs from many goroutines at once: every message verifies, each has its
// own number.
func TestConcurrentSignersFormBatches(t *testing.T) {
	const signers, each = 32, 30
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c)
	var all sync.WaitGroup
	for range signers {
		all.Go(func() {
			for range each {
				m, err := s.Sign(context.Background(), message.Draft{To: bob.ID(), Body: []byte("x")})
				if err != nil {
					t.Error(err)
				} else if _, err := v.Verify(bytes.Clone(m.Raw())); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if s.Signed() != signers*each || v.Verified() != signers*each {
		t.Errorf("%d signed, %d verified", s.Signed(), v.Verified())
	}
	t.Logf("%d messages, %d shared signatures", s.Signed(), s.Batches())
}

func TestModes(t *testing.T) {
	c := newClock()
	signer := func(mode message.Mode) *message.Signer {
		return must(message.NewSigner(message.SignerConfig{Identity: alice, Network: network, Mode: mode, Now: c.Now}))
	}
	v := newVerifier(bob, c)
	single := signer(message.Single)
	signed, _ := single.SignAll(t.Context(), draftsToBob(3))
	for _, m := range signed {
		if proofOf(accepts(t, v, m.Raw(), "single").Raw()) != nil {
			t.Error("a batch in mode Single")
		}
	}
	unsigned, _ := signer(message.UnsignedUnsafe).SignAll(t.Context(), draftsToBob(2))
	for _, m := range unsigned {
		refuses(t, newVerifier(bob, c), m.Raw(), message.ErrBadSignature, "unsigned")
		if got, err := message.ParseUnsafe(m.Raw()); err != nil || got.Verified() {
			t.Errorf("unsigned: %v, %v", got, err)
		}
		if m.Verified() {
			t.Error("an unsigned message says that it is verified")
		}
	}
	if _, err := message.NewSigner(message.SignerConfig{Identity: alice, Network: network, Mode: 9}); err == nil {
		t.Error("a mode that there is not was accepted")
	}
	for mode, name := range map[message.Mode]string{message.Batch: "batch", message.Single: "single", message.UnsignedUnsafe: "unsigned", 9: "unknown"} {
		if mode.String() != name {
			t.Errorf("%d is %q", mode, mode)
		}
	}
}

// TestBadDraftDoesNotKeepTheOthersBack signs a batch with drafts in it that cannot be signed.
func TestBadDraftDoesNotKeepTheOthersBack(t *testing.T) {
	c := newClock()
	const maxSize = 2048
	s := must(message.NewSigner(message.SignerConfig{Identity: alice, Network: network, MaxSize: maxSize, Now: c.Now}))
	v := configured(message.VerifierConfig{MaxSize: maxSize, Now: c.Now})
	all := draftsToBob(6)
	all[1].TTL = -1
	all[3].Body = make([]byte, maxSize)     // too large, with envelope or without
	all[4].Body = make([]byte, maxSize-500) // too large with a proof only
	signed, errs := s.SignAll(t.Context(), all)
	for i, m := range signed {
		switch i {
		case 1, 3:
			if m != nil || errs[i] == nil {
				t.Errorf("draft %d: %v, %v", i, m, errs[i])
			}
		default:
			if errs[i] != nil {
				t.Fatalf("draft %d: %v", i, errs[i])
			}
			accepts(t, v, m.Raw(), fmt.Sprint("draft ", i))
			if alone := i == 4; (proofOf(m.Raw()) == nil) != alone {
				t.Errorf("draft %d: the proof is %x", i, proofOf(m.Raw()))
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if signed, errs := s.SignAll(ctx, draftsToBob(2)); signed[0] != nil || errs[0] == nil || errs[1] == nil {
		t.Errorf("with a context that has ended: %v, %v", signed, errs)
	}
}

// TestMessagesOfABatchDoNotShareWritableMemory appends to one message's bytes.
func TestMessagesOfABatchDoNotShareWritableMemory(t *testing.T) {
	c := newClock()
	signed := signAll(t, c, 20)
	v := newVerifier(bob, c)
	for _, m := range signed {
		_ = append(m.Raw(), 0xff, 0xff, 0xff)
		_ = append(m.Body(), 0xff, 0xff, 0xff)
	}
	for _, m := range signed {
		accepts(t, v, m.Raw(), "after its neighbours were appended to")
	}
}

// TestHostileProofsAllocateNothing is about frames of known senders, before their signature is checked.
func TestHostileProofsAllocateNothing(t *testing.T) {
	b := newBatch(numbered(2)...)
	v := newVerifier(bob, newClock())
	for name, raw := range map[string][]byte{
		"a path that is no path": b.withProof(0, 1024, 0, make([][]byte, 10)),
		"a path of 1000 steps":   b.withProof(0, 1024, 0, make([][]byte, 1000)),
		"a proof of 60 kB":       b.withUnprotected(0, labels{labelVDP: labels{-1: []any{make([]byte, 60_000)}}}),
	} {
		refuses(t, v, raw, message.ErrMalformed, name)
		if allocs := testing.AllocsPerRun(100, func() { v.Verify(raw) }); allocs > 1 { // the Refusal
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// TestSignEachLendsEachMessage from several goroutines at once, whose memory is used again and again.
func TestSignEachLendsEachMessage(t *testing.T) {
	c := newClock()
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			s, v := newSigner(alice, c), newVerifier(bob, c)
			for round := range lendings {
				mixed := draftsToBob(1 + (g*100+round*37)%600)
				mixed[len(mixed)/2].TTL = -1
				next := 0
				s.SignEach(context.Background(), mixed, func(i int, m *message.Message, err error) {
					if i != next {
						t.Errorf("draft %d after %d", i, next-1)
					}
					next++
					if i == len(mixed)/2 {
						if m != nil || err == nil {
							t.Errorf("a bad draft: %v, %v", m, err)
						}
						return
					}
					got, err := v.Verify(bytes.Clone(m.Raw()))
					if err != nil || string(got.Body()) != fmt.Sprint(i) || got.ID() != m.ID() {
						t.Errorf("draft %d: %v, %v", i, got, err)
					}
				})
				if next != len(mixed) {
					t.Errorf("%d of %d drafts came back", next, len(mixed))
				}
				c.Add(time.Millisecond) // or the next signer's session would not be later
				s = newSigner(alice, c)
			}
		})
	}
	all.Wait()
}
