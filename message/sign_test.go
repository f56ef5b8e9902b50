package message_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// drafts makes valid drafts of every form to Bob, to topics under "t.>", or to all.
var drafts = rapid.Custom(func(t *rapid.T) message.Draft {
	d := message.Draft{
		Body:        rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "body"),
		ContentType: rapid.SampledFrom([]string{"", "text/plain", "application/json; charset=utf-8"}).Draw(t, "content type"),
		TTL:         time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "ttl")),
		TaskID:      rapid.StringN(0, 20, message.MaxTaskID).Draw(t, "task"),
		Trace:       rapid.StringMatching(`([0-9a-f-]{1,55})?`).Draw(t, "trace"),
	}
	copy(d.InReplyTo[:], rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "in reply to"))
	switch rapid.IntRange(0, 2).Draw(t, "audience") {
	case 0:
		d.To = bob.ID()
	case 1:
		for i := range rapid.IntRange(1, message.MaxTopics).Draw(t, "topics") {
			d.Topics = append(d.Topics, message.MustTopic(fmt.Sprintf("t.n%d@%d?k=v", i, i+1)))
		}
	}
	return d
})

func TestEveryFieldSurvivesSignAndVerify(t *testing.T) {
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c, "t.>")
	rapid.Check(t, func(t *rapid.T) {
		d := drafts.Draw(t, "draft")
		signed, err := s.Sign(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		received, err := v.Verify(bytes.Clone(signed.Raw()))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := message.ParseUnsafe(bytes.Clone(signed.Raw()))
		if err != nil {
			t.Fatal(err)
		}
		if !signed.Verified() || !received.Verified() || parsed.Verified() {
			t.Fatalf("verified: signed %t, received %t, parsed %t", signed.Verified(), received.Verified(), parsed.Verified())
		}
		for _, m := range []*message.Message{signed, received, parsed} {
			expectDraft(t, m, d, c.Now())
			if m.ID() != signed.ID() || m.Session() != signed.Session() || m.Sequence() != signed.Sequence() || !bytes.Equal(m.Raw(), signed.Raw()) {
				t.Fatalf("%v is not %v", m, signed)
			}
		}
	})
}

func expectDraft(t *rapid.T, m *message.Message, d message.Draft, issued time.Time) {
	contentType, ttl := d.ContentType, d.TTL
	if contentType == "" {
		contentType = message.DefaultContentType
	}
	if ttl == 0 {
		ttl = message.DefaultTTL
	}
	lasts := m.Expires().Sub(issued)
	switch {
	case m.Sender() != alice.ID(), m.Network() != network, m.To() != d.To, !slices.Equal(m.Topics(), d.Topics),
		m.Broadcast() != (d.To.IsZero() && len(d.Topics) == 0), !bytes.Equal(m.Body(), d.Body), m.ContentType() != contentType,
		m.TaskID() != d.TaskID, m.InReplyTo() != d.InReplyTo, m.Trace() != d.Trace,
		!m.Issued().Equal(issued), lasts < ttl, lasts >= ttl+time.Second, m.ID().IsZero(), m.Sequence() == 0:
		t.Fatalf("%+v became %v: sender %s, network %q, to %s, topics %v, body %x, content type %q, task %q, in reply to %s, trace %q, issued %v, expires %v",
			d, m, m.Sender(), m.Network(), m.To(), m.Topics(), m.Body(), m.ContentType(), m.TaskID(), m.InReplyTo(), m.Trace(), m.Issued(), m.Expires())
	}
}

// TestGoCOSEVerifiesMessages holds that any COSE library can check a message.
func TestGoCOSEVerifiesMessages(t *testing.T) {
	verifier := must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))
	s := newSigner(alice, newClock())
	rapid.Check(t, func(t *rapid.T) {
		m, err := s.Sign(t.Context(), drafts.Draw(t, "draft"))
		if err != nil {
			t.Fatal(err)
		}
		var sign1 veraison.Sign1Message
		if err := sign1.UnmarshalCBOR(m.Raw()); err != nil {
			t.Fatal(err)
		}
		if err := sign1.Verify([]byte("converge/message/v1"), verifier); err != nil {
			t.Fatal(err)
		}
		if err := sign1.Verify(nil, verifier); err == nil {
			t.Fatal("verifies without external_aad")
		}
		kid, claims := sign1.Headers.Protected[veraison.HeaderLabelKeyID], sign1.Headers.Protected[veraison.HeaderLabelCWTClaims]
		id := m.ID()
		if !bytes.Equal(kid.([]byte), idBytes(alice)) || !bytes.Equal(claims.(map[any]any)[int64(7)].([]byte), id[:]) || !bytes.Equal(sign1.Payload, m.Body()) {
			t.Fatalf("go-cose reads kid %x, claims %v", kid, claims)
		}
	})
}

// TestHeaderIsDeterministic rebuilds the envelope from the message's fields with another encoder. As
// Ed25519 is deterministic too, the bytes have to be the same.
func TestHeaderIsDeterministic(t *testing.T) {
	s := newSigner(alice, newClock())
	rapid.Check(t, func(t *rapid.T) {
		m, err := s.Sign(t.Context(), drafts.Draw(t, "draft"))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		protected := must(cose.Parse(m.Raw())).Protected
		if err := strict.Unmarshal(protected, &v); err != nil {
			t.Fatal(err)
		}
		if again := must(core.Marshal(v)); !bytes.Equal(again, protected) {
			t.Fatalf("%x is encoded again as %x", protected, again)
		}
		if again := rebuild(m).raw(); !bytes.Equal(again, m.Raw()) {
			t.Fatalf("%x, and from its fields %x", m.Raw(), again)
		}
	})
}

// rebuild puts the envelope of one of Alice's messages together from its fields.
func rebuild(m *message.Message) *envelope {
	var audience any = m.Network()
	switch texts := []string{}; {
	case !m.To().IsZero():
		audience = m.Network() + "/agent/" + m.To().String()
	case len(m.Topics()) > 0:
		for _, topic := range m.Topics() {
			texts = append(texts, m.Network()+"/topic/"+topic.String())
		}
		audience = texts
		if len(texts) == 1 {
			audience = texts[0]
		}
	}
	e := newEnvelope(m.Issued(), audience).numbered(m.Session(), m.Sequence())
	id, reply := m.ID(), m.InReplyTo()
	e.header[labelContentType] = m.ContentType()
	e.claims[claimCti], e.claims[claimExp] = id[:], m.Expires().Unix()
	if m.TaskID() != "" {
		e.claims[claimTaskID] = m.TaskID()
	}
	if !reply.IsZero() {
		e.claims[claimInReplyTo] = reply[:]
	}
	if m.Trace() != "" {
		e.claims[claimTrace] = m.Trace()
	}
	e.body = m.Body()
	return e
}

func TestSignRefusesDrafts(t *testing.T) {
	topics := make([]message.Topic, 17)
	for i := range topics {
		topics[i] = message.MustTopic(fmt.Sprint("t", i))
	}
	s := must(message.NewSigner(message.SignerConfig{Identity: alice, Network: network, MaxSize: 4096, Now: newClock().Now}))
	for _, c := range []struct {
		name, field string
		draft       message.Draft
	}{
		{"recipient and topics", "Draft.To", message.Draft{To: bob.ID(), Topics: topics[:1]}},
		{"17 topics", "Draft.Topics", message.Draft{Topics: topics}},
		{"zero topic", "Draft.Topics", message.Draft{Topics: []message.Topic{topics[0], {}}}},
		{"topic twice", "Draft.Topics", message.Draft{Topics: []message.Topic{topics[0], topics[1], topics[0]}}},
		{"body over the limit", "Draft.Body", message.Draft{Body: make([]byte, 4097)}},
		{"envelope over the limit", "Draft.Body", message.Draft{Body: make([]byte, 4096)}},
		{"negative TTL", "Draft.TTL", message.Draft{TTL: -1}},
		{"TTL over a year", "Draft.TTL", message.Draft{TTL: 365*24*time.Hour + 1}},
		{"endless TTL", "Draft.TTL", message.Draft{TTL: 1<<63 - 1}},
		{"content type without slash", "Draft.ContentType", message.Draft{ContentType: "json"}},
		{"content type with two", "Draft.ContentType", message.Draft{ContentType: "a/b/c"}},
		{"content type without type", "Draft.ContentType", message.Draft{ContentType: "/json"}},
		{"content type without subtype", "Draft.ContentType", message.Draft{ContentType: "text/"}},
		{"content type with space around", "Draft.ContentType", message.Draft{ContentType: " text/plain"}},
		{"content type with newline", "Draft.ContentType", message.Draft{ContentType: "text/plain\n"}},
		{"content type outside ASCII", "Draft.ContentType", message.Draft{ContentType: "text/plän"}},
		{"content type too long", "Draft.ContentType", message.Draft{ContentType: "text/" + strings.Repeat("x", 124)}},
		{"task ID too long", "Draft.TaskID", message.Draft{TaskID: strings.Repeat("x", 257)}},
		{"task ID is no UTF-8", "Draft.TaskID", message.Draft{TaskID: "\xff"}},
		{"trace too long", "Draft.Trace", message.Draft{Trace: strings.Repeat("0", 129)}},
		{"trace with control character", "Draft.Trace", message.Draft{Trace: "00\x00"}},
		{"trace outside ASCII", "Draft.Trace", message.Draft{Trace: "é"}},
	} {
		m, err := s.Sign(t.Context(), c.draft)
		if !errors.Is(err, message.ErrDraft) || m != nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v, %v", c.name, m, err)
		}
	}
	if s.Signed() != 0 {
		t.Errorf("%d messages are counted as signed", s.Signed())
	}
}

func TestSignAcceptsDraftsAtTheLimits(t *testing.T) {
	topics := make([]message.Topic, message.MaxTopics)
	for i := range topics {
		topics[i] = message.MustTopic(fmt.Sprintf("t%02d%s", i, strings.Repeat("x", message.MaxTopicText-3)))
	}
	c := newClock()
	s, v := newSigner(alice, c), newVerifier(bob, c, ">")
	raw := sign(t, s, message.Draft{
		Topics:      topics,
		ContentType: "text/" + strings.Repeat("x", message.MaxContentType-5),
		TTL:         365 * 24 * time.Hour,
		TaskID:      strings.Repeat("é", message.MaxTaskID/2),
		Trace:       strings.Repeat("0", message.MaxTrace),
	})
	accepts(t, v, raw, "everything at its limit")
}

func TestOversizeIsNotSigned(t *testing.T) {
	c := newClock()
	whole := len(sign(t, newSigner(alice, c), message.Draft{Body: make([]byte, 100)}))
	for _, more := range []int{-1, 0} {
		s := must(message.NewSigner(message.SignerConfig{Identity: alice, Network: network, MaxSize: whole + more, Now: c.Now}))
		_, err := s.Sign(t.Context(), message.Draft{Body: make([]byte, 100)})
		if errors.Is(err, message.ErrTooLarge) != (more < 0) {
			t.Errorf("%d bytes at a limit of %d: %v", whole, whole+more, err)
		}
	}
	s := newSigner(alice, c)
	if _, err := s.Sign(t.Context(), message.Draft{Body: make([]byte, message.DefaultMaxSize)}); !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("over the default: %v", err)
	}
}

func TestSignEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if m, err := newSigner(alice, newClock()).Sign(ctx, message.Draft{}); !errors.Is(err, cause) || m != nil {
		t.Errorf("%v, %v", m, err)
	}
}

func TestSignerCopiesTheDraft(t *testing.T) {
	c := newClock()
	body, topics := []byte("body"), []message.Topic{message.MustTopic("a")}
	m := must(newSigner(alice, c).Sign(t.Context(), message.Draft{Topics: topics, Body: body}))
	body[0], topics[0] = 'x', message.MustTopic("b")
	if string(m.Body()) != "body" || m.Topics()[0] != message.MustTopic("a") {
		t.Errorf("the draft changed the message: %s, %v", m.Body(), m.Topics())
	}
	_ = append(m.Body(), 0xff) // must not reach the signature
	accepts(t, newVerifier(bob, c, "a"), m.Raw(), "after appending to the body")
}

func TestSignersNumberTheirMessages(t *testing.T) {
	c := newClock()
	s := newSigner(alice, c)
	if s.ID() != alice.ID() {
		t.Errorf("the signer is %s", s.ID())
	}
	const each, goroutines = 20, 8
	var mu sync.Mutex
	sequences, ids := map[uint64]bool{}, map[message.ID]bool{}
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				m := must(s.Sign(t.Context(), message.Draft{}))
				mu.Lock()
				sequences[m.Sequence()], ids[m.ID()] = true, true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := range uint64(each * goroutines) {
		if !sequences[n+1] {
			t.Errorf("no message has number %d", n+1)
		}
	}
	if len(ids) != each*goroutines || s.Signed() != each*goroutines {
		t.Errorf("%d ids, %d counted", len(ids), s.Signed())
	}
	other := must(newSigner(alice, c).Sign(t.Context(), message.Draft{}))
	if first := must(s.Sign(t.Context(), message.Draft{})); other.Session() == first.Session() || other.Sequence() != 1 {
		t.Errorf("another signer has session %d, as the first has %d, and number %d", other.Session(), first.Session(), other.Sequence())
	}
}

func TestSignerConfigNamesTheFieldAtFault(t *testing.T) {
	for field, config := range map[string]message.SignerConfig{
		"SignerConfig.Identity": {Network: network},
		"SignerConfig.Network":  {Identity: alice},
		"SignerConfig.MaxSize":  {Identity: alice, Network: network, MaxSize: -1},
	} {
		if s, err := message.NewSigner(config); err == nil || s != nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestVerifierConfigNamesTheFieldAtFault(t *testing.T) {
	good := message.VerifierConfig{Self: bob.ID(), Network: network, Keys: registryOf()}
	for field, change := range map[string]func(*message.VerifierConfig){
		"VerifierConfig.Self":    func(c *message.VerifierConfig) { c.Self = identity.ID{} },
		"VerifierConfig.Network": func(c *message.VerifierConfig) { c.Network = "Not a network" },
		"VerifierConfig.Keys":    func(c *message.VerifierConfig) { c.Keys = nil },
		"MaxSize":                func(c *message.VerifierConfig) { c.MaxSize = -1 },
		"Skew":                   func(c *message.VerifierConfig) { c.Skew = -1 },
		"MaxAge":                 func(c *message.VerifierConfig) { c.MaxAge = -1 },
		"MaxSenders":             func(c *message.VerifierConfig) { c.MaxSenders = -1 },
		"MaxAge must not exceed": func(c *message.VerifierConfig) { c.Skew = 1<<63 - 1 },
		"and MaxAge must not":    func(c *message.VerifierConfig) { c.MaxAge = 1<<63 - 1 },
	} {
		config := good
		change(&config)
		if v, err := message.NewVerifier(config); err == nil || v != nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestCheckNetwork(t *testing.T) {
	for _, name := range []string{"a", "1", "test.example", "a-b", "a--b", "a..b", "0x0", strings.Repeat("a", 63)} {
		if err := message.CheckNetwork(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "A", "a/b", "a_b", "x-_-y", "a b", " a", "a\n", "-a", "a-", ".a", "a.", "é", "a\x00", "\xff", "a/agent/b", strings.Repeat("a", 64), strings.Repeat("-", 1<<20),
	} {
		if err := message.CheckNetwork(name); err == nil {
			t.Errorf("%.80q is accepted", name)
		} else if len(err.Error()) > 1000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}

func TestWithBodyChangesNothingElse(t *testing.T) {
	c := newClock()
	m := must(newSigner(alice, c).Sign(t.Context(), message.Draft{To: bob.ID(), Body: []byte("packed"), TaskID: "t"}))
	body := []byte("unpacked")
	changed := m.WithBody(body, "text/plain")
	body[0] = 'x'
	if string(changed.Body()) != "unpacked" || changed.ContentType() != "text/plain" {
		t.Errorf("the copy holds %s of type %s", changed.Body(), changed.ContentType())
	}
	if string(m.Body()) != "packed" || m.ContentType() != message.DefaultContentType {
		t.Errorf("the original holds %s of type %s", m.Body(), m.ContentType())
	}
	if changed.ID() != m.ID() || changed.Sender() != m.Sender() || changed.TaskID() != "t" || !bytes.Equal(changed.Raw(), m.Raw()) || !changed.Verified() {
		t.Errorf("%v became %v", m, changed)
	}
	accepts(t, newVerifier(bob, c), changed.Raw(), "what was signed")
	unsafe := must(message.ParseUnsafe(m.Raw()))
	if unsafe.WithBody(nil, "").Verified() {
		t.Error("another body made an unverified message a verified one")
	}
}

func TestMessageTextShowsNoBody(t *testing.T) {
	c := newClock()
	for want, d := range map[string]message.Draft{
		"to " + bob.ID().Short():     {To: bob.ID()},
		"to everybody":               {},
		"to [orders.created@2?a=b]":  {Topics: []message.Topic{message.MustTopic("orders.created@2?a=b")}},
		"from " + alice.ID().Short(): {},
	} {
		d.Body = []byte("the secret body")
		m := must(newSigner(alice, c).Sign(t.Context(), d))
		for _, text := range []string{m.String(), fmt.Sprint(m), fmt.Sprintf("%s %v %+v", m, m, m)} {
			if strings.Contains(text, "secret") || !strings.Contains(text, want) || !strings.Contains(text, m.ID().String()) {
				t.Errorf("%q", text)
			}
		}
	}
}

func TestMessageIDText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := message.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		back, err := message.ParseID(id.String())
		if err != nil || back != id {
			t.Fatalf("%s is parsed as %s, %v", id, back, err)
		}
		if text := must(json.Marshal(id)); string(text) != `"`+id.String()+`"` {
			t.Fatalf("JSON is %s", text)
		}
	})
	for _, text := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("g", 32), strings.Repeat("x", 1<<20)} {
		if _, err := message.ParseID(text); err == nil || len(err.Error()) > 500 {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// ExampleSigner signs a message for one agent and verifies it there.
func ExampleSigner() {
	sender, receiver := must(identity.FromSeed(bytes.Repeat([]byte{1}, 32))), must(identity.FromSeed(bytes.Repeat([]byte{2}, 32)))
	known := identity.NewRegistry(0)
	if err := known.Register(sender.ID(), sender.PublicKey()); err != nil {
		panic(err)
	}
	signer := must(message.NewSigner(message.SignerConfig{Identity: sender, Network: "example"}))
	verifier := must(message.NewVerifier(message.VerifierConfig{Self: receiver.ID(), Network: "example", Keys: known}))

	m := must(signer.Sign(context.Background(), message.Draft{To: receiver.ID(), Body: []byte(`{"n":1}`)}))
	received := must(verifier.Verify(m.Raw()))
	fmt.Printf("%s from %s\n", received.Body(), received.Sender().Short())

	_, err := verifier.Verify(m.Raw())
	fmt.Println("again:", errors.Is(err, message.ErrReplayed))
	// Output:
	// {"n":1} from 34750f98
	// again: true
}
