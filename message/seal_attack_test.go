package message_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// stolen takes the sealing header and the ciphertext of an envelope and has an agent sign them as its own.
func stolen(from *envelope, by *identity.Identity, edits ...func(*envelope)) *envelope {
	e := newEnvelope(noon, from.claims[claimAud]).from(by)
	e.header[labelCrit], e.header[labelSealing], e.body = from.header[labelCrit], from.header[labelSealing], from.body
	for _, edit := range edits {
		edit(e)
	}
	return e
}

// TestSurreptitiousForwardingIsRefused has Mallory, who is a registered agent here, sign as her own what Alice sealed for
// Bob: he would believe that she knows what it says.
func TestSurreptitiousForwardingIsRefused(t *testing.T) {
	for name, keys := range map[string][]testKey{"one": {bobX}, "hybrid": {bobHybrid}, "several": {bobX, carolX}} {
		honest := edited(direct(bob), sealed(keys...))
		v := configured(message.VerifierConfig{Now: newClock().Now, Keys: registryOf(alice, mallory), Sealing: ring(t, newClock(), bobX, bobHybrid)})
		refuses(t, v, stolen(honest, mallory).raw(), message.ErrUnopenable, name+": Mallory's")
		accepts(t, v, honest.raw(), name+": Alice's")
	}
}

// TestCiphertextDoesNotMoveIntoAnotherMessage changes one thing that the header says at a time, and signs with
// the sender's own key.
func TestCiphertextDoesNotMoveIntoAnotherMessage(t *testing.T) {
	for name, keys := range map[string][]testKey{"one": {bobX}, "several": {bobX, carolX}} {
		honest := edited(direct(bob), sealed(keys...))
		for change, edit := range map[string]func(*envelope){
			"audience":     claim(claimAud, network),
			"topic":        claim(claimAud, network+"/topic/a"),
			"expiry":       claim(claimExp, noon.Add(2*time.Minute).Unix()),
			"ID":           claim(claimCti, bytes.Repeat([]byte{1}, 16)),
			"issue time":   claim(claimIssuedMillis, noon.UnixMilli()+1),
			"session":      claim(claimSession, session(2)),
			"sequence":     claim(claimSequence, 2),
			"task":         claim(claimTaskID, "t"),
			"in reply to":  claim(claimInReplyTo, bytes.Repeat([]byte{1}, 16)),
			"trace":        claim(claimTrace, "00"),
			"content type": head(labelContentType, "text/plain"),
			"unknown":      head(-70000, 1),
		} {
			v := newOpener(t, bob, newClock(), bobX)
			refuses(t, v, stolen(honest, alice, edit).raw(), message.ErrUnopenable, name+": another "+change)
		}
		accepts(t, newOpener(t, bob, newClock(), bobX), stolen(honest, alice).raw(), name+": nothing changed")
	}
}

// TestModeOfASealedMessageIsBound moves a ciphertext from a single message into a batch and back.
func TestModeOfASealedMessageIsBound(t *testing.T) {
	batched := func(e *envelope) { e.header[labelVDS] = 1 }
	other := newEnvelope(noon, direct(bob)).numbered(1, 2)
	for name, keys := range map[string][]testKey{"one": {bobX}, "several": {bobX, carolX}} {
		single := edited(direct(bob), sealed(keys...))
		inBatch := edited(direct(bob), batched, sealed(keys...))
		v := newOpener(t, bob, newClock(), bobX)
		refuses(t, v, newBatch(stolen(single, alice), other).frame(0), message.ErrUnopenable, name+": a single one in a batch")
		refuses(t, v, stolen(inBatch, alice).raw(), message.ErrUnopenable, name+": one of a batch alone")
		accepts(t, v, newBatch(inBatch, other).frame(0), name+": one of a batch in a batch")
	}
}

// TestSenderCannotTellRecipientsDifferentThings has a sender give Carol another secret than Bob, under one
// ciphertext and one commitment.
func TestSenderCannotTellRecipientsDifferentThings(t *testing.T) {
	e := newEnvelope(noon, network)
	e.sealedWith([]testKey{bobX, carolX}, [][]byte{contentSecret, bytes.Repeat([]byte{1}, 32)})
	accepts(t, newOpener(t, bob, newClock(), bobX), e.raw(), "Bob, who has the secret that was committed to")
	refuses(t, newOpener(t, carol, newClock(), carolX), e.raw(), message.ErrUnopenable, "Carol, who has another")
}

// TestRecipientSignsAsItselfOnly has Carol, who can open Alice's message to her and Bob, speak for Alice, and for
// herself with the same content secret.
func TestRecipientSignsAsItselfOnly(t *testing.T) {
	honest := edited(network, sealed(bobX, carolX))
	v := newOpener(t, bob, newClock(), bobX)
	forged := stolen(honest, alice)
	forged.signer = carol
	refuses(t, v, forged.raw(), message.ErrBadSignature, "Carol as Alice")
	own := edited(network, func(e *envelope) { e.from(carol); e.body = []byte("mine") }, sealed(bobX, carolX))
	if m := accepts(t, v, own.raw(), "Carol as Carol"); m.Sender() != carol.ID() || string(m.Body()) != "mine" {
		t.Errorf("%v says %q", m, m.Body())
	}
}

// TestSealingCannotBeTakenOff removes the header that says that the body is sealed.
func TestSealingCannotBeTakenOff(t *testing.T) {
	honest := edited(direct(bob), sealed(bobX))
	parts := must(cose.Parse(honest.raw()))
	plain := edited(direct(bob)).protected()
	raw := cose.Sign1{Protected: plain, Payload: parts.Payload, Signature: parts.Signature}.Append(nil)
	refuses(t, newOpener(t, bob, newClock(), bobX), raw, message.ErrBadSignature, "the ciphertext as a body")
}

// TestWhatWasRecordedStaysClosedOnceTheKeyIsForgotten is forward secrecy.
func TestWhatWasRecordedStaysClosedOnceTheKeyIsForgotten(t *testing.T) {
	c := newClock()
	keys := must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519, Overlap: time.Hour, Now: c.Now}))
	current := sourceOf(keys)
	recorded := sign(t, newSealer(c, current), message.Draft{To: bob.ID(), Body: []byte(secretText), Seal: true})
	must(keys.Rotate())
	c.Add(time.Minute)
	m, err := configured(message.VerifierConfig{Now: newClock().Now, Sealing: keys}).Verify(bytes.Clone(recorded))
	expectOpened(t, m, err, "under way during a rotation")
	c.Add(time.Hour)
	taken := must(message.ParseUnsafe(recorded)) // by whoever has taken over the agent
	if _, err := taken.Open(keys); !errors.Is(err, message.ErrUnopenable) {
		t.Errorf("opened after the key was forgotten: %v", err)
	}
}

// sourceFunc is a source that is a function.
type sourceFunc func(identity.ID) (identity.PublicSealingKey, error)

func (f sourceFunc) SealingKey(id identity.ID) (identity.PublicSealingKey, error) { return f(id) }

// sourceOf has the current key for everybody.
func sourceOf(keys *identity.SealingKeys) sourceFunc {
	return func(identity.ID) (identity.PublicSealingKey, error) { return keys.Current(), nil }
}

// TestUnopenableMessageLeavesNoState sends one that does not open, and then another with the same number.
func TestUnopenableMessageLeavesNoState(t *testing.T) {
	v := newOpener(t, bob, newClock(), bobX)
	raw := edited(direct(bob), sealed(carolX)).raw()
	for range 3 {
		refuses(t, v, raw, message.ErrUnopenable, "sealed to Carol")
	}
	accepts(t, v, edited(direct(bob), sealed(bobX)).raw(), "sealed to Bob, with the same number")
	if n := v.Refused()["unopenable"]; n != 3 || v.Opened() != 1 || v.Verified() != 1 {
		t.Errorf("%d unopenable, %d opened, %d verified", n, v.Opened(), v.Verified())
	}
}

func TestRefusalOfASealedMessageTellsNothing(t *testing.T) {
	e := edited(direct(bob), func(e *envelope) { e.body = []byte(secretText) }, sealed(bobX), func(e *envelope) { e.body[0]++ })
	_, err := newOpener(t, bob, newClock(), bobX).Verify(e.raw())
	if !errors.Is(err, message.ErrUnopenable) || strings.Contains(err.Error(), "chacha") || strings.Contains(err.Error(), "hpke") {
		t.Errorf("%v", err)
	}
}

// TestEverySingleBitFlipOfASealedMessageIsRefused flips each bit of an envelope; a soak test does so for more sorts.
func TestEverySingleBitFlipOfASealedMessageIsRefused(t *testing.T) {
	t.Parallel()
	flipEveryBitSealed(t, map[string][]byte{"one": edited(direct(bob), sealed(bobX)).raw()})
}

// flipEveryBitSealed flips each bit of envelopes that are sealed to Bob.
func flipEveryBitSealed(t *testing.T, envelopes map[string][]byte) {
	for name, raw := range envelopes {
		v := newOpener(t, bob, newClock(), bobX, bobHybrid)
		flipEveryBit(t, v, raw)
		accepts(t, v, raw, name+": the unharmed envelope")
	}
}

// TestEveryFlipOfWhatIsSealedIsRefused flips bits of ciphertext and encapsulation and signs again, so that the
// signature stops nothing.
func TestEveryFlipOfWhatIsSealedIsRefused(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]testKey{"one": {bobX}, "hybrid": {bobHybrid}, "several": {bobX, bobHybrid}} {
		honest := edited(direct(bob), sealed(keys...))
		v := newOpener(t, bob, newClock(), keys[0])
		header, body := honest.header[labelSealing].([]byte), honest.body
		for bit := 0; bit < 8*len(body); bit += sealedStride {
			e := stolen(honest, alice)
			e.body = flip(body, bit)
			refuses(t, v, e.raw(), message.ErrUnopenable, name+": ciphertext")
		}
		for bit := 0; bit < 8*len(header); bit += 1 + len(header)/16 {
			e := stolen(honest, alice)
			e.header[labelSealing] = flip(header, bit)
			if m, err := v.Verify(e.raw()); err == nil {
				t.Fatalf("%s: bit %d of the header flipped: %v", name, bit, m)
			}
		}
		accepts(t, v, honest.raw(), name+": the unharmed envelope")
	}
}

func flip(b []byte, bit int) []byte {
	flipped := bytes.Clone(b)
	flipped[bit/8] ^= 1 << (bit % 8)
	return flipped
}

// badSealing are sealing headers that are refused before anything is verified.
func badSealing() map[string]struct {
	value  any
	reason message.Reason
} {
	encapsulated := func(k testKey) []byte { return make([]byte, k.suite.EncapsulatedSize()) }
	commitment, wrapped := make([]byte, 32), make([]byte, 48)
	one := func(k testKey) []any { return []any{uint8(k.suite), k.id(), encapsulated(k)} }
	entry := func(k testKey) []any { return append(one(k), wrapped) }
	first, second := bobX, carolX
	if bytes.Compare(first.id(), second.id()) > 0 {
		first, second = second, first
	}
	many := make([][]any, message.MaxSealTo+1)
	for i := range many {
		id := make([]byte, 16)
		id[0] = byte(i)
		many[i] = []any{2, id, make([]byte, 32), wrapped}
	}
	return map[string]struct {
		value  any
		reason message.Reason
	}{
		"nothing":               {nil, message.ErrMalformed},
		"a number":              {1, message.ErrMalformed},
		"empty array":           {[]any{}, message.ErrMalformed},
		"array of 4":            {entry(bobX), message.ErrMalformed},
		"suite 0":               {[]any{0, bobX.id(), encapsulated(bobX)}, message.ErrUnsupported},
		"suite 3":               {[]any{3, bobX.id(), encapsulated(bobX)}, message.ErrUnsupported},
		"suite 257":             {[]any{257, bobX.id(), encapsulated(bobX)}, message.ErrUnsupported},
		"suite -1":              {[]any{-1, bobX.id(), encapsulated(bobX)}, message.ErrMalformed},
		"another suite's key":   {[]any{1, bobX.id(), encapsulated(bobX)}, message.ErrMalformed},
		"key ID of 15 bytes":    {[]any{2, bobX.id()[:15], encapsulated(bobX)}, message.ErrMalformed},
		"encapsulated short":    {[]any{2, bobX.id(), encapsulated(bobX)[:31]}, message.ErrMalformed},
		"array of one":          {[]any{commitment, [][]any{entry(bobX)}}, message.ErrMalformed},
		"array of none":         {[]any{commitment, []any{}}, message.ErrMalformed},
		"too many":              {[]any{commitment, many}, message.ErrMalformed},
		"twice":                 {[]any{commitment, [][]any{entry(bobX), entry(bobX)}}, message.ErrMalformed},
		"descending":            {[]any{commitment, [][]any{entry(second), entry(first)}}, message.ErrMalformed},
		"commitment of 31":      {[]any{commitment[:31], [][]any{entry(first), entry(second)}}, message.ErrMalformed},
		"wrapped of 47":         {[]any{commitment, [][]any{entry(first), append(one(second), wrapped[:47])}}, message.ErrMalformed},
		"unwrapped":             {[]any{commitment, [][]any{one(first), one(second)}}, message.ErrMalformed},
		"unknown suite of one":  {[]any{commitment, [][]any{entry(first), {9, second.id(), encapsulated(second), wrapped}}}, message.ErrUnsupported},
		"two arrays of several": {[]any{commitment, [][]any{entry(first), entry(second)}, 1}, message.ErrMalformed},
	}
}

func TestBadSealingHeadersAreRefused(t *testing.T) {
	v := newOpener(t, bob, newClock(), bobX)
	for name, bad := range badSealing() {
		e := edited(direct(bob), func(e *envelope) { e.criticalSealing(bad.value) })
		refuses(t, v, e.raw(), bad.reason, name)
	}
	good := edited(direct(bob), sealed(bobX))
	value := good.header[labelSealing].([]byte)
	for name, bad := range map[string]struct {
		edit   func(*envelope)
		reason message.Reason
	}{
		"not critical":               {func(e *envelope) { delete(e.header, labelCrit) }, message.ErrMalformed},
		"critical and not there":     {func(e *envelope) { delete(e.header, labelSealing) }, message.ErrMalformed},
		"another critical too":       {head(labelCrit, []int64{labelSealing, -70000}), message.ErrUnsupported},
		"critical twice":             {head(labelCrit, []int64{labelSealing, labelSealing}), message.ErrUnsupported},
		"critical by text":           {head(labelCrit, []string{"x"}), message.ErrMalformed},
		"critical is no array":       {head(labelCrit, labelSealing), message.ErrMalformed},
		"an array, not its bytes":    {head(labelSealing, []any{2, bobX.id(), make([]byte, 32)}), message.ErrMalformed},
		"something after":            {head(labelSealing, append(bytes.Clone(value), 0)), message.ErrMalformed},
		"truncated":                  {head(labelSealing, value[:len(value)-1]), message.ErrMalformed},
		"no bytes":                   {head(labelSealing, []byte{}), message.ErrMalformed},
		"array of indefinite length": {head(labelSealing, append(append([]byte{0x9f}, value[1:]...), 0xff)), message.ErrMalformed},
		"suite not minimal":          {head(labelSealing, append([]byte{0x83, 0x18, 2}, value[2:]...)), message.ErrMalformed},
	} {
		refuses(t, v, stolen(good, alice, bad.edit).raw(), bad.reason, name)
	}
}

// TestSuiteOfTheKeyCounts has a sender claim another suite than the one of the key that it names.
func TestSuiteOfTheKeyCounts(t *testing.T) {
	e := edited(direct(bob), func(e *envelope) {
		e.criticalSealing([]any{uint8(identity.X25519), bobHybrid.id(), bytes.Repeat([]byte{9}, 32)})
	})
	refuses(t, newOpener(t, bob, newClock(), bobHybrid), e.raw(), message.ErrUnopenable, "X25519 for a hybrid key")
}

// TestSealedButForgedIsBadSignature holds the order of the checks: for who is not known, or forges, nothing is
// opened.
func TestSealedButForgedIsBadSignature(t *testing.T) {
	v := newOpener(t, bob, newClock(), bobX)
	forged := edited(direct(bob), sealed(bobX), func(e *envelope) { e.signer = mallory })
	refuses(t, v, forged.raw(), message.ErrBadSignature, "forged")
	unopenable := edited(direct(bob), sealed(carolX), func(e *envelope) { e.signer = mallory })
	refuses(t, v, unopenable.raw(), message.ErrBadSignature, "forged and not for Bob")
	stranger := edited(direct(bob), func(e *envelope) { e.from(mallory) }, sealed(bobX))
	refuses(t, v, stranger.raw(), message.ErrUnknownSender, "a stranger's")
}
