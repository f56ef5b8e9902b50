package identity_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/converge-agents/converge/identity"
)

var suites = []identity.SealingSuite{identity.MLKEM768X25519, identity.X25519}

func newSealingKey(t testing.TB, suite identity.SealingSuite) *identity.SealingKey {
	t.Helper()
	key, err := identity.GenerateSealingKey(suite)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sealed is something that was sealed to a key.
type sealed struct{ info, encapsulated, aad, ciphertext []byte }

func sealTo(t testing.TB, key identity.PublicSealingKey, text string) sealed {
	t.Helper()
	encapsulated, sender, err := key.NewSender([]byte("info"))
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := sender.Seal([]byte("aad"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sealed{[]byte("info"), encapsulated, []byte("aad"), ciphertext}
}

func (s sealed) open(key *identity.SealingKey) (string, error) {
	opened, err := key.Open(s.info, s.encapsulated, s.aad, s.ciphertext)
	return string(opened), err
}

func TestSealingKeyOpensWhatWasSealedToIt(t *testing.T) {
	for _, suite := range suites {
		key := newSealingKey(t, suite)
		public, err := identity.ParsePublicSealingKey(key.Public().Bytes())
		if err != nil {
			t.Fatal(err)
		}
		s := sealTo(t, public, "hello")
		if len(s.encapsulated) != suite.EncapsulatedSize() {
			t.Errorf("%s: %d bytes are encapsulated, not %d", suite, len(s.encapsulated), suite.EncapsulatedSize())
		}
		if text, err := s.open(key); err != nil || text != "hello" {
			t.Errorf("%s: %q, %v", suite, text, err)
		}
	}
}

func TestSealedToAnotherKeyOrAlteredDoesNotOpen(t *testing.T) {
	for _, suite := range suites {
		key := newSealingKey(t, suite)
		s := sealTo(t, key.Public(), "hello")
		for name, other := range map[string]sealed{
			"another info":       {[]byte("other"), s.encapsulated, s.aad, s.ciphertext},
			"other data":         {s.info, s.encapsulated, []byte("other"), s.ciphertext},
			"another ciphertext": {s.info, s.encapsulated, s.aad, append([]byte{s.ciphertext[0] ^ 1}, s.ciphertext[1:]...)},
			"no ciphertext":      {s.info, s.encapsulated, s.aad, nil},
			"short key":          {s.info, s.encapsulated[1:], s.aad, s.ciphertext},
			"no key":             {s.info, nil, s.aad, s.ciphertext},
			"key of zeros":       {s.info, make([]byte, len(s.encapsulated)), s.aad, s.ciphertext},
		} {
			if _, err := other.open(key); err != identity.ErrOpen {
				t.Errorf("%s, %s: %v, want ErrOpen as it is", suite, name, err)
			}
		}
		if _, err := s.open(newSealingKey(t, suite)); err != identity.ErrOpen {
			t.Errorf("%s: another key: %v", suite, err)
		}
	}
}

func TestPublicSealingKeyHasOneEncoding(t *testing.T) {
	for suite, size := range map[identity.SealingSuite]int{identity.MLKEM768X25519: 1217, identity.X25519: 33} {
		key := newSealingKey(t, suite).Public()
		encoded := key.Bytes()
		if len(encoded) != size || encoded[0] != byte(suite) {
			t.Errorf("%s: %d bytes that begin with %d", suite, len(encoded), encoded[0])
		}
		again, err := identity.ParsePublicSealingKey(encoded)
		if err != nil || !bytes.Equal(again.Bytes(), encoded) || again.ID() != key.ID() || again.Suite() != suite {
			t.Errorf("%s: read back as %s, %v", suite, again, err)
		}
		if encoded[1]++; !bytes.Equal(key.Bytes(), again.Bytes()) {
			t.Errorf("%s: who changes what Bytes returned changes the key", suite)
		}
	}
}

func TestBadPublicSealingKeysAreRefused(t *testing.T) {
	good := map[identity.SealingSuite][]byte{}
	for _, suite := range suites {
		good[suite] = newSealingKey(t, suite).Public().Bytes()
	}
	x := func(hexKey string) []byte {
		raw, err := hex.DecodeString(hexKey)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{byte(identity.X25519)}, raw...)
	}
	inHybrid := func(x []byte) []byte {
		key := bytes.Clone(good[identity.MLKEM768X25519])
		copy(key[len(key)-32:], x[1:])
		return key
	}
	bad := map[string]struct {
		encoded []byte
		want    error
	}{
		"nothing":              {nil, identity.ErrWeakKey},
		"suite 0":              {append([]byte{0}, good[identity.X25519][1:]...), identity.ErrSealingSuite},
		"suite 3":              {append([]byte{3}, good[identity.X25519][1:]...), identity.ErrSealingSuite},
		"suite 255":            {[]byte{255}, identity.ErrSealingSuite},
		"suite alone":          {[]byte{1}, identity.ErrWeakKey},
		"other suite":          {append([]byte{2}, good[identity.MLKEM768X25519][1:]...), identity.ErrWeakKey},
		"short":                {good[identity.X25519][:32], identity.ErrWeakKey},
		"long":                 {append(bytes.Clone(good[identity.X25519]), 0), identity.ErrWeakKey},
		"hybrid, short":        {good[identity.MLKEM768X25519][:1216], identity.ErrWeakKey},
		"hybrid, other X25519": {inHybrid(good[identity.X25519]), nil},
		"high bit":             {x(strings.Repeat("09", 31) + "89"), identity.ErrWeakKey},
		"p":                    {x("ed" + strings.Repeat("ff", 30) + "7f"), identity.ErrWeakKey},
		"p + 1":                {x("ee" + strings.Repeat("ff", 30) + "7f"), identity.ErrWeakKey},
		"zero":                 {x(strings.Repeat("00", 32)), identity.ErrWeakKey},
		"one":                  {x("01" + strings.Repeat("00", 31)), identity.ErrWeakKey},
		"order 8":              {x("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), identity.ErrWeakKey},
		"order 8, other":       {x("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), identity.ErrWeakKey},
		"p - 1":                {x("ec" + strings.Repeat("ff", 30) + "7f"), identity.ErrWeakKey},
		"hybrid with zero":     {inHybrid(x(strings.Repeat("00", 32))), identity.ErrWeakKey},
		"hybrid with p":        {inHybrid(x("ed" + strings.Repeat("ff", 30) + "7f")), identity.ErrWeakKey},
		"ML-KEM not modulo":    {append([]byte{1}, bytes.Repeat([]byte{0xff}, 1184)...), identity.ErrWeakKey},
	}
	beyond := inHybrid(good[identity.X25519])
	copy(beyond[1:1185], bytes.Repeat([]byte{0xff}, 1184))
	bad["hybrid, ML-KEM beyond q"] = struct {
		encoded []byte
		want    error
	}{beyond, identity.ErrWeakKey}
	for name, c := range bad {
		key, err := identity.ParsePublicSealingKey(c.encoded)
		if !errors.Is(err, c.want) || (c.want != nil) != key.IsZero() {
			t.Errorf("%s: %s, %v; want %v", name, key, err, c.want)
		}
	}
}

func TestNoKeySealsNothing(t *testing.T) {
	var none identity.PublicSealingKey
	if _, _, err := none.NewSender(nil); !errors.Is(err, identity.ErrWeakKey) {
		t.Errorf("sealing to no key: %v", err)
	}
	if none.String() != "no sealing key" || len(none.Bytes()) != 0 {
		t.Errorf("no key is %q, %x", none, none.Bytes())
	}
}

func TestSealingSuitesHaveNames(t *testing.T) {
	for _, suite := range suites {
		if got, err := identity.ParseSealingSuite(suite.String()); got != suite || err != nil {
			t.Errorf("%s is read as %s, %v", suite, got, err)
		}
	}
	if got, err := identity.ParseSealingSuite(""); got != identity.MLKEM768X25519 || err != nil {
		t.Errorf("the default is %s, %v", got, err)
	}
	for _, name := range []string{"unknown", "X25519", "aes"} {
		if got, err := identity.ParseSealingSuite(name); !errors.Is(err, identity.ErrSealingSuite) || got.IsKnown() {
			t.Errorf("%q is read as %s, %v", name, got, err)
		}
	}
	for _, suite := range []identity.SealingSuite{3, 255} {
		if _, err := identity.GenerateSealingKey(suite); !errors.Is(err, identity.ErrSealingSuite) {
			t.Errorf("a key of suite %d: %v", suite, err)
		}
	}
	if key := newSealingKey(t, 0); key.Public().Suite() != identity.MLKEM768X25519 {
		t.Errorf("the default is %s", key)
	}
}

func TestSealingKeyFromItsSecretIsTheSame(t *testing.T) {
	for _, suite := range suites {
		one, err := identity.SealingKeyFrom(suite, secretSeed)
		two, err2 := identity.SealingKeyFrom(suite, secretSeed)
		if err != nil || err2 != nil || one.Public().ID() != two.Public().ID() {
			t.Fatalf("%s: %v, %v", suite, err, err2)
		}
		if text, err := sealTo(t, one.Public(), "x").open(two); text != "x" || err != nil {
			t.Errorf("%s: %q, %v", suite, text, err)
		}
		_, err = identity.SealingKeyFrom(suite, secretSeed[:31])
		if err == nil {
			t.Fatalf("%s: a secret of 31 bytes is a key", suite)
		}
		expectNoSecret(t, "the error", err.Error())
	}
}

func TestSealingKeyNeverPrintsItsSecret(t *testing.T) {
	for _, suite := range suites {
		key, err := identity.SealingKeyFrom(suite, secretSeed)
		if err != nil {
			t.Fatal(err)
		}
		expectNeverPrinted(t, holdersOf(key, *key, struct{ *identity.SealingKey }{key}))
		if want := "private " + key.Public().String(); fmt.Sprintf("%#v", key) != want {
			t.Errorf("prints %#v, not %s", key, want)
		}
		if out, err := json.Marshal(key); err == nil {
			t.Errorf("JSON is %s", out)
		}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(io.MultiWriter(&out), nil)).Info("x", "key", key)
		if !strings.Contains(out.String(), key.Public().ID().String()) {
			t.Errorf("slog prints %s", out.String())
		}
	}
}

func FuzzParsePublicSealingKey(f *testing.F) {
	for _, suite := range suites {
		key, err := identity.SealingKeyFrom(suite, secretSeed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key.Public().Bytes())
	}
	f.Add([]byte{1})
	f.Add(append([]byte{2}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		key, err := identity.ParsePublicSealingKey(encoded)
		if err != nil {
			return
		}
		if !bytes.Equal(key.Bytes(), encoded) {
			t.Fatalf("%x is read as %x", encoded, key.Bytes())
		}
		sealTo(t, key, "whatever is a key can be sealed to")
	})
}
