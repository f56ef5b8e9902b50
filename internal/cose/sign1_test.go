package cose_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"math/big"
	"slices"
	"sync"
	"testing"

	"github.com/fxamacker/cbor/v2"
	veraison "github.com/veraison/go-cose"
	"pgregory.net/rapid"

	"github.com/converge-agents/converge/internal/cose"
)

type key struct{ ed25519.PrivateKey }

func (k key) Sign(message []byte) []byte { return ed25519.Sign(k.PrivateKey, message) }

func (k key) public() ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

var testKey = key{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))}

var domains = []cose.Domain{
	cose.DomainMessage, cose.DomainDescriptor, cose.DomainKeys,
	cose.DomainDelegation, cose.DomainReceipt, cose.DomainBallot, cose.DomainHandshake, cose.DomainBatch,
	cose.DomainTask, cose.DomainResult,
	cose.DomainPool, cose.DomainMember, cose.DomainPoolToken,
}

// header is a protected header that any COSE library understands.
func header() []byte {
	b := cose.AppendMap(nil, 2)
	b = cose.AppendInt(cose.AppendInt(b, cose.LabelAlg), cose.AlgEdDSA)
	return cose.AppendBytes(cose.AppendInt(b, cose.LabelKid), []byte("kid"))
}

func TestGoCOSEVerifiesWhatWeSign(t *testing.T) {
	verifier := must(veraison.NewVerifier(veraison.AlgorithmEdDSA, testKey.public()))
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.SampledFrom(domains).Draw(t, "domain")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "payload")
		raw := cose.Sign(testKey, domain, header(), payload).Append(nil)
		var m veraison.Sign1Message
		if err := m.UnmarshalCBOR(raw); err != nil {
			t.Fatal(err)
		}
		if err := m.Verify([]byte(domain), verifier); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Payload, payload) {
			t.Fatalf("the payload is %x", m.Payload)
		}
		if err := m.Verify([]byte(domain+"x"), verifier); err == nil {
			t.Fatal("verifies under another external_aad")
		}
	})
}

func TestWeVerifyWhatGoCOSESigns(t *testing.T) {
	signer := must(veraison.NewSigner(veraison.AlgorithmEdDSA, testKey.PrivateKey))
	rapid.Check(t, func(t *rapid.T) {
		domain := rapid.SampledFrom(domains).Draw(t, "domain")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "payload")
		protected := veraison.ProtectedHeader{}
		protected.SetAlgorithm(veraison.AlgorithmEdDSA)
		protected[veraison.HeaderLabelKeyID] = []byte("kid")
		raw, err := veraison.Sign1(rand.Reader, signer, veraison.Headers{Protected: protected}, payload, []byte(domain))
		if err != nil {
			t.Fatal(err)
		}
		s, err := cose.Parse(raw)
		if err != nil || !bytes.Equal(s.Payload, payload) || !bytes.Equal(s.Protected, header()) {
			t.Fatalf("%+v, %v", s, err)
		}
		if !s.Verify(testKey.public(), domain) {
			t.Fatal("does not verify")
		}
	})
}

// TestNothingSignedUnderOneDomainVerifiesUnderAnother tries all pairs.
func TestNothingSignedUnderOneDomainVerifiesUnderAnother(t *testing.T) {
	for _, signed := range domains {
		s := cose.Sign(testKey, signed, header(), []byte("payload"))
		for _, claimed := range append(slices.Clone(domains), "", signed+"\x00", signed[:len(signed)-1]) {
			if s.Verify(testKey.public(), claimed) != (signed == claimed) {
				t.Errorf("signed under %q, verified under %q", signed, claimed)
			}
		}
	}
	if sorted := slices.Sorted(slices.Values(domains)); len(slices.Compact(sorted)) != len(domains) {
		t.Error("two domains are the same")
	}
}

// TestPartsCannotMoveAcrossTheirBorders shifts a byte from one signed part to the next.
func TestPartsCannotMoveAcrossTheirBorders(t *testing.T) {
	s := cose.Sign(testKey, cose.DomainMessage, []byte{1, 2}, []byte{3, 4})
	for _, other := range []cose.Sign1{
		{Protected: []byte{1}, Payload: []byte{2, 3, 4}, Signature: s.Signature},
		{Protected: []byte{1, 2, 3}, Payload: []byte{4}, Signature: s.Signature},
		{Protected: []byte{1, 2, 3, 4}, Signature: s.Signature},
		{Protected: []byte{3, 4}, Payload: []byte{1, 2}, Signature: s.Signature},
	} {
		if other.Verify(testKey.public(), cose.DomainMessage) {
			t.Errorf("%x, %x verifies", other.Protected, other.Payload)
		}
	}
}

func TestOtherKeysDoNotVerify(t *testing.T) {
	s := cose.Sign(testKey, cose.DomainMessage, header(), nil)
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	for _, k := range []ed25519.PublicKey{other, nil, testKey.public()[:31], append(testKey.public(), 0)} {
		if s.Verify(k, cose.DomainMessage) {
			t.Errorf("verifies under %x", k)
		}
	}
}

// TestSignatureWithTheGroupOrderAddedIsRefused tries the other S with the same residue, by which
// anybody could give a signed message a second spelling.
func TestSignatureWithTheGroupOrderAddedIsRefused(t *testing.T) {
	s := cose.Sign(testKey, cose.DomainMessage, header(), []byte("payload"))
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	scalar := slices.Clone(s.Signature[32:])
	slices.Reverse(scalar)
	sum := new(big.Int).Add(new(big.Int).SetBytes(scalar), order)
	moved := sum.FillBytes(make([]byte, 32))
	slices.Reverse(moved)
	s.Signature = append(slices.Clone(s.Signature[:32]), moved...)
	if s.Verify(testKey.public(), cose.DomainMessage) {
		t.Error("verifies")
	}
}

func TestSign1RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := cose.Sign1{
			Protected: rapid.SliceOfN(rapid.Byte(), 0, 700).Draw(t, "protected"),
			Payload:   rapid.SliceOfN(rapid.Byte(), 0, 70_000).Draw(t, "payload"),
			Signature: rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "signature"),
		}
		raw := s.Append([]byte("prefix"))[len("prefix"):]
		if len(raw) > len(s.Protected)+len(s.Payload)+cose.Overhead {
			t.Fatalf("%d bytes are more than the overhead allows", len(raw))
		}
		back, err := cose.Parse(raw)
		if err != nil || !bytes.Equal(back.Protected, s.Protected) || !bytes.Equal(back.Payload, s.Payload) || !bytes.Equal(back.Signature, s.Signature) {
			t.Fatalf("%+v becomes %+v, %v", s, back, err)
		}
		// A part cannot grow over the next one.
		_ = append(back.Protected, 0xff)
		_ = append(back.Payload, 0xff)
		if !bytes.Equal(s.Append(nil), raw) {
			t.Fatal("appending to a part changed the frame")
		}
	})
}

func TestParseRefuses(t *testing.T) {
	sig := append([]byte{0x58, 64}, make([]byte, 64)...)
	frame := func(parts ...any) (b []byte) {
		for _, p := range parts {
			switch p := p.(type) {
			case string:
				b = append(b, unhex(p)...)
			case []byte:
				b = append(b, p...)
			}
		}
		return b
	}
	if _, err := cose.Parse(frame("d28440a040", sig)); err != nil {
		t.Fatalf("the frame to start from: %v", err)
	}
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"no tag", frame("8440a040", sig), cose.ErrUnexpected},
		{"tag of COSE_Sign", frame("d8628440a040", sig), cose.ErrUnexpected},
		{"tag of COSE_Mac0", frame("d18440a040", sig), cose.ErrUnexpected},
		{"tag not minimal", frame("d8128440a040", sig), cose.ErrNotDeterministic},
		{"tag in a tag", frame("d2d28440a040", sig), cose.ErrUnexpected},
		{"self-described", frame("d9d9f7d28440a040", sig), cose.ErrUnexpected},
		{"three parts", frame("d28340a0", sig), cose.ErrUnexpected},
		{"five parts", frame("d28540a040", sig, "40"), cose.ErrUnexpected},
		{"map in place of the array", frame("d2a440a040", sig), cose.ErrUnexpected},
		{"protected header is a map", frame("d284a0a040", sig), cose.ErrUnexpected},
		{"protected header is text", frame("d28460a040", sig), cose.ErrUnexpected},
		{"unprotected header", frame("d28440a1044131", "40", sig), cose.ErrUnprotected},
		{"unprotected header is bytes", frame("d284404040", sig), cose.ErrUnexpected},
		{"unprotected header not minimal", frame("d28440b80040", sig), cose.ErrNotDeterministic},
		{"detached payload", frame("d28440a0f6", sig), cose.ErrUnexpected},
		{"payload is text", frame("d28440a060", sig), cose.ErrUnexpected},
		{"payload not minimal", frame("d28440a05800", sig), cose.ErrNotDeterministic},
		{"indefinite payload", frame("d28440a05fff", sig), cose.ErrNotDeterministic},
		{"short signature", frame("d28440a040583f", make([]byte, 63)), cose.ErrUnexpected},
		{"long signature", frame("d28440a0405841", make([]byte, 65)), cose.ErrUnexpected},
		{"no signature", frame("d28440a04040"), cose.ErrUnexpected},
		{"trailing byte", frame("d28440a040", sig, "00"), cose.ErrTrailing},
		{"two frames", frame("d28440a040", sig, "d28440a040", sig), cose.ErrTrailing},
	} {
		if _, err := cose.Parse(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, not %v", c.name, err, c.want)
		}
	}
}

func TestParseRefusesEveryPrefix(t *testing.T) {
	raw := cose.Sign(testKey, cose.DomainMessage, header(), []byte("payload")).Append(nil)
	for size := range raw {
		if _, err := cose.Parse(raw[:size]); !errors.Is(err, cose.ErrTruncated) {
			t.Errorf("%d of %d bytes: %v", size, len(raw), err)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	raw := cose.Sign(testKey, cose.DomainMessage, header(), make([]byte, 10_000)).Append(nil)
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := cose.Parse(raw); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestSigningSharesNoBuffer signs and verifies frames of many sizes at once; under the race detector,
// or if one buffer served two, signatures would not verify.
func TestSigningSharesNoBuffer(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				payload := bytes.Repeat([]byte{byte(i)}, n*n*n*10)
				s := cose.Sign(testKey, cose.DomainMessage, header(), payload)
				if !s.Verify(testKey.public(), cose.DomainMessage) {
					t.Errorf("%d bytes do not verify", len(payload))
				}
			}
		})
	}
	wg.Wait()
}

// FuzzParse holds that a frame has one encoding, and that fxamacker's decoder agrees it is one.
func FuzzParse(f *testing.F) {
	tags := must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: 4,
	}.DecMode())
	f.Add(cose.Sign(testKey, cose.DomainMessage, header(), []byte("payload")).Append(nil))
	f.Add(cose.Sign(testKey, cose.DomainMessage, nil, make([]byte, 300)).Append(nil))
	f.Add(unhex("d28440a0f65840"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := cose.Parse(raw)
		if err != nil {
			return
		}
		if again := s.Append(nil); !bytes.Equal(again, raw) {
			t.Fatalf("%x becomes %x", raw, again)
		}
		var tag cbor.RawTag
		if err := tags.Unmarshal(raw, &tag); err != nil || tag.Number != 18 {
			t.Fatalf("%x: tag %d, %v", raw, tag.Number, err)
		}
		var parts []any
		if err := strict.Unmarshal(tag.Content, &parts); err != nil || len(parts) != 4 {
			t.Fatalf("%x: %d parts, %v", raw, len(parts), err)
		}
	})
}
