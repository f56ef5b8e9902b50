package identity_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/identity"
)

func TestIDIsTheDigestOfTheKey(t *testing.T) {
	a := fromSeed(t, 1)
	if a.ID() != identity.ID(sha256.Sum256(a.PublicKey())) {
		t.Errorf("ID is %s", a.ID())
	}
	if identity.IDOf(a.PublicKey()) != a.ID() {
		t.Errorf("IDOf is %s", identity.IDOf(a.PublicKey()))
	}
}

func TestIDTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := identity.ID(rapid.SliceOfN(rapid.Byte(), identity.IDSize, identity.IDSize).Draw(t, "id"))
		parsed, err := identity.ParseID(id.String())
		if err != nil || parsed != id {
			t.Fatalf("ParseID(%q) is %s, %v", id.String(), parsed, err)
		}
		if !strings.HasPrefix(id.String(), id.Short()) || len(id.Short()) != 8 {
			t.Fatalf("short form of %s is %s", id, id.Short())
		}
		text, err := json.Marshal(map[identity.ID]identity.ID{id: id})
		if err != nil {
			t.Fatal(err)
		}
		var back map[identity.ID]identity.ID
		if err := json.Unmarshal(text, &back); err != nil || back[id] != id {
			t.Fatalf("JSON %s: %v", text, err)
		}
	})
}

func TestIDRefusesOtherText(t *testing.T) {
	good := strings.Repeat("0a", identity.IDSize)
	for name, text := range map[string]string{
		"empty":         "",
		"short":         good[1:],
		"long":          good + "0",
		"upper case":    strings.ToUpper(good),
		"not hex":       "g" + good[1:],
		"sign":          "+" + good[1:],
		"prefix":        "0x" + good[2:],
		"space":         " " + good[1:],
		"newline":       good[1:] + "\n",
		"NUL":           good[1:] + "\x00",
		"full-width":    "１" + good[3:],
		"a whole novel": strings.Repeat("x", 1<<20),
	} {
		id := identity.ID{7}
		err := id.UnmarshalText([]byte(text))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
		if id != (identity.ID{7}) {
			t.Errorf("%s: changed the ID", name)
		}
		if _, err := identity.ParseID(text); err == nil {
			t.Errorf("%s: ParseID accepted", name)
		}
	}
}

func TestZeroID(t *testing.T) {
	if !(identity.ID{}).IsZero() || fromSeed(t, 1).ID().IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestFromSeedRefusesOtherLengths(t *testing.T) {
	for _, size := range []int{0, 31, 33, 64} {
		if _, err := identity.FromSeed(make([]byte, size)); err == nil {
			t.Errorf("a seed of %d bytes was accepted", size)
		}
	}
}

func TestGeneratedIdentitiesDiffer(t *testing.T) {
	a, errA := identity.Generate()
	b, errB := identity.Generate()
	if errA != nil || errB != nil || a.ID() == b.ID() || bytes.Equal(a.PublicKey(), b.PublicKey()) {
		t.Fatalf("%v %v, %v %v", a, errA, b, errB)
	}
}

func TestPublicKeyIsACopy(t *testing.T) {
	a := fromSeed(t, 1)
	a.PublicKey()[0] ^= 1
	if identity.IDOf(a.PublicKey()) != a.ID() {
		t.Error("a caller changed the identity's key")
	}
}

func fromSeed(t testing.TB, seed byte) *identity.Identity {
	t.Helper()
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
