package message_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

func TestForgedSenderIsDropped(t *testing.T) {
	c := newClock()
	v := newVerifier(bob, c)
	for name, attacker := range map[string]*identity.Identity{"registered": carol, "unknown": mallory} {
		e := newEnvelope(noon, direct(bob))
		e.signer = attacker // while kid says Alice
		refuses(t, v, e.raw(), message.ErrBadSignature, "by a "+name+" agent")
	}
	accepts(t, v, newEnvelope(noon, direct(bob)).raw(), "Alice's own")
}

func TestRefusalNamesTheClaimedSender(t *testing.T) {
	e := newEnvelope(noon, direct(bob))
	e.signer = mallory
	_, err := newVerifier(bob, newClock()).Verify(e.raw())
	var refusal *message.Refusal
	if !errors.As(err, &refusal) || refusal.Sender != alice.ID() {
		t.Fatalf("%v", err)
	}
	if text := err.Error(); !strings.Contains(text, "bad_signature") || !strings.Contains(text, alice.ID().Short()) {
		t.Errorf("%s", text)
	}
}

func TestUnknownSenderIsDropped(t *testing.T) {
	v := newVerifier(bob, newClock())
	refuses(t, v, newEnvelope(noon, direct(bob)).from(mallory).raw(), message.ErrUnknownSender, "Mallory")
	zero := newEnvelope(noon, direct(bob))
	zero.header[labelKid] = make([]byte, 32)
	refuses(t, v, zero.raw(), message.ErrUnknownSender, "nobody")
}

func TestKeyUnderForeignIDIsOfNoUse(t *testing.T) {
	keys := registryOf(carol)
	if err := keys.Register(alice.ID(), mallory.PublicKey()); !errors.Is(err, identity.ErrKeyMismatch) {
		t.Fatalf("the registry took it: %v", err)
	}
	v := configured(message.VerifierConfig{Keys: keys, Now: newClock().Now})
	e := newEnvelope(noon, direct(bob))
	e.signer = mallory
	refuses(t, v, e.raw(), message.ErrUnknownSender, "Mallory as Alice")
}

func TestUnregisteredSenderIsDroppedAtOnce(t *testing.T) {
	c, keys := newClock(), registryOf(alice)
	v, s := configured(message.VerifierConfig{Keys: keys, Now: c.Now}), newSigner(alice, c)
	accepts(t, v, sign(t, s, message.Draft{}), "before")
	keys.Unregister(alice.ID())
	refuses(t, v, sign(t, s, message.Draft{}), message.ErrUnknownSender, "after")
}

// badKeys is a source of keys that no signature can be checked with.
type badKeys []byte

func (k badKeys) LookupEpoch(identity.ID, uint64) (identity.Key, error) {
	return identity.Key{Public: ed25519.PublicKey(k)}, nil
}

func TestKeysOfWrongLengthVerifyNothing(t *testing.T) {
	for _, size := range []int{0, 31, 33} {
		v := configured(message.VerifierConfig{Keys: badKeys(make([]byte, size)), Now: newClock().Now})
		refuses(t, v, newEnvelope(noon, direct(bob)).raw(), message.ErrBadSignature, fmt.Sprintf("a key of %d bytes", size))
	}
}

// TestEverySingleBitFlipIsRefused flips each bit of an envelope that has every field.
func TestEverySingleBitFlipIsRefused(t *testing.T) {
	c := newClock()
	raw := sign(t, newSigner(alice, c), message.Draft{
		Topics: []message.Topic{message.MustTopic("a@1?b=c"), message.MustTopic("d")}, Body: []byte("{}"),
		TaskID: "t", InReplyTo: message.ID{1}, Trace: "00-01-02-03",
	})
	v := newVerifier(bob, c, ">")
	flipEveryBit(t, v, raw)
	accepts(t, v, raw, "the unharmed envelope")
}

func flipEveryBit(t testing.TB, v *message.Verifier, raw []byte) {
	t.Helper()
	for bit := 0; bit < 8*len(raw); bit += flipStride {
		flipped := bytes.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		if m, err := v.Verify(flipped); err == nil {
			t.Fatalf("bit %d of %x flipped: accepted as %v", bit, raw, m)
		}
	}
}

// TestRandomBitFlipIsRefused flips one random bit in each of many random envelopes. The soak test
// flips all of them.
func TestRandomBitFlipIsRefused(t *testing.T) {
	c, random := newClock(), rand.New(rand.NewPCG(1, 2))
	s, v := newSigner(alice, c), newVerifier(bob, c, ">")
	for i := range randomFlips {
		raw := sign(t, s, randomDraft(random))
		bit := random.IntN(8 * len(raw))
		raw[bit/8] ^= 1 << (bit % 8)
		if m, err := v.Verify(raw); err == nil {
			t.Fatalf("envelope %d, bit %d of %x: accepted as %v", i, bit, raw, m)
		}
	}
}

// randomDraft returns a draft that a verifier who subscribes to everything accepts.
func randomDraft(random *rand.Rand) message.Draft {
	d := message.Draft{Body: make([]byte, random.IntN(200))}
	for i := range d.Body {
		d.Body[i] = byte(random.Uint32())
	}
	switch random.IntN(3) {
	case 0:
		d.To = bob.ID()
	case 1:
		for i := range 1 + random.IntN(3) {
			d.Topics = append(d.Topics, message.MustTopic(fmt.Sprint("topic.t", i)))
		}
	}
	if random.IntN(2) == 0 {
		d.TaskID, d.Trace, d.InReplyTo = "task", "00-trace-01", message.ID{byte(random.Uint32()), 1}
	}
	return d
}

func TestTruncatedFrameIsRefused(t *testing.T) {
	c := newClock()
	v, raw := newVerifier(bob, c), sign(t, newSigner(alice, c), message.Draft{To: bob.ID(), Body: []byte("body")})
	for size := range raw {
		refuses(t, v, raw[:size], message.ErrMalformed, fmt.Sprintf("%d of %d bytes", size, len(raw)))
	}
}

func TestAppendedBytesAreRefused(t *testing.T) {
	c := newClock()
	v, raw := newVerifier(bob, c), sign(t, newSigner(alice, c), message.Draft{To: bob.ID()})
	for _, more := range [][]byte{{0}, {0xff}, {0xf6}, {0xa0}, raw} {
		refuses(t, v, slices.Concat(raw, more), message.ErrMalformed, fmt.Sprintf("with %d more bytes", len(more)))
		refuses(t, v, slices.Concat(more, raw), message.ErrMalformed, fmt.Sprintf("behind %d bytes", len(more)))
	}
}

func TestReplayToSameRecipientIsDropped(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c, ">")
	for name, d := range map[string]message.Draft{
		"direct": {To: bob.ID()}, "topic": {Topics: []message.Topic{message.MustTopic("a")}}, "broadcast": {},
	} {
		raw := sign(t, s, d)
		accepts(t, v, raw, name)
		for range 3 {
			refuses(t, v, raw, message.ErrReplayed, name)
		}
	}
}

// TestForgedReplayCostsNoSignature holds the order of the checks: what is a replay by its numbers is not
// worth a look at the signature.
func TestForgedReplayCostsNoSignature(t *testing.T) {
	v, e := newVerifier(bob, newClock()), newEnvelope(noon, direct(bob))
	accepts(t, v, e.raw(), "the first")
	e.signer = mallory
	refuses(t, v, e.raw(), message.ErrReplayed, "the same numbers, forged")
}

func TestReplayToOtherRecipientIsDropped(t *testing.T) {
	c := newClock()
	raw := sign(t, newSigner(alice, c), message.Draft{To: bob.ID()})
	accepts(t, newVerifier(bob, c), raw, "Bob")
	refuses(t, newVerifier(carol, c, ">"), raw, message.ErrMisaddressed, "Carol")
}

func TestReplayToOtherNetworkIsDropped(t *testing.T) {
	c := newClock()
	s := newSigner(alice, c)
	for _, other := range []string{"prod.example", "test.exampl", "test.example2", "test.example.org", "test"} {
		v := configured(message.VerifierConfig{Network: other, Now: c.Now}, ">")
		for name, d := range map[string]message.Draft{
			"direct": {To: bob.ID()}, "topic": {Topics: []message.Topic{message.MustTopic("a")}}, "broadcast": {},
		} {
			refuses(t, v, sign(t, s, d), message.ErrMisaddressed, name+" in "+other)
		}
	}
}

func TestMessageOfOtherTopicIsDropped(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c, "orders.*@2", "alerts")
	publish := func(topics ...string) []byte {
		d := message.Draft{}
		for _, topic := range topics {
			d.Topics = append(d.Topics, message.MustTopic(topic))
		}
		return sign(t, s, d)
	}
	for _, topics := range [][]string{{"orders"}, {"orders.created"}, {"orders.created@1"}, {"orders.a.b@2"}, {"alert"}, {"x", "y"}} {
		refuses(t, v, publish(topics...), message.ErrMisaddressed, fmt.Sprint(topics))
	}
	for _, topics := range [][]string{{"orders.created@2"}, {"alerts@7?a=b"}, {"x", "alerts"}} {
		m := accepts(t, v, publish(topics...), fmt.Sprint(topics))
		if len(m.Topics()) != len(topics) {
			t.Errorf("%v became %v", topics, m.Topics())
		}
	}
}

func TestMessageOfNoSubscriptionIsDropped(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c)
	d := message.Draft{Topics: []message.Topic{message.MustTopic("a")}}
	refuses(t, v, sign(t, s, d), message.ErrMisaddressed, "before subscribing")
	pattern := message.MustPattern("a")
	v.Unsubscribe(pattern) // ending none is fine
	for range 2 {
		if err := v.Subscribe(pattern); err != nil {
			t.Fatal(err)
		}
	}
	accepts(t, v, sign(t, s, d), "subscribed")
	v.Unsubscribe(pattern)
	refuses(t, v, sign(t, s, d), message.ErrMisaddressed, "after ending the subscription, which was one")
}

func TestSubscriptionsAreBounded(t *testing.T) {
	v := newVerifier(bob, newClock())
	for i := range message.MaxSubscriptions {
		if err := v.Subscribe(message.MustPattern(fmt.Sprint("a", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Subscribe(message.MustPattern("b")); err == nil {
		t.Error("one more was accepted")
	}
	if err := v.Subscribe(message.MustPattern("a0")); err != nil {
		t.Errorf("one that is there already: %v", err)
	}
}

func TestOversizedFrameIsRefused(t *testing.T) {
	c := newClock()
	raw := sign(t, newSigner(alice, c), message.Draft{To: bob.ID(), Body: make([]byte, 5000)})
	refuses(t, configured(message.VerifierConfig{MaxSize: len(raw) - 1, Now: c.Now}), raw, message.ErrTooLarge, "a byte over the limit")
	accepts(t, configured(message.VerifierConfig{MaxSize: len(raw), Now: c.Now}), raw, "at the limit")
	refuses(t, newVerifier(bob, c), make([]byte, message.DefaultMaxSize+1), message.ErrTooLarge, "over the default")
	refuses(t, newVerifier(bob, c), make([]byte, message.DefaultMaxSize), message.ErrMalformed, "at the default")
}

// TestSignatureOfOtherDomainIsRefused passes a descriptor's signature, and every other kind's, off as
// a message's.
func TestSignatureOfOtherDomainIsRefused(t *testing.T) {
	v := newVerifier(bob, newClock())
	for _, domain := range []cose.Domain{
		cose.DomainDescriptor, cose.DomainKeys, cose.DomainDelegation, cose.DomainReceipt, cose.DomainBallot,
		cose.DomainHandshake, cose.DomainBatch, cose.DomainTask, cose.DomainResult, "",
	} {
		e := newEnvelope(noon, direct(bob))
		e.domain = domain
		refuses(t, v, e.raw(), message.ErrBadSignature, string(domain))
	}
}

func TestPartsOfTwoMessagesDoNotCombine(t *testing.T) {
	v := newVerifier(bob, newClock())
	one, two := newEnvelope(noon, direct(bob)), newEnvelope(noon, direct(bob)).numbered(1, 2)
	two.body = []byte("another body")
	a, b := must(cose.Parse(one.raw())), must(cose.Parse(two.raw()))
	for name, mixed := range map[string]cose.Sign1{
		"body":      {Protected: a.Protected, Payload: b.Payload, Signature: a.Signature},
		"header":    {Protected: b.Protected, Payload: a.Payload, Signature: a.Signature},
		"signature": {Protected: a.Protected, Payload: a.Payload, Signature: b.Signature},
	} {
		refuses(t, v, mixed.Append(nil), message.ErrBadSignature, "the other's "+name)
	}
}

// TestSecondSpellingOfSignatureIsRefused adds the order of the group to the signature's scalar.
func TestSecondSpellingOfSignatureIsRefused(t *testing.T) {
	v := newVerifier(bob, newClock())
	e := newEnvelope(noon, direct(bob))
	refuses(t, v, withScalarPlusOrder(e.raw()), message.ErrBadSignature, "S + L")
	accepts(t, v, e.raw(), "S")
}

// withScalarPlusOrder respells the Ed25519 signature at the end of an envelope (RFC 8032, section 5.1.7,
// requires to refuse it).
func withScalarPlusOrder(raw []byte) []byte {
	order, _ := new(big.Int).SetString("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed", 16)
	scalar := slices.Clone(raw[len(raw)-32:])
	slices.Reverse(scalar)
	sum := new(big.Int).Add(new(big.Int).SetBytes(scalar), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return slices.Concat(raw[:len(raw)-32], sum)
}

// TestForgedFramesLeaveNoState sends frames under Alice's name that would hurt her if anything of them
// were remembered before the signature is checked.
func TestForgedFramesLeaveNoState(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), configured(message.VerifierConfig{MaxSenders: 1, Now: c.Now})
	first := must(s.Sign(t.Context(), message.Draft{To: bob.ID()}))

	forge := func(session uint64, sequence any, issued time.Time) []byte {
		e := newEnvelope(issued, direct(bob)).numbered(session, sequence)
		e.signer = mallory
		return e.raw()
	}
	forgeAll := func() {
		refuses(t, v, forge(first.Session(), maxSequence, noon), message.ErrBadSignature, "the highest sequence number")
		refuses(t, v, forge(first.Session(), uint64(1)<<63, noon), message.ErrMalformed, "a sequence number over it")
		refuses(t, v, forge(first.Session(), first.Sequence()+1, noon), message.ErrBadSignature, "the next sequence number")
		for i := range uint64(40) {
			refuses(t, v, forge(1000+i, 1, c.Now().Add(29*time.Second)), message.ErrBadSignature, "a new session in the future")
		}
		refuses(t, v, newEnvelope(noon, direct(bob)).from(mallory).raw(), message.ErrUnknownSender, "an unknown sender")
	}
	forgeAll()
	accepts(t, v, first.Raw(), "the victim's first message")
	forgeAll()
	accepts(t, v, sign(t, s, message.Draft{To: bob.ID()}), "the victim's next message")
	c.Add(time.Millisecond)
	accepts(t, v, sign(t, newSigner(alice, c), message.Draft{To: bob.ID()}), "the victim's next session")
}

// TestFrameIsAcceptedOnceByConcurrentVerifications offers each frame to one verifier 16 times at once.
func TestFrameIsAcceptedOnceByConcurrentVerifications(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c)
	const frames = 20
	for range frames {
		raw := sign(t, s, message.Draft{To: bob.ID()})
		var accepted atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				switch _, err := v.Verify(bytes.Clone(raw)); {
				case err == nil:
					accepted.Add(1)
				case !errors.Is(err, message.ErrReplayed):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := accepted.Load(); n != 1 {
			t.Fatalf("accepted %d times", n)
		}
	}
	if v.Verified() != frames || v.Refused()["replayed"] != 15*frames {
		t.Errorf("counted %d verified, %v refused", v.Verified(), v.Refused())
	}
}

func TestVerifyingWhileSubscribing(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c, "always")
	pattern, topics := message.MustPattern("a"), []message.Topic{message.MustTopic("always")}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if err := v.Subscribe(pattern); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(sign(t, s, message.Draft{Topics: topics})); err != nil {
					t.Error(err)
				}
				v.Unsubscribe(pattern)
			}
		})
	}
	wg.Wait()
}

func TestRefusalsAreCountedByReason(t *testing.T) {
	c := newClock()
	v := newVerifier(bob, c)
	counts := v.Refused()
	for _, reason := range message.Reasons() {
		if n, known := counts[reason.String()]; n != 0 || !known {
			t.Errorf("%s starts at %d, %t", reason, n, known)
		}
	}
	if len(counts) != len(message.Reasons()) {
		t.Errorf("%d counters for %d reasons", len(counts), len(message.Reasons()))
	}
	raw := newEnvelope(noon, direct(bob)).raw()
	accepts(t, v, raw, "the first")
	refuses(t, v, raw, message.ErrReplayed, "the second")
	refuses(t, v, nil, message.ErrMalformed, "nothing")
	if counts := v.Refused(); counts["replayed"] != 1 || counts["malformed"] != 1 || counts["expired"] != 0 || v.Verified() != 1 {
		t.Errorf("%v, %d verified", counts, v.Verified())
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{"": true, "unknown": true}
	for _, reason := range message.Reasons() {
		if seen[reason.String()] || reason.Error() != reason.String() {
			t.Errorf("%d is %q", reason, reason)
		}
		seen[reason.String()] = true
	}
	for _, outside := range []message.Reason{0, message.Reason(len(message.Reasons()) + 1), 255} {
		if outside.String() != "unknown" {
			t.Errorf("%d is %q", outside, outside)
		}
	}
}
