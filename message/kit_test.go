package message_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/testkit"
	"github.com/converge-agents/converge/message"
)

const network = "test.example"

// noon is when tests begin: a whole second.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// The cast. Alice, Bob and Carol are registered; Mallory is not.
var (
	alice   = agent(1)
	bob     = agent(2)
	carol   = agent(3)
	mallory = agent(66)
)

var agent = testkit.Agent

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type clock = testkit.Clock

func newClock() *clock { return testkit.ClockAt(noon) }

func registryOf(agents ...*identity.Identity) *identity.Registry {
	r := identity.NewRegistry(0)
	for _, a := range agents {
		if err := r.Register(a.ID(), a.PublicKey()); err != nil {
			panic(err)
		}
	}
	return r
}

func newSigner(id *identity.Identity, c *clock) *message.Signer {
	return must(message.NewSigner(message.SignerConfig{Identity: id, Network: network, Now: c.Now}))
}

// newVerifier returns a verifier of self that knows Alice, Bob and Carol and subscribes to patterns.
func newVerifier(self *identity.Identity, c *clock, patterns ...string) *message.Verifier {
	return configured(message.VerifierConfig{Self: self.ID(), Now: c.Now}, patterns...)
}

// configured fills in what a configuration leaves open.
func configured(config message.VerifierConfig, patterns ...string) *message.Verifier {
	if config.Self.IsZero() {
		config.Self = bob.ID()
	}
	if config.Keys == nil {
		config.Keys = registryOf(alice, bob, carol)
	}
	if config.Network == "" {
		config.Network = network
	}
	v := must(message.NewVerifier(config))
	for _, p := range patterns {
		if err := v.Subscribe(message.MustPattern(p)); err != nil {
			panic(err)
		}
	}
	return v
}

// sign returns the bytes of a signed draft.
func sign(t testing.TB, s *message.Signer, d message.Draft) []byte {
	t.Helper()
	m, err := s.Sign(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw()
}

func accepts(t testing.TB, v *message.Verifier, raw []byte, what string) *message.Message {
	t.Helper()
	m, err := v.Verify(bytes.Clone(raw))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !m.Verified() {
		t.Fatalf("%s: accepted, but not as verified", what)
	}
	return m
}

func refuses(t testing.TB, v *message.Verifier, raw []byte, want message.Reason, what string) {
	t.Helper()
	m, err := v.Verify(bytes.Clone(raw))
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, %v; want %v", what, m, err, want)
	}
	if refusal := new(message.Refusal); !errors.As(err, &refusal) || refusal.Reason != want || refusal.Size != len(raw) || m != nil {
		t.Fatalf("%s: %v is not the refusal %v of %d bytes", what, err, want, len(raw))
	}
}

// The labels of the wire format, spelled out once more so that a change of the code cannot change them
// here.
const (
	labelAlg, labelCrit, labelContentType, labelKid, labelClaims, labelTyp int64 = 1, 2, 3, 4, 15, 16

	claimAud, claimExp, claimIat, claimCti         int64 = 3, 4, 6, 7
	claimIssuedMillis, claimSession, claimSequence int64 = -65537, -65538, -65539
	claimTaskID, claimInReplyTo, claimTrace        int64 = -65540, -65541, -65542
	claimEpoch                                     int64 = -65544

	maxSequence int64 = math.MaxInt64
)

// labels is a CBOR map with labels as keys.
type labels map[any]any

// envelope is an envelope that is put together by hand, for what a Signer does not make.
type envelope struct {
	signer *identity.Identity
	domain cose.Domain
	header labels // without the claims
	claims labels
	body   []byte
}

// newEnvelope returns an envelope as Alice would sign it at now, with the given audience.
func newEnvelope(now time.Time, audience any) *envelope {
	return &envelope{
		signer: alice,
		domain: cose.DomainMessage,
		header: labels{
			labelAlg: -8, labelContentType: "application/json", labelKid: idBytes(alice),
			labelTyp: "application/converge-message",
		},
		claims: labels{
			claimAud: audience, claimExp: now.Add(time.Minute).Unix(), claimIat: now.Unix(),
			claimCti: bytes.Repeat([]byte{0xc1}, 16), claimIssuedMillis: now.UnixMilli(),
			claimSession: session(1), claimSequence: 1,
		},
		body: []byte(`{"hello":"world"}`),
	}
}

// from makes id the signer and the sender.
func (e *envelope) from(id *identity.Identity) *envelope {
	e.signer, e.header[labelKid] = id, idBytes(id)
	return e
}

// numbered sets session and sequence.
func (e *envelope) numbered(s uint64, sequence any) *envelope {
	e.claims[claimSession], e.claims[claimSequence] = session(s), sequence
	return e
}

func (e *envelope) protected() []byte {
	all := labels{labelClaims: e.claims}
	for label, value := range e.header {
		all[label] = value
	}
	return must(core.Marshal(all))
}

func (e *envelope) raw() []byte { return e.sign(e.protected()) }

// sign signs other header bytes.
func (e *envelope) sign(protected []byte) []byte {
	return cose.Sign(e.signer, e.domain, protected, e.body).Append(nil)
}

func idBytes(id *identity.Identity) []byte {
	raw := id.ID()
	return raw[:]
}

func session(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func direct(to *identity.Identity) string { return network + "/agent/" + to.ID().String() }

// core encodes and strict decodes CBOR independently of internal/cose.
var (
	core   = must(cbor.CoreDetEncOptions().EncMode())
	strict = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		IntDec:           cbor.IntDecConvertNone,
		MaxNestedLevels:  cose.MaxNesting,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
	}.DecMode())
)
