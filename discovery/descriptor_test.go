package discovery_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// sameDescriptor compares times by the moment that they name.
func sameDescriptor(a, b discovery.Descriptor) bool {
	if !a.Issued.Equal(b.Issued) || !a.Expires.Equal(b.Expires) {
		return false
	}
	a.Issued, a.Expires = b.Issued, b.Expires
	return reflect.DeepEqual(a, b)
}

func TestOpenReturnsEveryFieldThatWasSigned(t *testing.T) {
	want := described(alice)
	for field, value := range reflect.ValueOf(want).Fields() {
		if value.IsZero() && field.Name != "Withdrawn" && field.Name != "Statement" {
			t.Fatalf("the example leaves %s open", field.Name)
		}
	}
	for _, withdrawn := range []bool{false, true} {
		want.Withdrawn = withdrawn
		got, err := discovery.Open(must(discovery.Sign(alice, want)))
		if err != nil {
			t.Fatal(err)
		}
		if !sameDescriptor(got, want) {
			t.Errorf("opened\n%+v\nsigned\n%+v", got, want)
		}
	}
	if !want.Can("text.translate") || want.Can("text") || want.Can("") {
		t.Error("Can does not go by the whole name")
	}
}

func TestOpenReadsTheDocumentedFormat(t *testing.T) {
	payload := by(alice).
		with(labelName, "Alice").
		with(labelTopics, []string{"orders.>"}).
		with(labelCapabilities, []fields{{1: "a", 2: "1", 3: "what it is"}}).
		with(labelEndpoints, []string{"tls://host"}).
		with(labelWithdrawn, true).
		with(99, "of a later version")
	got, err := discovery.Open(signed(alice, kid(alice), payload.encode()))
	if err != nil {
		t.Fatal(err)
	}
	want := discovery.Descriptor{
		Name:         "Alice",
		Topics:       []message.Pattern{message.MustPattern("orders.>")},
		Capabilities: []discovery.Capability{{Name: "a", Version: "1", Description: "what it is"}},
		Endpoints:    []string{"tls://host"},
		ID:           alice.ID(), Key: alice.PublicKey(), Network: network, Sequence: 1,
		Issued: noon, Expires: noon.Add(time.Hour), Withdrawn: true,
	}
	if !sameDescriptor(got, want) {
		t.Errorf("opened\n%+v\nwant\n%+v", got, want)
	}
}

func TestGoCOSEVerifiesADescriptor(t *testing.T) {
	var m veraison.Sign1Message
	if err := m.UnmarshalCBOR(must(discovery.Sign(alice, described(alice)))); err != nil {
		t.Fatal(err)
	}
	verifier := must(veraison.NewVerifier(veraison.AlgorithmEdDSA, alice.PublicKey()))
	if err := m.Verify([]byte("converge/descriptor/v1"), verifier); err != nil {
		t.Error(err)
	}
}

// refuses wants raw refused for that reason, and nothing of it returned.
func refuses(t *testing.T, raw []byte, want error) {
	t.Helper()
	d, err := discovery.Open(raw)
	if !errors.Is(err, want) {
		t.Errorf("Open: %v; want %v", err, want)
	}
	if !reflect.DeepEqual(d, discovery.Descriptor{}) {
		t.Errorf("what was refused is returned: %+v", d)
	}
}

func TestDescriptorOfAnotherAgentIsForged(t *testing.T) {
	payload := func(id *identity.Identity) []byte { return by(id).encode() }
	for name, raw := range map[string][]byte{
		"signed by another":                      signed(mallory, kid(alice), payload(alice)),
		"signed by another, under its own kid":   signed(mallory, kid(mallory), payload(alice)),
		"another's key under the victim's kid":   signed(mallory, kid(alice), payload(mallory)),
		"the victim's signature, another's key":  signed(alice, kid(alice), payload(mallory)),
		"the victim's signature, another's kid":  signed(alice, kid(mallory), payload(alice)),
		"the kid is the key instead of its hash": signed(alice, alice.PublicKey(), payload(alice)),
		"no kid":                                 signed(alice, nil, payload(alice)),
	} {
		t.Run(name, func(t *testing.T) { refuses(t, raw, discovery.ErrForged) })
	}
}

func TestSwappedKeyIsForged(t *testing.T) {
	raw := must(discovery.Sign(alice, described(alice)))
	swapped := bytes.ReplaceAll(raw, alice.PublicKey(), mallory.PublicKey())
	refuses(t, swapped, discovery.ErrForged)
	refuses(t, bytes.ReplaceAll(swapped, kid(alice), kid(mallory)), discovery.ErrForged)
}

func TestKeyThatIsNoKeyIsForged(t *testing.T) {
	for name, key := range map[string][]byte{
		"none": {}, "short": alice.PublicKey()[:31], "long": append(alice.PublicKey(), 0),
		"not canonical": append(bytes.Repeat([]byte{0xff}, 31), 0x7f),
	} {
		t.Run(name, func(t *testing.T) {
			id := identity.IDOf(key)
			raw := signed(alice, id[:], by(alice).with(labelKey, key).encode())
			refuses(t, raw, discovery.ErrForged)
			refuses(t, raw, identity.ErrWeakKey)
		})
	}
}

// TestLowOrderKeyIsForged uses a key under which anybody can sign anything.
func TestLowOrderKeyIsForged(t *testing.T) {
	forger := lowOrder{}
	if !ed25519.Verify(forger.key(), []byte("anything"), forger.Sign(nil)) {
		t.Fatal("this is no attack: the signature does not verify")
	}
	id := identity.IDOf(forger.key())
	raw := signed(forger, id[:], by(alice).with(labelKey, []byte(forger.key())).encode())
	refuses(t, raw, discovery.ErrForged)
	refuses(t, raw, identity.ErrWeakKey)
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	raw := must(discovery.Sign(alice, described(alice)))
	for i := range len(raw) * 8 {
		flipped := bytes.Clone(raw)
		flipped[i/8] ^= 1 << (i % 8)
		if _, err := discovery.Open(flipped); !errors.Is(err, discovery.ErrForged) && !errors.Is(err, discovery.ErrMalformed) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
}

func TestEveryTruncationAndExtensionIsRefused(t *testing.T) {
	raw := must(discovery.Sign(alice, described(alice)))
	for i := range raw {
		refuses(t, raw[:i], discovery.ErrMalformed)
	}
	refuses(t, append(bytes.Clone(raw), 0), discovery.ErrMalformed)
}

func TestMessageIsNoDescriptor(t *testing.T) {
	signer := must(message.NewSigner(message.SignerConfig{Identity: alice, Network: network}))
	m := must(signer.Sign(t.Context(), message.Draft{Body: by(alice).encode(), ContentType: typ}))
	refuses(t, m.Raw(), discovery.ErrForged)

	// Nor does its signature fit under a descriptor's header.
	s := must(cose.Parse(m.Raw()))
	d := must(cose.Parse(signed(alice, kid(alice), s.Payload)))
	d.Signature = s.Signature
	refuses(t, d.Append(nil), discovery.ErrForged)
}

func TestStatementOfAnotherDomainIsNoDescriptor(t *testing.T) {
	for _, domain := range []cose.Domain{
		cose.DomainMessage, cose.DomainKeys, cose.DomainDelegation, cose.DomainReceipt, cose.DomainBallot,
		cose.DomainTask, cose.DomainResult,
	} {
		raw := cose.SignStatement(alice, kid(alice), domain, typ, by(alice).encode())
		refuses(t, raw, discovery.ErrForged)
	}
	raw := cose.SignStatement(alice, kid(alice), cose.DomainDescriptor, "application/converge-message", by(alice).encode())
	refuses(t, raw, discovery.ErrForged)
}

// beyondLimits has, by name, what a descriptor may not hold: as the field of a Descriptor and as a
// hostile signer would write it.
var beyondLimits = map[string]struct {
	set func(*discovery.Descriptor)
	raw fields
}{
	"too many capabilities": {
		func(d *discovery.Descriptor) {
			d.Capabilities = repeat(discovery.Capability{Name: "c"}, discovery.MaxCapabilities+1)
		},
		by(alice).with(labelCapabilities, repeat(fields{1: "c"}, discovery.MaxCapabilities+1)),
	},
	"too many topics": {
		func(d *discovery.Descriptor) {
			d.Topics = repeat(message.MustPattern("t"), discovery.MaxPatterns+1)
		},
		by(alice).with(labelTopics, repeat("t", discovery.MaxPatterns+1)),
	},
	"too many endpoints": {
		func(d *discovery.Descriptor) { d.Endpoints = repeat("e", discovery.MaxEndpoints+1) },
		by(alice).with(labelEndpoints, repeat("e", discovery.MaxEndpoints+1)),
	},
	"zero pattern": {
		func(d *discovery.Descriptor) { d.Topics = []message.Pattern{{}} },
		by(alice).with(labelTopics, []string{""}),
	},
	"name too long": {
		func(d *discovery.Descriptor) { d.Name = strings.Repeat("n", 1025) },
		by(alice).with(labelName, strings.Repeat("n", 1025)),
	},
	"name not UTF-8": {
		func(d *discovery.Descriptor) { d.Name = "\xff" },
		by(alice).with(labelName, "\xff"),
	},
	"endpoint too long": {
		func(d *discovery.Descriptor) { d.Endpoints = []string{strings.Repeat("e", 1025)} },
		by(alice).with(labelEndpoints, []string{strings.Repeat("e", 1025)}),
	},
	"description too long": {
		func(d *discovery.Descriptor) {
			d.Capabilities = []discovery.Capability{{Name: "c", Description: strings.Repeat("d", 1025)}}
		},
		by(alice).with(labelCapabilities, []fields{{1: "c", 3: strings.Repeat("d", 1025)}}),
	},
	"version not UTF-8": {
		func(d *discovery.Descriptor) {
			d.Capabilities = []discovery.Capability{{Name: "c", Version: "\xc0\x80"}}
		},
		by(alice).with(labelCapabilities, []fields{{1: "c", 2: "\xc0\x80"}}),
	},
	"no network":     badNetwork(""),
	"hostile name":   badNetwork("Test"),
	"network escape": badNetwork("a/../b"),

	"capability without name":    badCapability(""),
	"capability with a space":    badCapability("a b"),
	"capability with an escape":  badCapability("a\x1b[2J"),
	"capability with a newline":  badCapability("a\nb"),
	"capability of other script": badCapability("аlice"),
	"capability name too long":   badCapability(strings.Repeat("c", 1025)),
}

func badNetwork(name string) struct {
	set func(*discovery.Descriptor)
	raw fields
} {
	return struct {
		set func(*discovery.Descriptor)
		raw fields
	}{
		func(d *discovery.Descriptor) { d.Network = name },
		by(alice).with(labelNetwork, name),
	}
}

func badCapability(name string) struct {
	set func(*discovery.Descriptor)
	raw fields
} {
	return struct {
		set func(*discovery.Descriptor)
		raw fields
	}{
		func(d *discovery.Descriptor) { d.Capabilities = []discovery.Capability{{Name: name}} },
		by(alice).with(labelCapabilities, []fields{{1: name}}),
	}
}

func repeat[T any](v T, n int) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = v
	}
	return all
}

func TestWhatIsBeyondTheLimitsIsNeitherSignedNorOpened(t *testing.T) {
	for name, c := range beyondLimits {
		t.Run(name, func(t *testing.T) {
			d := described(alice)
			c.set(&d)
			if raw, err := discovery.Sign(alice, d); err == nil {
				t.Errorf("signed: %x", raw)
			}
			refuses(t, signed(alice, kid(alice), c.raw.encode()), discovery.ErrMalformed)
		})
	}
}

func TestDescriptorAtTheLimitsIsOpened(t *testing.T) {
	d := described(alice)
	d.Name = strings.Repeat("n", 1024)
	d.Capabilities = repeat(discovery.Capability{Name: "c"}, discovery.MaxCapabilities)
	d.Topics = repeat(message.MustPattern("t"), discovery.MaxPatterns)
	d.Endpoints = repeat("e", discovery.MaxEndpoints)
	if _, err := discovery.Open(must(discovery.Sign(alice, d))); err != nil {
		t.Error(err)
	}
}

func TestOversizeDescriptorIsNeitherSignedNorOpened(t *testing.T) {
	d := described(alice)
	d.Capabilities = repeat(discovery.Capability{Name: "c", Description: strings.Repeat("d", 1024)}, 64)
	if _, err := discovery.Sign(alice, d); err == nil {
		t.Error("signed")
	}
	big := by(alice).with(99, make([]byte, discovery.MaxDescriptor))
	refuses(t, signed(alice, kid(alice), big.encode()), discovery.ErrMalformed)
	refuses(t, make([]byte, discovery.MaxDescriptor+1), discovery.ErrMalformed)
}

func TestMalformedPayloadIsRefused(t *testing.T) {
	good := by(alice).encode()
	for name, payload := range map[string][]byte{
		"empty":             {},
		"no map":            {0x80},
		"data after it":     append(bytes.Clone(good), 0),
		"a key twice":       append([]byte{good[0] + 1, 0x01, 0x61, 'x'}, good[1:]...),
		"indefinite length": append(append([]byte{0xbf}, good[1:]...), 0xff),
		"a tag":             append([]byte{0xc1}, good...),
		"sequence is text":  by(alice).with(labelSequence, "1").encode(),
		"negative sequence": by(alice).with(labelSequence, -1).encode(),
		"time is a float":   by(alice).with(labelIssued, 1.5).encode(),
		"nested too deeply": by(alice).with(99, nested(9)).encode(),
		"a huge array":      by(alice).with(99, make([]int, 2000)).encode(),
	} {
		t.Run(name, func(t *testing.T) { refuses(t, signed(alice, kid(alice), payload), discovery.ErrMalformed) })
	}
	refuses(t, signed(alice, kid(alice), fields{}.encode()), discovery.ErrMalformed)
}

func nested(depth int) any {
	if depth == 0 {
		return 0
	}
	return []any{nested(depth - 1)}
}

func TestSignRefusesToSpeakForAnother(t *testing.T) {
	otherKey, otherID := described(alice), described(alice)
	otherKey.Key = mallory.PublicKey()
	otherID.ID = mallory.ID()
	for name, d := range map[string]discovery.Descriptor{
		"another agent": described(alice), "another's key": otherKey, "another's ID": otherID, "nobody": {Network: network},
	} {
		signer := alice
		if name == "another agent" {
			signer = mallory
		}
		if raw, err := discovery.Sign(signer, d); err == nil {
			t.Errorf("%s: signed: %x", name, raw)
		}
	}
}

func TestCheckTime(t *testing.T) {
	d := described(alice)
	for _, c := range []struct {
		at  time.Time
		err error
	}{
		{d.Issued.Add(-message.DefaultSkew - time.Millisecond), discovery.ErrExpired},
		{d.Issued.Add(-message.DefaultSkew), nil},
		{d.Issued, nil},
		{d.Expires.Add(-time.Millisecond), nil},
		{d.Expires, discovery.ErrExpired},
		{d.Expires.AddDate(1, 0, 0), discovery.ErrExpired},
	} {
		if err := d.CheckTime(c.at); !errors.Is(err, c.err) {
			t.Errorf("at %v: %v; want %v", c.at, err, c.err)
		}
	}
}

// FuzzOpen has no secret key, so it must never get a descriptor accepted that is not, byte for byte, one
// that its key signed. The input also serves as a payload that a hostile agent signs itself.
func FuzzOpen(f *testing.F) {
	genuine := map[string]bool{}
	withdrawn := described(bob)
	withdrawn.Withdrawn = true
	operational := identityOf(carol)
	keyed := described(carol)
	keyed.Statement = operational.Statement()
	for _, raw := range [][]byte{
		must(discovery.Sign(alice, described(alice))),
		must(discovery.Sign(bob, withdrawn)),
		must(discovery.Sign(operational, keyed)),
		signed(carol, kid(carol), by(carol).encode()),
	} {
		genuine[string(raw)] = true
		f.Add(raw)
	}
	f.Add(signed(mallory, kid(alice), by(alice).encode()))
	f.Add(signed(lowOrder{}, kid(alice), by(alice).with(labelKey, []byte(lowOrder{}.key())).encode()))
	f.Add(signed(mallory, kid(carol), by(carol).with(labelStatement, operational.Statement()).encode()))
	f.Add(by(mallory).with(labelStatement, operational.Statement()).encode())
	f.Add(by(mallory).with(labelTopics, []string{"a.>"}).with(labelCapabilities, []fields{{1: "c"}}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := discovery.Open(data)
		if err == nil && !genuine[string(data)] {
			t.Fatalf("%x: accepted as a descriptor of %s, who did not sign it", data, d.ID)
		}
		if err != nil && !errors.Is(err, discovery.ErrForged) && !errors.Is(err, discovery.ErrMalformed) {
			t.Fatalf("%x: %v", data, err)
		}
		d, err = discovery.Open(signed(mallory, kid(mallory), data))
		if err != nil {
			return
		}
		if d.ID != mallory.ID() || !d.Key.Equal(mallory.PublicKey()) {
			t.Fatalf("%x: Mallory spoke for %s", data, d.ID)
		}
		again, err := discovery.Open(must(discovery.Sign(mallory, d)))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(d) {
			t.Fatalf("%+v: signed again it is %+v, %v", d, again, err)
		}
	})
}

// identityOf returns the identity that works with an operational key whose seed is known, so that fuzzing is
// the same every time.
func identityOf(root *identity.Identity) *identity.Identity {
	operational := agent(200)
	raw := must(identity.SignKeys(root, identity.KeyStatement{
		ID: root.ID(), Root: root.PublicKey(), Epoch: 1, Operational: operational.PublicKey(),
		NotBefore: noon, Expires: noon.Add(time.Hour), Sequence: 1,
	}))
	return must(operational.WithStatement(raw))
}
