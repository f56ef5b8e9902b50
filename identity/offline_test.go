package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
)

// TestIdentityWorksWithoutTheRootKey is the life of an agent whose root key lies in a safe.
func TestIdentityWorksWithoutTheRootKey(t *testing.T) {
	s := newScene(t)
	path := filepath.Join(t.TempDir(), "working.key")
	if err := identity.WriteKeyFile(path, s.rotate(s.root, identity.Rotation{}), nil); err != nil {
		t.Fatal(err)
	}
	working, err := identity.ReadKeyFile(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if working.ID() != s.root.ID() || working.Epoch() != 1 || working.IsRoot() {
		t.Fatalf("%v, epoch %d, root %v", working, working.Epoch(), working.IsRoot())
	}
	if _, err := s.registry.RegisterKeys(working.Statement()); err != nil {
		t.Fatal(err)
	}
	key, err := s.registry.LookupEpoch(working.ID(), working.Epoch())
	if err != nil || !ed25519.Verify(key.Public, []byte("x"), working.Sign([]byte("x"))) {
		t.Errorf("its signature does not verify: %v", err)
	}
	if ed25519.Verify(s.root.PublicKey(), []byte("x"), working.Sign([]byte("x"))) {
		t.Error("the root key signs")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("PRIVATE KEY-----")); n != 2 {
		t.Errorf("the file has %d marks of private keys:\n%s", n, data)
	}
}

func TestStatementOfAnotherKeyDoesNotFit(t *testing.T) {
	s := newScene(t)
	one, other := s.rotate(s.root, identity.Rotation{}), s.rotate(s.root, identity.Rotation{})
	if _, err := one.WithStatement(other.Statement()); !errors.Is(err, identity.ErrKeyMismatch) {
		t.Errorf("another key: %v", err)
	}
	if _, err := one.WithStatement([]byte("rubbish")); !errors.Is(err, identity.ErrStatement) {
		t.Errorf("rubbish: %v", err)
	}
	raw, err := s.root.Revoke(one.Statement())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.WithStatement(raw); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	if _, err := fromSeed(t, 9).Rotate(identity.Rotation{Current: one.Statement()}); err == nil {
		t.Error("rotated after another agent's statement")
	}
	copied := one.Statement()
	copied[0] ^= 1
	if bytes.Equal(copied, one.Statement()) {
		t.Error("the statement can be changed from outside")
	}
	if fromSeed(t, 1).Statement() != nil || fromSeed(t, 1).Epoch() != 0 {
		t.Error("the simple mode has a statement")
	}
	if err := fromSeed(t, 1).CheckTime(time.Now()); err != nil {
		t.Errorf("the simple mode runs out: %v", err)
	}
}

func TestRotatedIdentityNeverPrintsItsSecret(t *testing.T) {
	operational, err := identity.FromSeed(secretSeed)
	if err != nil {
		t.Fatal(err)
	}
	root := fromSeed(t, 1)
	working, err := operational.WithStatement(sign(t, root, statement(root, operational)))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		expectNoSecret(t, verb, fmt.Sprintf(verb, working))
		expectNoSecret(t, verb, fmt.Sprintf(verb, struct{ id *identity.Identity }{working}))
	}
}

func TestKeyFilesThatDoNotFitTogether(t *testing.T) {
	s := newScene(t)
	write := func(id *identity.Identity) string {
		path := filepath.Join(t.TempDir(), "k")
		if err := identity.WriteKeyFile(path, id, nil); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	one, other := write(s.rotate(s.root, identity.Rotation{})), write(s.rotate(s.root, identity.Rotation{}))
	cut := strings.Index(one, "-----BEGIN CONVERGE")
	otherCut := strings.Index(other, "-----BEGIN CONVERGE")
	for name, data := range map[string]string{
		"another key's statement": one[:cut] + other[otherCut:],
		"statement alone":         one[cut:],
		"two statements":          one + one[cut:],
		"statement cut off":       one[:cut+100],
		"two keys":                one[:cut] + other[:otherCut],
	} {
		if id, err := identity.ParseKey([]byte(data), nil); err == nil {
			t.Errorf("%s: %v", name, id)
		} else if strings.Contains(err.Error(), one[30:60]) {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
	if id, err := identity.ParseKey([]byte(one[:cut]), nil); err != nil || id.Epoch() != 0 || !id.IsRoot() {
		t.Errorf("a file without statement: %v, %v", id, err)
	}
}
