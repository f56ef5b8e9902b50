package message_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

var updateSealed = flag.Bool("update-sealed", false, "seal the sealed vectors anew; only when the format's version changes")

const (
	sealedVectorFile = "sealed.json"
	// sealedVectorSum is the SHA-256 digest of the file, since sealing is random and the file cannot be made again.
	sealedVectorSum = "95884e228465012fa175f87021cca31980fe040152251e435d1de905340c32c7"
)

// vectorKey is a sealing key that the receiver holds.
type vectorKey struct {
	Suite  identity.SealingSuite `json:"suite"`
	Secret string                `json:"private_key"`
	Public string                `json:"public_key"`
}

// sealing returns the receiver's sealing keys, or nil.
func (v vector) sealing(t *testing.T) *identity.SealingKeys {
	if len(v.SealingKeys) == 0 {
		return nil
	}
	var keys []testKey
	for _, k := range v.SealingKeys {
		secret := unhex(t, k.Secret)
		key := testKey{k.Suite, secret[0]}
		if public := key.public(); !bytes.Equal(secret, key.secret()) || hex.EncodeToString(public.Bytes()) != k.Public {
			t.Fatalf("%s: the public key of %s is %x", v.Name, k.Secret, public.Bytes())
		}
		keys = append(keys, key)
	}
	return ring(t, newClock(), keys...)
}

func refusedOf(vectors []vector) []vector {
	return slices.DeleteFunc(vectors, func(v vector) bool { return v.Reason == "" })
}

func TestSealedVectors(t *testing.T) {
	opened := 0
	for _, v := range readVectors(t, sealedVectorFile) {
		if v.Reason != "" {
			continue // see TestRefusedVectors
		}
		opened++
		m, err := v.verify(t)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if got, want := must(json.Marshal(fieldsOf(m))), must(json.Marshal(v.Message)); !bytes.Equal(got, want) || !m.Sealed() {
			t.Errorf("%s:\n%s, not\n%s", v.Name, got, want)
		}
		if byHand := openByHand(t, unhex(t, v.Envelope), testKey{v.SealingKeys[0].Suite, unhex(t, v.SealingKeys[0].Secret)[0]}); !bytes.Equal(byHand, m.Body()) {
			t.Errorf("%s: opened by hand: %q", v.Name, byHand)
		}
	}
	if opened < 10 {
		t.Errorf("%d vectors are opened", opened)
	}
}

// TestSealedVectorsAreFrozen compares the file with its digest.
func TestSealedVectorsAreFrozen(t *testing.T) {
	path := filepath.Join(vectorFolder, sealedVectorFile)
	if *updateSealed {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(sealedVectors()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if sum := sha256.Sum256(must(os.ReadFile(path))); hex.EncodeToString(sum[:]) != sealedVectorSum {
		t.Errorf("%s has the digest %x; the format may change only with its version", path, sum)
	}
}

// holding gives the receiver sealing keys.
func holding(keys ...testKey) func(*vector) {
	return func(v *vector) {
		for _, k := range keys {
			v.SealingKeys = append(v.SealingKeys, vectorKey{k.suite, hex.EncodeToString(k.secret()), hex.EncodeToString(k.public().Bytes())})
		}
	}
}

// seal sets the receiver's policy.
func seal(policy message.SealPolicy) func(*vector) {
	return func(v *vector) { v.Seal = policy.String() }
}

// reads says what the body is once it is open.
func reads(body []byte) func(*vector) {
	return func(v *vector) {
		v.Message = fieldsOf(must(message.ParseUnsafe(must(hex.DecodeString(v.Envelope)))))
		v.Message.Body = hex.EncodeToString(body)
	}
}

func refusedAs(reason message.Reason) func(*vector) {
	return func(v *vector) { v.Reason = reason.String() }
}

func sealedVectors() []vector {
	honest := edited(direct(bob), sealed(bobX))
	hello := []byte(`{"hello":"world"}`)
	batched := head(labelVDS, 1)
	long := bytes.Repeat([]byte{0x5a}, 300)
	body := func(b []byte) func(*envelope) { return func(e *envelope) { e.body = b } }
	other := newEnvelope(noon, direct(bob)).numbered(1, 2)
	all := []vector{
		newVector("X25519", honest.raw(), holding(bobX), reads(hello)),
		newVector("MLKEM768-X25519", edited(direct(bob), sealed(bobHybrid)).raw(), holding(bobHybrid), reads(hello)),
		newVector("empty body", edited(direct(bob), body([]byte{}), sealed(bobX)).raw(), holding(bobX), reads(nil)),
		newVector("body of 300 bytes", edited(direct(bob), body(long), sealed(bobX)).raw(), holding(bobX), reads(long)),
		newVector("every field", edited(direct(bob),
			claim(claimTaskID, "Aufgabe №7"), claim(claimInReplyTo, bytes.Repeat([]byte{0xd2}, 16)),
			claim(claimTrace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
			head(labelContentType, "text/plain; charset=utf-8"), sealed(bobHybrid)).raw(), holding(bobHybrid), reads(hello)),
		newVector("unknown header", edited(direct(bob), head(-70000, labels{1: []string{"x"}}), sealed(bobX)).raw(), holding(bobX), reads(hello),
			comment("it is part of the additional data like all of the header")),
		newVector("by a topic, to one", edited(network+"/topic/orders.created", sealed(bobX)).raw(), holding(bobX), reads(hello)),
		newVector("to everybody, for two", edited(network, sealed(bobX, carolX)).raw(), holding(bobX), reads(hello)),
		newVector("direct, for two", edited(direct(bob), sealed(carolX, bobX)).raw(), holding(bobX), reads(hello),
			comment("a signer does not make it, and nothing is wrong with it")),
		newVector("for two, of two suites", edited(network, sealed(bobHybrid, carolX)).raw(), holding(bobHybrid), reads(hello)),
		newVector("in a batch", newBatch(edited(direct(bob), batched, sealed(bobX)), other).frame(0), holding(bobX), reads(hello)),
		newVector("for two, in a batch", newBatch(edited(network, batched, sealed(bobX, carolX)), other).frame(0), holding(bobX), reads(hello)),
		newVector("where sealing is required", edited(direct(bob), sealed(bobX)).raw(), holding(bobX), seal(message.SealRequired), reads(hello)),
	}
	return append(all, refusedSealedVectors(honest, other, batched)...)
}

func refusedSealedVectors(honest, other *envelope, batched func(*envelope)) []vector {
	two := edited(network, sealed(bobX, carolX))
	salamander := newEnvelope(noon, network)
	salamander.sealedWith([]testKey{carolX, bobX}, [][]byte{contentSecret, bytes.Repeat([]byte{1}, 32)})
	parts := must(cose.Parse(honest.raw()))
	knowsMallory := func(v *vector) { v.SenderKey = hex.EncodeToString(mallory.PublicKey()) }
	no := refusedAs(message.ErrUnopenable)
	all := []vector{
		newVector("to another agent's key", edited(direct(bob), sealed(carolX)).raw(), holding(bobX), no),
		newVector("to others' keys", two.raw(), holding(bobHybrid), no),
		newVector("no sealing keys", honest.raw(), no),
		newVector("sealing is off", honest.raw(), holding(bobX), seal(message.SealOff), no),
		newVector("signed by another as its own", stolen(honest, mallory).raw(), holding(bobX), knowsMallory, no, comment("surreptitious forwarding: kid is part of the additional data")),
		newVector("moved into another message", stolen(honest, alice, claim(claimCti, bytes.Repeat([]byte{1}, 16))).raw(), holding(bobX), no),
		newVector("moved to a topic", stolen(honest, alice, claim(claimAud, network+"/topic/orders.created")).raw(), holding(bobX), no),
		newVector("moved into a batch", newBatch(stolen(honest, alice), other).frame(0), holding(bobX), no),
		newVector("moved out of a batch", stolen(edited(direct(bob), batched, sealed(bobX)), alice).raw(), holding(bobX), no),
		newVector("for two: moved into another message", stolen(two, alice, claim(claimSequence, 2)).raw(), holding(bobX), no),
		newVector("for two: another secret than was committed to", salamander.raw(), holding(bobX), no),
		newVector("ciphertext changed", stolen(honest, alice, func(e *envelope) { e.body = flip(e.body, 0) }).raw(), holding(bobX), no),
		newVector("tag missing", stolen(honest, alice, func(e *envelope) { e.body = e.body[:len(e.body)-16] }).raw(), holding(bobX), no),
		newVector("no ciphertext", stolen(honest, alice, func(e *envelope) { e.body = nil }).raw(), holding(bobX), no),
		newVector("plain where sealing is required", edited(direct(bob)).raw(), holding(bobX), seal(message.SealRequired), refusedAs(message.ErrUnsealed)),
		newVector("forged", stolen(honest, alice, func(e *envelope) { e.signer = mallory }).raw(), holding(bobX), refusedAs(message.ErrBadSignature)),
		newVector("sealing taken off", cose.Sign1{Protected: edited(direct(bob)).protected(), Payload: parts.Payload, Signature: parts.Signature}.Append(nil),
			holding(bobX), refusedAs(message.ErrBadSignature)),
		newVector("the same again", honest.raw(), holding(bobX), before(honest.raw()), refusedAs(message.ErrReplayed)),
		newVector("expired", honest.raw(), holding(bobX), later(2*time.Minute), refusedAs(message.ErrExpired)),
		newVector("sealing is not critical", stolen(honest, alice, func(e *envelope) { delete(e.header, labelCrit) }).raw(), holding(bobX), refusedAs(message.ErrMalformed)),
		newVector("critical sealing is not there", stolen(honest, alice, func(e *envelope) { delete(e.header, labelSealing) }).raw(), holding(bobX), refusedAs(message.ErrMalformed)),
		newVector("another critical header beside", stolen(honest, alice, head(labelCrit, []int64{labelSealing, -70000})).raw(), holding(bobX), refusedAs(message.ErrUnsupported)),
	}
	bad := badSealing()
	var names []string
	for name := range bad {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		raw := edited(direct(bob), func(e *envelope) { e.criticalSealing(bad[name].value) }).raw()
		all = append(all, newVector("header: "+name, raw, holding(bobX), refusedAs(bad[name].reason)))
	}
	return all
}
