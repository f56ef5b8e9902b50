package message_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

const secretText = "the secret of the body"

func expectOpened(t testing.TB, m *message.Message, err error, what string) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if string(m.Body()) != secretText || !m.Sealed() || !m.Verified() {
		t.Fatalf("%s: %q, sealed %t, verified %t", what, m.Body(), m.Sealed(), m.Verified())
	}
}

func TestSealedMessageIsOpenedByItsRecipient(t *testing.T) {
	for _, key := range []testKey{bobX, bobHybrid} {
		c := newClock()
		s := newSealer(c, recipients{bob.ID(): key})
		m, err := s.Sign(t.Context(), message.Draft{To: bob.ID(), Body: []byte(secretText), TaskID: "t", Seal: true})
		expectOpened(t, m, err, "the sender's own")
		if bytes.Contains(m.Raw(), []byte("secret")) {
			t.Errorf("%s: the bytes that are sent show the body", key.suite)
		}
		v := newOpener(t, bob, c, key)
		got, err := v.Verify(bytes.Clone(m.Raw()))
		expectOpened(t, got, err, key.suite.String())
		if !bytes.Equal(got.Raw(), m.Raw()) || got.ContentType() != message.DefaultContentType || got.TaskID() != "t" {
			t.Errorf("%s: received %s, %x", key.suite, got, got.Raw())
		}
		if byHand := openByHand(t, m.Raw(), key); string(byHand) != secretText {
			t.Errorf("%s: opened by hand: %q", key.suite, byHand)
		}
		if s.Sealed() != 1 || s.Signed() != 1 || v.Opened() != 1 || v.Verified() != 1 {
			t.Errorf("counted %d of %d sealed, %d of %d opened", s.Sealed(), s.Signed(), v.Opened(), v.Verified())
		}
		refuses(t, v, m.Raw(), message.ErrReplayed, "a second time")
	}
}

func TestWhatIsSealedByHandIsOpened(t *testing.T) {
	for name, keys := range map[string][]testKey{
		"X25519": {bobX}, "hybrid": {bobHybrid}, "two": {bobX, carolX}, "two suites": {carolX, bobHybrid}, "another's first": {carolHybrid, bobX},
	} {
		e := edited(direct(bob), func(e *envelope) { e.body = []byte(secretText) }, sealed(keys...))
		v := newOpener(t, bob, newClock(), bobX, bobHybrid)
		m, err := v.Verify(e.raw())
		expectOpened(t, m, err, name)
	}
}

func TestSealedToSeveralIsOpenedByEachAndByNobodyElse(t *testing.T) {
	for name, d := range map[string]message.Draft{
		"topics":    {Topics: []message.Topic{message.MustTopic("orders.created")}, SealTo: []identity.ID{bob.ID(), carol.ID()}},
		"everybody": {SealTo: []identity.ID{carol.ID(), bob.ID()}, Seal: true},
	} {
		c := newClock()
		d.Body = []byte(secretText)
		raw := sign(t, newSealer(c, recipients{bob.ID(): bobHybrid, carol.ID(): carolX}), d)
		for _, key := range []testKey{bobHybrid, carolX} {
			m, err := newOpener(t, bob, c, key).Verify(bytes.Clone(raw))
			expectOpened(t, m, err, name)
			if byHand := openByHand(t, raw, key); string(byHand) != secretText {
				t.Errorf("%s: opened by hand: %q", name, byHand)
			}
		}
		refuses(t, newOpener(t, bob, c, bobX), raw, message.ErrUnopenable, name+": another subscriber")
		refuses(t, newVerifier(bob, c, ">"), raw, message.ErrUnopenable, name+": one without sealing keys")
	}
}

func TestOneOfATopicCanBeTheOnlyRecipient(t *testing.T) {
	c := newClock()
	raw := sign(t, newSealer(c, bothX), message.Draft{Topics: []message.Topic{message.MustTopic("a")}, Body: []byte(secretText), SealTo: []identity.ID{bob.ID()}})
	m, err := newOpener(t, bob, c, bobX).Verify(bytes.Clone(raw))
	expectOpened(t, m, err, "topic")
	refuses(t, newOpener(t, carol, c, carolX), raw, message.ErrUnopenable, "another subscriber")
}

// TestSealedMessagesShareSignatures seals some drafts of a batch; one that cannot be sealed keeps none back.
func TestSealedMessagesShareSignatures(t *testing.T) {
	c := newClock()
	s, v := newSealer(c, bothX), newOpener(t, bob, c, bobX)
	drafts := make([]message.Draft, 20)
	for i := range drafts {
		drafts[i] = message.Draft{To: bob.ID(), Body: fmt.Append(nil, i), Seal: i%2 == 0}
	}
	drafts[4].To = mallory.ID()
	expect := func(i int, m *message.Message, err error) {
		if i == 4 {
			if !errors.Is(err, identity.ErrNoSealingKey) || m != nil {
				t.Errorf("the one without a key: %v, %v", m, err)
			}
			return
		}
		if err != nil || string(m.Body()) != fmt.Sprint(i) || m.Sealed() != (i%2 == 0) || proofOf(m.Raw()) == nil {
			t.Fatalf("%d: %v, %v", i, m, err)
		}
		got := accepts(t, v, m.Raw(), fmt.Sprint(i))
		if string(got.Body()) != fmt.Sprint(i) || got.Sealed() != (i%2 == 0) {
			t.Errorf("%d: received %q, sealed %t", i, got.Body(), got.Sealed())
		}
	}
	signed, errs := s.SignAll(t.Context(), drafts)
	for i, m := range signed {
		expect(i, m, errs[i])
	}
	s.SignEach(t.Context(), drafts, expect)
	if s.Batches() != 2 || s.Sealed() != 18 || s.Signed() != 38 {
		t.Errorf("%d batches, %d of %d sealed", s.Batches(), s.Sealed(), s.Signed())
	}
}

func TestSealingByManyAtOnce(t *testing.T) {
	c := newClock()
	s, v := newSealer(c, bothX), newOpener(t, bob, c, bobX)
	var all sync.WaitGroup
	for sender := range 8 {
		all.Go(func() {
			for i := range 8 {
				text := fmt.Sprint(sender, i)
				m, err := s.Sign(t.Context(), message.Draft{To: bob.ID(), Body: []byte(text), Seal: i%3 > 0})
				if err != nil {
					t.Error(err)
					return
				}
				if got := accepts(t, v, m.Raw(), text); string(got.Body()) != text || got.Sealed() != (i%3 > 0) {
					t.Errorf("%s: received %q", text, got.Body())
				}
			}
		})
	}
	all.Wait()
}

func TestGoCOSEVerifiesSealedMessages(t *testing.T) {
	raw := sign(t, newSealer(newClock(), bothX), message.Draft{To: bob.ID(), Body: []byte(secretText), Seal: true})
	var sign1 veraison.Sign1Message
	if err := sign1.UnmarshalCBOR(raw); err != nil {
		t.Fatal(err)
	}
	if err := sign1.Verify([]byte(cose.DomainMessage), must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))); err != nil {
		t.Fatal(err)
	}
	critical, err := sign1.Headers.Protected.Critical()
	if err != nil || len(critical) != 1 || critical[0] != labelSealing {
		t.Errorf("critical are %v, %v", critical, err)
	}
}

func TestSenderCanChangeItsDraftAfterwards(t *testing.T) {
	body := []byte(secretText)
	m := must(newSealer(newClock(), bothX).Sign(t.Context(), message.Draft{To: bob.ID(), Body: body, Seal: true}))
	body[0]++
	expectOpened(t, m, nil, "the message")
}

func TestDraftsThatCannotBeSealedAreRefused(t *testing.T) {
	c := newClock()
	many := make([]identity.ID, message.MaxSealTo+1)
	for i := range many {
		many[i] = identity.ID{byte(i + 1)}
	}
	topic := []message.Topic{message.MustTopic("a")}
	off := func(c *message.SignerConfig) { c.Seal = message.SealOff }
	unsigned := func(c *message.SignerConfig) { c.Mode = message.UnsignedUnsafe }
	required := func(c *message.SignerConfig) { c.Seal = message.SealRequired }
	for name, test := range map[string]struct {
		draft message.Draft
		edit  func(*message.SignerConfig)
		want  string
	}{
		"everybody":             {message.Draft{Seal: true}, nil, "Draft.SealTo: a message to topics or to everybody"},
		"topic":                 {message.Draft{Topics: topic, Seal: true}, nil, "Draft.SealTo: a message to topics or to everybody"},
		"one and several":       {message.Draft{To: bob.ID(), SealTo: []identity.ID{carol.ID()}}, nil, "Draft.SealTo: a message to one agent"},
		"twice":                 {message.Draft{SealTo: []identity.ID{bob.ID(), bob.ID()}}, nil, "Draft.SealTo: agent 2"},
		"nobody":                {message.Draft{SealTo: []identity.ID{bob.ID(), {}}}, nil, "Draft.SealTo: agent 2"},
		"too many":              {message.Draft{SealTo: many}, nil, "33 agents where at most 32"},
		"no key":                {message.Draft{To: mallory.ID(), Seal: true}, nil, "Draft.To: seal to agent " + mallory.ID().String()},
		"no key of one":         {message.Draft{SealTo: []identity.ID{bob.ID(), mallory.ID()}}, nil, "Draft.SealTo: seal to agent " + mallory.ID().String()},
		"public and sealed":     {message.Draft{Topics: topic, Public: true, Seal: true}, nil, "Draft.Public"},
		"public and to several": {message.Draft{Topics: topic, Public: true, SealTo: []identity.ID{bob.ID()}}, nil, "Draft.Public"},
		"off":                   {message.Draft{To: bob.ID(), Seal: true}, off, "Draft.Seal: this signer seals nothing"},
		"unsigned":              {message.Draft{To: bob.ID(), Seal: true}, unsigned, "Draft.Seal: what is not signed"},
		"required, everybody":   {message.Draft{}, required, "Draft.Public"},
		"required, topic":       {message.Draft{Topics: topic}, required, "Draft.Public"},
		"required, public one":  {message.Draft{To: bob.ID(), Public: true}, required, "Draft.Public"},
		"required, no key":      {message.Draft{To: mallory.ID()}, required, "Draft.To: seal to agent"},
	} {
		if test.edit == nil {
			test.edit = func(*message.SignerConfig) {}
		}
		test.draft.Body = []byte(secretText)
		s := newSealer(c, bothX, test.edit)
		m, err := s.Sign(t.Context(), test.draft)
		if !errors.Is(err, message.ErrDraft) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") || m != nil {
			t.Errorf("%s: %v, %v", name, m, err)
		}
		if s.Signed() != 0 || s.Sealed() != 0 {
			t.Errorf("%s: counted", name)
		}
	}
}

// zeroSource says that it has a key and has none.
type zeroSource struct{}

func (zeroSource) SealingKey(identity.ID) (identity.PublicSealingKey, error) {
	return identity.PublicSealingKey{}, nil
}

// sameSource has the same key for everybody.
type sameSource struct{}

func (sameSource) SealingKey(identity.ID) (identity.PublicSealingKey, error) {
	return bobX.public(), nil
}

func TestSourcesThatMisleadAreNotBelieved(t *testing.T) {
	if _, err := newSealer(newClock(), zeroSource{}).Sign(t.Context(), message.Draft{To: bob.ID(), Seal: true}); !errors.Is(err, identity.ErrNoSealingKey) {
		t.Errorf("no key: %v", err)
	}
	_, err := newSealer(newClock(), sameSource{}).Sign(t.Context(), message.Draft{SealTo: []identity.ID{bob.ID(), carol.ID()}})
	if !errors.Is(err, message.ErrDraft) || !strings.Contains(err.Error(), "the same x25519 sealing key") {
		t.Errorf("one key of two agents: %v", err)
	}
}

// TestRequiredSealsWithoutBeingAsked is the policy on the sender's side.
func TestRequiredSealsWithoutBeingAsked(t *testing.T) {
	c := newClock()
	s := newSealer(c, bothX, func(c *message.SignerConfig) { c.Seal = message.SealRequired })
	v := configured(message.VerifierConfig{Now: c.Now, Sealing: ring(t, c, bobX), Seal: message.SealRequired}, ">")
	m, err := v.Verify(sign(t, s, message.Draft{To: bob.ID(), Body: []byte(secretText)}))
	expectOpened(t, m, err, "direct")
	public := accepts(t, v, sign(t, s, message.Draft{Body: []byte("for all"), Public: true}), "public")
	if public.Sealed() || string(public.Body()) != "for all" {
		t.Errorf("public arrives as %q, sealed %t", public.Body(), public.Sealed())
	}
}

// TestPlainMessageToOneIsRefusedWhereSealingIsRequired is the policy on the receiver's side.
func TestPlainMessageToOneIsRefusedWhereSealingIsRequired(t *testing.T) {
	c := newClock()
	s := newSealer(c, bothX)
	v := configured(message.VerifierConfig{Now: c.Now, Sealing: ring(t, c, bobX), Seal: message.SealRequired}, ">")
	refuses(t, v, sign(t, s, message.Draft{To: bob.ID()}), message.ErrUnsealed, "plain and direct")
	accepts(t, v, sign(t, s, message.Draft{}), "plain, for everybody")
	accepts(t, v, sign(t, s, message.Draft{Topics: []message.Topic{message.MustTopic("a")}}), "plain, for a topic")
	accepts(t, v, sign(t, s, message.Draft{To: bob.ID(), Seal: true}), "sealed and direct")
	if n := v.Refused()["unsealed"]; n != 1 {
		t.Errorf("%d counted as unsealed", n)
	}
}

func TestSealingCanBeOff(t *testing.T) {
	c := newClock()
	v := configured(message.VerifierConfig{Now: c.Now, Sealing: ring(t, c, bobX), Seal: message.SealOff})
	refuses(t, v, sign(t, newSealer(c, bothX), message.Draft{To: bob.ID(), Seal: true}), message.ErrUnopenable, "sealed")
	accepts(t, v, sign(t, newSigner(alice, c), message.Draft{To: bob.ID()}), "plain")
}

func TestSealingConfigNamesTheFieldAtFault(t *testing.T) {
	signer := func(edit func(*message.SignerConfig)) error {
		c := message.SignerConfig{Identity: alice, Network: network}
		edit(&c)
		_, err := message.NewSigner(c)
		return err
	}
	verifier := func(edit func(*message.VerifierConfig)) error {
		c := message.VerifierConfig{Self: bob.ID(), Network: network, Keys: registryOf(), Sealing: ring(t, newClock(), bobX)}
		edit(&c)
		_, err := message.NewVerifier(c)
		return err
	}
	for field, err := range map[string]error{
		"SignerConfig.Seal":       signer(func(c *message.SignerConfig) { c.Seal = 3 }),
		"SignerConfig.Recipients": signer(func(c *message.SignerConfig) { c.Seal = message.SealRequired }),
		"SignerConfig.Seal: what is not signed": signer(func(c *message.SignerConfig) {
			c.Seal, c.Recipients, c.Mode = message.SealRequired, bothX, message.UnsignedUnsafe
		}),
		"VerifierConfig.Seal:":        verifier(func(c *message.VerifierConfig) { c.Seal = 3 }),
		"VerifierConfig.Sealing: req": verifier(func(c *message.VerifierConfig) { c.Seal, c.Sealing = message.SealRequired, nil }),
		"VerifierConfig.Sealing: its": verifier(func(c *message.VerifierConfig) { c.MaxAge = identity.DefaultSealingOverlap }),
	} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := verifier(func(*message.VerifierConfig) {}); err != nil {
		t.Error(err)
	}
}

func TestSealPoliciesHaveNames(t *testing.T) {
	for text, want := range map[string]message.SealPolicy{
		"": message.SealAllow, "allow": message.SealAllow, "required": message.SealRequired, "off": message.SealOff,
	} {
		got, err := message.ParseSealPolicy(text)
		if err != nil || got != want || text != "" && got.String() != text {
			t.Errorf("%q is read as %s, %v", text, got, err)
		}
	}
	if _, err := message.ParseSealPolicy("on"); err == nil || !strings.Contains(err.Error(), "off, allow or required") {
		t.Errorf("on: %v", err)
	}
	if message.SealPolicy(9).String() != "unknown" {
		t.Errorf("9 is %s", message.SealPolicy(9))
	}
}

// TestOverheadOfSealing holds docs/wire.md to what it says that sealing adds.
func TestOverheadOfSealing(t *testing.T) {
	c := newClock()
	plain := len(sign(t, newSigner(alice, c), message.Draft{Body: make([]byte, 256)}))
	everybody := func(n int, suite identity.SealingSuite) (recipients, []identity.ID) {
		r, to := recipients{}, make([]identity.ID, n)
		for i := range to {
			to[i] = identity.ID{byte(i + 1)}
			r[to[i]] = testKey{suite, byte(i + 1)}
		}
		return r, to
	}
	for _, test := range []struct {
		suite identity.SealingSuite
		n     int
		want  int
	}{
		{identity.X25519, 1, 83}, {identity.MLKEM768X25519, 1, 1174},
		{identity.X25519, 2, 273}, {identity.MLKEM768X25519, 2, 2452},
		{identity.X25519, message.MaxSealTo, 3365}, {identity.MLKEM768X25519, message.MaxSealTo, 38213},
	} {
		r, to := everybody(test.n, test.suite)
		raw := sign(t, newSealer(c, r), message.Draft{Body: make([]byte, 256), SealTo: to})
		if got := len(raw) - plain; got != test.want {
			t.Errorf("%s to %d adds %d bytes, not %d", test.suite, test.n, got, test.want)
		}
		accepts(t, newOpener(t, bob, c, r[to[test.n-1]]), raw, "sealed to many")
	}
}

// TestSealedMessageAtTheLimits has everything at its limit at once, and then one byte more.
func TestSealedMessageAtTheLimits(t *testing.T) {
	c := newClock()
	d := message.Draft{To: bob.ID(), Body: make([]byte, 100), Seal: true}
	whole := len(sign(t, newSealer(c, bothX), d))
	for more, want := range map[int]error{-1: message.ErrTooLarge, 0: nil} {
		s := newSealer(c, bothX, func(c *message.SignerConfig) { c.MaxSize = whole + more })
		m, err := s.Sign(t.Context(), d)
		if !errors.Is(err, want) || want == nil && len(m.Raw()) != whole {
			t.Errorf("%d bytes at a limit of %d: %v", whole, whole+more, err)
		}
		if want != nil && !strings.Contains(err.Error(), "Draft.Body: sealed") {
			t.Errorf("too large: %v", err)
		}
	}
	to, r := make([]identity.ID, message.MaxSealTo), recipients{}
	for i := range to {
		to[i] = identity.ID{byte(i + 1)}
		r[to[i]] = testKey{identity.MLKEM768X25519, byte(i + 1)}
	}
	topics := make([]message.Topic, message.MaxTopics)
	for i := range topics {
		topics[i] = message.MustTopic(fmt.Sprintf("t%02d%s", i, strings.Repeat("x", message.MaxTopicText-3)))
	}
	raw := sign(t, newSealer(c, r), message.Draft{Topics: topics, SealTo: to, TaskID: strings.Repeat("x", message.MaxTaskID), Trace: strings.Repeat("0", message.MaxTrace)})
	accepts(t, newOpener(t, bob, c, r[to[7]]), raw, "everything at its limit")
}

func TestEmptyBodyCanBeSealed(t *testing.T) {
	c := newClock()
	for _, d := range []message.Draft{{To: bob.ID(), Seal: true}, {SealTo: []identity.ID{bob.ID(), carol.ID()}}} {
		m := accepts(t, newOpener(t, bob, c, bobX), sign(t, newSealer(c, bothX), d), "empty")
		if len(m.Body()) != 0 || !m.Sealed() {
			t.Errorf("%q, sealed %t", m.Body(), m.Sealed())
		}
	}
}

func TestParseUnsafeOpensNothing(t *testing.T) {
	c := newClock()
	raw := sign(t, newSealer(c, bothX), message.Draft{To: bob.ID(), Body: []byte(secretText), Seal: true})
	m := must(message.ParseUnsafe(bytes.Clone(raw)))
	if !m.Sealed() || m.Verified() || bytes.Contains(m.Body(), []byte("secret")) || len(m.Body()) != len(secretText)+16 {
		t.Fatalf("%q, sealed %t, verified %t", m.Body(), m.Sealed(), m.Verified())
	}
	opened, err := m.Open(ring(t, c, bobX))
	if err != nil || string(opened.Body()) != secretText || opened.Verified() || !opened.Sealed() || opened.ID() != m.ID() {
		t.Errorf("opened: %v, %v", opened, err)
	}
	if again, err := opened.Open(ring(t, c, carolX)); again != opened || err != nil {
		t.Errorf("opened again: %v, %v", again, err)
	}
	if _, err := m.Open(ring(t, c, carolX)); !errors.Is(err, message.ErrUnopenable) || !strings.Contains(err.Error(), m.ID().String()) {
		t.Errorf("with another's keys: %v", err)
	}
	plain := must(message.ParseUnsafe(edited(direct(bob)).raw()))
	if same, err := plain.Open(ring(t, c, bobX)); same != plain || err != nil || plain.Sealed() {
		t.Errorf("a plain one: %v, %v", same, err)
	}
}

func TestWithBodyOfASealedMessageStaysSealed(t *testing.T) {
	c := newClock()
	m := accepts(t, newOpener(t, bob, c, bobX), sign(t, newSealer(c, bothX), message.Draft{To: bob.ID(), Body: []byte(secretText), Seal: true}), "sealed")
	changed := m.WithBody([]byte("other"), "text/plain")
	if again, err := changed.Open(ring(t, c, bobX)); !changed.Sealed() || err != nil || string(again.Body()) != "other" {
		t.Errorf("%v, %v", again, err)
	}
}
