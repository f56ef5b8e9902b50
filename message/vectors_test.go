package message_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

var update = flag.Bool("update", false, "write testdata/vectors anew; only when the format's version changes")

const vectorFolder = "testdata/vectors"

// vector is one frame and what becomes of it; testdata/vectors/README.md has the meaning of the fields.
type vector struct {
	Name          string   `json:"name"`
	Comment       string   `json:"comment,omitempty"`
	Receiver      string   `json:"receiver"`
	Network       string   `json:"network"`
	Subscriptions []string `json:"subscriptions,omitempty"`
	SenderKey     string   `json:"sender_public_key,omitempty"`
	Statements    []string `json:"sender_key_statements,omitempty"` // in the order in which the receiver learns of them
	StartedMillis int64    `json:"receiver_started_ms"`
	NowMillis     int64    `json:"now_ms"`
	MaxSize       int      `json:"max_size,omitempty"`
	Before        []string `json:"accepted_before,omitempty"`
	Envelope      string   `json:"envelope"`
	Reason        string   `json:"reason,omitempty"`
	Message       *fields  `json:"message,omitempty"`

	SealingKeys []vectorKey `json:"sealing_keys,omitempty"`
	Seal        string      `json:"seal,omitempty"`
}

// fields are those of an accepted message.
type fields struct {
	ID           string   `json:"id"`
	Sender       string   `json:"sender"`
	Network      string   `json:"network"`
	To           string   `json:"to,omitempty"`
	Topics       []string `json:"topics,omitempty"`
	ContentType  string   `json:"content_type"`
	Body         string   `json:"body"`
	TaskID       string   `json:"task_id,omitempty"`
	InReplyTo    string   `json:"in_reply_to,omitempty"`
	Trace        string   `json:"trace,omitempty"`
	IssuedMillis int64    `json:"issued_ms"`
	Expires      int64    `json:"expires_s"`
	Session      string   `json:"session"`
	Sequence     uint64   `json:"sequence,string"` // beyond what a JSON number holds everywhere
	Epoch        uint64   `json:"key_epoch,string,omitempty"`
}

func fieldsOf(m *message.Message) *fields {
	f := &fields{
		ID: m.ID().String(), Sender: m.Sender().String(), Network: m.Network(), ContentType: m.ContentType(),
		Body: hex.EncodeToString(m.Body()), TaskID: m.TaskID(), Trace: m.Trace(),
		IssuedMillis: m.Issued().UnixMilli(), Expires: m.Expires().Unix(),
		Session: fmt.Sprintf("%016x", m.Session()), Sequence: m.Sequence(), Epoch: m.Epoch(),
	}
	if !m.To().IsZero() {
		f.To = m.To().String()
	}
	if !m.InReplyTo().IsZero() {
		f.InReplyTo = m.InReplyTo().String()
	}
	for _, topic := range m.Topics() {
		f.Topics = append(f.Topics, topic.String())
	}
	return f
}

// verify does what a vector says.
func (v vector) verify(t *testing.T) (*message.Message, error) {
	t.Helper()
	clock := newClock()
	clock.Set(time.UnixMilli(v.StartedMillis))
	keys := identity.NewRegistryWith(identity.RegistryConfig{Now: clock.Now, Logger: slog.New(slog.DiscardHandler)})
	if key := unhex(t, v.SenderKey); len(key) > 0 {
		if err := keys.Register(identity.IDOf(key), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, raw := range v.Statements {
		if _, err := keys.Apply(unhex(t, raw)); err != nil && v.Reason != message.ErrQuarantined.String() {
			t.Fatal(err)
		}
	}
	verifier, err := message.NewVerifier(message.VerifierConfig{
		Self: must(identity.ParseID(v.Receiver)), Network: v.Network, Keys: keys, MaxSize: v.MaxSize, Now: clock.Now,
		Sealing: v.sealing(t), Seal: must(message.ParseSealPolicy(v.Seal)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range v.Subscriptions {
		if err := verifier.Subscribe(message.MustPattern(pattern)); err != nil {
			t.Fatal(err)
		}
	}
	clock.Set(time.UnixMilli(v.NowMillis))
	for _, before := range v.Before {
		accepts(t, verifier, unhex(t, before), v.Name+": before")
	}
	return verifier.Verify(unhex(t, v.Envelope))
}

func TestAcceptedVectors(t *testing.T) {
	for _, v := range readVectors(t, "accepted.json") {
		m, err := v.verify(t)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if got, want := must(json.Marshal(fieldsOf(m))), must(json.Marshal(v.Message)); !bytes.Equal(got, want) {
			t.Errorf("%s:\n%s, not\n%s", v.Name, got, want)
		}
		if proofOf(unhex(t, v.Envelope)) != nil {
			continue // the signature is the root's: see TestBatchSignatureIsACOSESign1
		}
		var sign1 veraison.Sign1Message
		verifier := must(veraison.NewVerifier(veraison.AlgorithmEdDSA, keyOfEpoch(m.Epoch())))
		if err := sign1.UnmarshalCBOR(unhex(t, v.Envelope)); err != nil {
			t.Errorf("%s: go-cose: %v", v.Name, err)
		} else if err := sign1.Verify([]byte(cose.DomainMessage), verifier); err != nil {
			t.Errorf("%s: go-cose: %v", v.Name, err)
		}
	}
}

func TestRefusedVectors(t *testing.T) {
	missing := map[string]bool{}
	for _, reason := range message.Reasons() {
		missing[reason.String()] = true
	}
	delete(missing, message.ErrNoMarks.String()) // no frame is to blame for it
	for _, v := range slices.Concat(readVectors(t, "refused.json"), refusedOf(readVectors(t, sealedVectorFile))) {
		m, err := v.verify(t)
		refusal, ok := err.(*message.Refusal)
		if !ok || refusal.Reason.String() != v.Reason {
			t.Errorf("%s: %v, %v; want %s", v.Name, m, err, v.Reason)
		}
		delete(missing, v.Reason)
	}
	if len(missing) > 0 {
		t.Errorf("no vector is refused as %v", missing)
	}
}

// TestVectorsAreFrozen makes the vectors anew and compares them with what is committed.
func TestVectorsAreFrozen(t *testing.T) {
	for file, vectors := range map[string][]vector{"accepted.json": acceptedVectors(), "refused.json": refusedVectors()} {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(vectors); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(vectorFolder, file)
		if *update {
			if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if committed := must(os.ReadFile(path)); !bytes.Equal(committed, text.Bytes()) {
			t.Errorf("%s is not what the code makes; the format may change only with its version", path)
		}
	}
}

// TestWorkedExampleOfTheFormatIsAVector reads the hexadecimal column of the example in docs/wire.md.
func TestWorkedExampleOfTheFormatIsAVector(t *testing.T) {
	_, after, _ := strings.Cut(string(must(os.ReadFile("../docs/wire.md"))), "```hex\n")
	example, _, _ := strings.Cut(after, "```")
	var text string
	for line := range strings.Lines(example) {
		text += strings.Fields(line)[0]
	}
	vectors := readVectors(t, "accepted.json")
	i := slices.IndexFunc(vectors, func(v vector) bool { return v.Name == "batch of 2, index 1" })
	if i < 0 || vectors[i].Envelope != text {
		t.Errorf("docs/wire.md shows\n%s, which is not the vector", text)
	}
}

func readVectors(t testing.TB, file string) []vector {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(must(os.ReadFile(filepath.Join(vectorFolder, file)))))
	decoder.DisallowUnknownFields()
	var vectors []vector
	if err := decoder.Decode(&vectors); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(vectors) == 0 {
		t.Fatalf("%s is empty", file)
	}
	return vectors
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newVector is a frame that reaches Bob at noon, a minute after he started.
func newVector(name string, raw []byte, edits ...func(*vector)) vector {
	v := vector{
		Name: name, Receiver: bob.ID().String(), Network: network, Subscriptions: []string{"orders.>", "alerts@2"},
		SenderKey: hex.EncodeToString(alice.PublicKey()), StartedMillis: noon.Add(-time.Minute).UnixMilli(), NowMillis: noon.UnixMilli(),
		Envelope: hex.EncodeToString(raw),
	}
	for _, edit := range edits {
		edit(&v)
	}
	return v
}

// later moves the moment at which the frame arrives.
func later(d time.Duration) func(*vector) {
	return func(v *vector) { v.NowMillis += d.Milliseconds() }
}

func comment(text string) func(*vector) { return func(v *vector) { v.Comment = text } }

func before(frames ...[]byte) func(*vector) {
	return func(v *vector) {
		for _, raw := range frames {
			v.Before = append(v.Before, hex.EncodeToString(raw))
		}
	}
}

// edited is Alice's message of noon with changes.
func edited(audience any, edits ...func(*envelope)) *envelope {
	e := newEnvelope(noon, audience)
	for _, edit := range edits {
		edit(e)
	}
	return e
}

func claim(label int64, value any) func(*envelope) {
	return func(e *envelope) { e.claims[label] = value }
}

func head(label int64, value any) func(*envelope) {
	return func(e *envelope) { e.header[label] = value }
}

func acceptedVectors() []vector {
	vectors := []vector{
		newVector("direct", edited(direct(bob)).raw()),
		newVector("broadcast", edited(network).raw()),
		newVector("topic", edited(network+"/topic/orders.created").raw()),
		newVector("topic with version and attributes", edited(network+"/topic/orders.created@2?note=a+%2F+%C3%A9&tier=gold").raw()),
		newVector("several topics", edited(topicAudience("other", "alerts@2", "orders.eu.created")).raw(), comment("one subscription is enough")),
		newVector("16 topics", edited(topicAudience("orders.a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p")).raw()),
		newVector("every field", edited(direct(bob),
			claim(claimTaskID, "Aufgabe №7"), claim(claimInReplyTo, bytes.Repeat([]byte{0xd2}, 16)),
			claim(claimTrace, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
			head(labelContentType, "text/plain; charset=utf-8")).raw()),
		newVector("empty body", edited(direct(bob), func(e *envelope) { e.body = []byte{} }).raw()),
		newVector("body of 300 bytes", edited(direct(bob), func(e *envelope) { e.body = bytes.Repeat([]byte{0x5a}, 300) }).raw()),
		newVector("milliseconds", newEnvelope(noon.Add(-1*time.Millisecond), direct(bob)).raw()),
		newVector("highest sequence number", edited(direct(bob), claim(claimSequence, maxSequence)).raw()),
		newVector("unknown header and claim", edited(direct(bob), head(-70000, labels{1: []string{"x"}}), func(e *envelope) {
			e.header["note"], e.claims["note"] = "x", []byte{1}
		}).raw(), comment("what is not critical and not known is ignored")),
		newVector("from the future, at the skew", edited(direct(bob)).raw(), later(-30*time.Second)),
		newVector("expired, at the skew", edited(direct(bob)).raw(), later(90*time.Second)),
		newVector("at the maximal age and the skew", edited(direct(bob), claim(claimExp, noon.Add(time.Hour).Unix())).raw(), later(330*time.Second)),
		newVector("1,023 behind the newest", edited(direct(bob), claim(claimSequence, 2)).raw(),
			before(edited(direct(bob), claim(claimSequence, 1025)).raw())),
		newVector("new session", edited(direct(bob), claim(claimSession, session(2)), claim(claimIssuedMillis, noon.UnixMilli()+1)).raw(),
			before(edited(direct(bob)).raw())),
	}
	vectors = append(vectors, acceptedEpochs()...)
	for _, place := range []struct{ size, index int }{{2, 0}, {2, 1}, {3, 2}, {5, 3}, {7, 6}, {8, 5}, {1024, 1000}} {
		vectors = append(vectors, newVector(fmt.Sprintf("batch of %d, index %d", place.size, place.index), newBatch(numbered(place.size)...).frame(place.index)))
	}
	for i, v := range vectors {
		m := must(message.ParseUnsafe(must(hex.DecodeString(v.Envelope))))
		vectors[i].Message = fieldsOf(m)
	}
	return vectors
}

func refusedVectors() []vector {
	plain := edited(direct(bob))
	raw, protected := plain.raw(), plain.protected()
	parts := must(cose.Parse(raw))
	claimsAt := bytes.Index(protected, []byte{byte(labelClaims), 0xa7})
	frame := func(items ...[]byte) []byte { return slices.Concat(append([][]byte{{0xd2, 0x84}}, items...)...) }
	encode := func(v any) []byte { return must(core.Marshal(v)) }

	b := newBatch(numbered(5)...)
	path := inclusionPath(3, b.entries)
	another := newBatch(numbered(4)...)
	borrowed := *b
	borrowed.signature = another.signature
	ofSize4 := *b
	ofSize4.signature = signRoot(alice, idBytes(alice), 4, treeHash(b.entries), "converge/batch/v1")
	asMessage := *b
	asMessage.signature = signRoot(alice, idBytes(alice), 5, treeHash(b.entries), "converge/message/v1")

	var sessions [][]byte
	for n := range 16 {
		sessions = append(sessions, edited(direct(bob), claim(claimSession, session(uint64(n))), claim(claimIssuedMillis, noon.UnixMilli()+int64(n))).raw())
	}
	byReason := []struct {
		reason  message.Reason
		vectors []vector
	}{
		{message.ErrTooLarge, []vector{
			newVector("a byte over the limit", raw, func(v *vector) { v.MaxSize = len(raw) - 1 }),
		}},
		{message.ErrMalformed, []vector{
			newVector("nothing", nil),
			newVector("truncated", raw[:len(raw)-1]),
			newVector("appended byte", append(slices.Clone(raw), 0)),
			newVector("untagged", raw[1:]),
			newVector("tagged twice", append([]byte{0xd2}, raw...)),
			newVector("tag not minimal", slices.Concat([]byte{0xd8, 18}, raw[1:])),
			newVector("array of indefinite length", slices.Concat([]byte{0xd2, 0x9f}, raw[2:], []byte{0xff})),
			newVector("unprotected header", frame(encode(parts.Protected), encode(labels{labelKid: idBytes(alice)}), encode(parts.Payload), encode(parts.Signature))),
			newVector("detached payload", frame(encode(parts.Protected), encode(labels{}), encode(nil), encode(parts.Signature))),
			newVector("signature of 63 bytes", frame(encode(parts.Protected), encode(labels{}), encode(parts.Payload), encode(parts.Signature[:63]))),
			newVector("length of 2^64-1", []byte{0xd2, 0x84, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
			newVector("header: no map", plain.sign(cose.AppendBytes(nil, protected))),
			newVector("header: label not minimal", plain.sign(slices.Concat(protected[:1], []byte{0x18}, protected[1:]))),
			newVector("header: label twice", plain.sign(slices.Concat([]byte{0xa6}, protected[1:3], protected[1:]))),
			newVector("header: labels unsorted", plain.sign(slices.Concat(protected[:1], protected[3:claimsAt], protected[1:3], protected[claimsAt:]))),
			newVector("header: trailing byte", plain.sign(append(slices.Clone(protected), 0))),
			newVector("header: float in an unknown header", edited(direct(bob), head(-70000, 1.5)).raw()),
			newVector("header: null in an unknown header", edited(direct(bob), head(-70000, nil)).raw()),
			newVector("header: nested nine deep", edited(direct(bob), head(-70000, nested(8))).raw()),
			newVector("header: no typ", edited(direct(bob), func(e *envelope) { delete(e.header, labelTyp) }).raw()),
			newVector("header: kid of 31 bytes", edited(direct(bob), head(labelKid, idBytes(alice)[:31])).raw()),
			newVector("header: content type without slash", edited(direct(bob), head(labelContentType, "json")).raw()),
			newVector("header: content type of 129 bytes", edited(direct(bob), head(labelContentType, "text/"+strings.Repeat("x", 124))).raw()),
			newVector("claim: iat differs from the milliseconds", edited(direct(bob), claim(claimIat, noon.Unix()-1)).raw()),
			newVector("claim: id of zeros", edited(direct(bob), claim(claimCti, make([]byte, 16))).raw()),
			newVector("claim: sequence 0", edited(direct(bob), claim(claimSequence, 0)).raw()),
			newVector("claim: sequence 2^63", edited(direct(bob), claim(claimSequence, uint64(1)<<63)).raw()),
			newVector("claim: session of 7 bytes", edited(direct(bob), claim(claimSession, make([]byte, 7))).raw()),
			newVector("claim: empty task id", edited(direct(bob), claim(claimTaskID, "")).raw()),
			newVector("claim: in reply to zeros", edited(direct(bob), claim(claimInReplyTo, make([]byte, 16))).raw()),
			newVector("claim: key epoch 0", edited(direct(bob), claim(claimEpoch, 0)).raw(), comment("it is left out")),
			newVector("claim: key epoch 2^63", edited(direct(bob), claim(claimEpoch, uint64(1)<<63)).raw()),
			newVector("claim: key epoch as text", edited(direct(bob), claim(claimEpoch, "1")).raw()),
			newVector("audience: array of one", edited(topicAudience("orders.created")).raw()),
			newVector("audience: 17 topics", edited(numberedTopics(17)).raw()),
			newVector("batch: no proof", b.withUnprotected(3, labels{})),
			newVector("batch: proof where the header says none", slices.Concat([]byte{0xd2}, encode([]any{parts.Protected, labels{labelVDP: labels{-1: []any{encode([]any{5, 3, path})}}}, parts.Payload, parts.Signature}))),
			newVector("batch: two proofs", b.withUnprotected(3, labels{labelVDP: labels{-1: []any{encode([]any{5, 3, path}), encode([]any{5, 3, path})}}})),
			newVector("batch: another unprotected header beside the proof", b.withUnprotected(3, labels{labelKid: idBytes(alice), labelVDP: labels{-1: []any{encode([]any{5, 3, path})}}})),
			newVector("batch: tree of 1", newBatch(numbered(1)...).frame(0)),
			newVector("batch: tree of 1,025", b.withProof(3, 1025, 3, path)),
			newVector("batch: index beyond the tree", b.withProof(3, 5, 5, path)),
			newVector("batch: path too short", b.withProof(3, 5, 3, path[:2])),
			newVector("batch: path too long", b.withProof(3, 5, 3, append(slices.Clone(path), path[0]))),
			newVector("batch: step of 31 bytes", b.withProof(3, 5, 3, [][]byte{path[0][:31], path[1], path[2]})),
		}},
		{message.ErrUnsupported, []vector{
			newVector("algorithm ES256", edited(direct(bob), head(labelAlg, -7)).raw()),
			newVector("algorithm Ed25519 of RFC 9864", edited(direct(bob), head(labelAlg, -19)).raw(), comment("suite 1 says EdDSA")),
			newVector("another typ", edited(direct(bob), head(labelTyp, "application/converge-descriptor")).raw()),
			newVector("another verifiable data structure", edited(direct(bob), head(labelVDS, 2)).raw()),
			newVector("critical header", edited(direct(bob), head(labelCrit, []int{-70000}), head(-70000, 1)).raw()),
		}},
		{message.ErrUnknownSender, []vector{
			newVector("unknown sender", raw, func(v *vector) { v.SenderKey = "" }),
			newVector("another sender than the one that is known", edited(direct(bob), func(e *envelope) { e.from(carol) }).raw()),
		}},
		{message.ErrRevoked, revokedVectors()},
		{message.ErrQuarantined, quarantinedVectors()},
		{message.ErrUnknownEpoch, unknownEpochs()},
		{message.ErrKeyNotInForce, keysNotInForce()},
		{message.ErrMisaddressed, []vector{
			newVector("for another agent", edited(direct(carol)).raw()),
			newVector("for another network", edited("prod.example").raw()),
			newVector("for the same agent in another network", edited("prod.example/agent/"+bob.ID().String()).raw()),
			newVector("topic that is not subscribed", edited(network+"/topic/invoices.created").raw()),
			newVector("topic in another version", edited(network+"/topic/alerts@1").raw()),
			newVector("topic that is not canonical", edited(network+"/topic/orders.created@01").raw()),
			newVector("topic twice", edited(topicAudience("orders.a", "orders.b", "orders.a")).raw()),
			newVector("agent in capitals", edited(network+"/agent/"+strings.ToUpper(bob.ID().String())).raw()),
			newVector("two agents", edited([]string{direct(bob), direct(carol)}).raw()),
		}},
		{message.ErrExpired, []vector{
			newVector("expired, a millisecond over the skew", raw, later(90*time.Second+time.Millisecond)),
			newVector("older than the maximal age and the skew", edited(direct(bob), claim(claimExp, noon.Add(time.Hour).Unix())).raw(), later(330*time.Second+time.Millisecond)),
		}},
		{message.ErrNotYetValid, []vector{
			newVector("from the future, a millisecond over the skew", raw, later(-30*time.Second-time.Millisecond)),
		}},
		{message.ErrBadSignature, []vector{
			newVector("forged: the sender is Alice, the signer is not", edited(direct(bob), func(e *envelope) { e.signer = mallory }).raw()),
			newVector("signed as a descriptor", edited(direct(bob), func(e *envelope) { e.domain = cose.DomainDescriptor }).raw()),
			newVector("signed without external_aad", edited(direct(bob), func(e *envelope) { e.domain = "" }).raw()),
			newVector("body changed", cose.Sign1{Protected: parts.Protected, Payload: append(slices.Clone(parts.Payload), ' '), Signature: parts.Signature}.Append(nil)),
			newVector("header changed", cose.Sign1{Protected: edited(direct(bob), claim(claimSequence, 2)).protected(), Payload: parts.Payload, Signature: parts.Signature}.Append(nil)),
			newVector("signature with S + L", withScalarPlusOrder(raw), comment("RFC 8032, section 5.1.7: S has to be less than L")),
			newVector("batch: another index", b.withProof(3, 5, 2, path)),
			newVector("batch: another size", b.withProof(3, 6, 3, path), comment("the path would fit: the size is signed")),
			newVector("batch: another message's path", b.withProof(3, 5, 2, inclusionPath(2, b.entries))),
			newVector("batch: another batch's signature", borrowed.frame(3)),
			newVector("batch: root signed for another size", ofSize4.frame(3)),
			newVector("batch: root signed as a message", asMessage.frame(3)),
			newVector("signed by the root key in epoch 1", edited(direct(bob), claim(claimEpoch, 1)).raw(), statements(aliceRotated)),
			newVector("signed by the key of epoch 1 in epoch 0", edited(direct(bob), func(e *envelope) { e.signer = aliceOne }).raw(), statements(aliceRotated)),
			newVector("signature of zeros", cose.Sign1{Protected: parts.Protected, Payload: parts.Payload, Signature: make([]byte, 64)}.Append(nil)),
		}},
		{message.ErrReplayed, []vector{
			newVector("the same again", raw, before(raw)),
			newVector("same session and sequence number, other body", edited(direct(bob), func(e *envelope) { e.body = []byte("other") }).raw(), before(raw)),
			newVector("1,024 behind the newest", raw, before(edited(direct(bob), claim(claimSequence, 1025)).raw())),
			newVector("older than the receiver, in a session that goes on", newEnvelope(noon.Add(-61*time.Second), direct(bob)).raw(),
				before(edited(direct(bob), claim(claimSequence, 2)).raw())),
		}},
		{message.ErrStaleSession, []vector{
			newVector("older than the receiver", newEnvelope(noon.Add(-61*time.Second), direct(bob)).raw()),
			newVector("session that is not newer", edited(direct(bob), claim(claimSession, session(2))).raw(), before(raw)),
		}},
		{message.ErrTooManySessions, []vector{
			newVector("17th session", edited(direct(bob), claim(claimSession, session(99)), claim(claimIssuedMillis, noon.UnixMilli()+99)).raw(), before(sessions...)),
		}},
	}
	var all []vector
	for _, group := range byReason {
		for _, v := range group.vectors {
			v.Reason = group.reason.String()
			all = append(all, v)
		}
	}
	return all
}
