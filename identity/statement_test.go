package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	veraison "github.com/veraison/go-cose"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// statement is a valid statement of the root about another key.
func statement(root, operational *identity.Identity) identity.KeyStatement {
	return identity.KeyStatement{
		ID: root.ID(), Root: root.PublicKey(), Epoch: 1, Operational: operational.PublicKey(),
		Sealing: []byte("sealing key"), NotBefore: noon, Expires: noon.Add(time.Hour), Sequence: 1,
		Previous: root.PublicKey(), Overlap: time.Minute,
	}
}

func sign(t testing.TB, root *identity.Identity, s identity.KeyStatement) []byte {
	t.Helper()
	raw, err := identity.SignKeys(root, s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func changed(s identity.KeyStatement, change func(*identity.KeyStatement)) identity.KeyStatement {
	change(&s)
	return s
}

func TestStatementSurvivesSigning(t *testing.T) {
	root, operational := fromSeed(t, 1), fromSeed(t, 2)
	s := statement(root, operational)
	for name, s := range map[string]identity.KeyStatement{
		"full":    s,
		"revoked": changed(s, func(s *identity.KeyStatement) { s.Revoked = true }),
		"epoch 0": changed(s, func(s *identity.KeyStatement) {
			s.Epoch, s.Operational, s.Previous, s.Overlap = 0, root.PublicKey(), nil, 0
		}),
		"bare": changed(s, func(s *identity.KeyStatement) { s.Sealing, s.Previous, s.Overlap = nil, nil, 0 }),
		"largest": changed(s, func(s *identity.KeyStatement) {
			s.Epoch, s.Sequence, s.Previous = 1<<63-1, 1<<63-1, fromSeed(t, 3).PublicKey()
			s.Sealing, s.Overlap = bytes.Repeat([]byte{1}, identity.MaxSealing), identity.MaxOverlap
			s.Expires = time.UnixMilli(253402300799999).UTC()
		}),
	} {
		raw := sign(t, root, s)
		got, err := identity.OpenKeys(raw)
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if text := identity.EncodeStatement(raw); !strings.HasPrefix(string(text), "-----BEGIN CONVERGE KEY STATEMENT-----\n") {
			t.Errorf("%s: %s", name, text)
		} else if back, err := identity.DecodeStatement(append([]byte("Alice's key:\n\n"), text...)); err != nil || !bytes.Equal(back, raw) {
			t.Errorf("%s: %x, %v", name, back, err)
		}
	}
}

func TestGoCOSEVerifiesStatements(t *testing.T) {
	root := fromSeed(t, 1)
	var m veraison.Sign1Message
	if err := m.UnmarshalCBOR(sign(t, root, statement(root, fromSeed(t, 2)))); err != nil {
		t.Fatal(err)
	}
	verifier, err := veraison.NewVerifier(veraison.AlgorithmEdDSA, root.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify([]byte("converge/keys/v1"), verifier); err != nil {
		t.Error(err)
	}
}

func TestStatementsThatNobodyMaySignAreNotSigned(t *testing.T) {
	root, operational := fromSeed(t, 1), fromSeed(t, 2)
	weak := unhex(t, lowOrderKeys[0])
	for name, change := range map[string]func(*identity.KeyStatement){
		"another ID":                       func(s *identity.KeyStatement) { s.ID = operational.ID() },
		"another root":                     func(s *identity.KeyStatement) { s.Root = operational.PublicKey() },
		"no operational key":               func(s *identity.KeyStatement) { s.Operational = nil },
		"weak operational key":             func(s *identity.KeyStatement) { s.Operational = weak },
		"weak previous key":                func(s *identity.KeyStatement) { s.Epoch, s.Previous = 2, weak },
		"epoch 0 of another key":           func(s *identity.KeyStatement) { s.Epoch, s.Previous, s.Overlap = 0, nil, 0 },
		"the root key in a later epoch":    func(s *identity.KeyStatement) { s.Operational, s.Previous, s.Overlap = s.Root, nil, 0 },
		"sequence 0":                       func(s *identity.KeyStatement) { s.Sequence = 0 },
		"sequence of 64 bits":              func(s *identity.KeyStatement) { s.Sequence = 1 << 63 },
		"expires before it begins":         func(s *identity.KeyStatement) { s.Expires = s.NotBefore },
		"no time":                          func(s *identity.KeyStatement) { s.NotBefore = time.Time{} },
		"year 10000":                       func(s *identity.KeyStatement) { s.Expires = time.UnixMilli(253402300800000) },
		"part of a millisecond":            func(s *identity.KeyStatement) { s.Expires = s.Expires.Add(1) },
		"endless overlap":                  func(s *identity.KeyStatement) { s.Overlap = identity.MaxOverlap + time.Millisecond },
		"negative overlap":                 func(s *identity.KeyStatement) { s.Overlap = -time.Millisecond },
		"overlap with nothing":             func(s *identity.KeyStatement) { s.Previous = nil },
		"the same key before":              func(s *identity.KeyStatement) { s.Previous = s.Operational },
		"epoch 1 after another key":        func(s *identity.KeyStatement) { s.Previous = fromSeed(t, 3).PublicKey() },
		"epoch 2 after the root key":       func(s *identity.KeyStatement) { s.Epoch = 2 },
		"a sealing key beyond all measure": func(s *identity.KeyStatement) { s.Sealing = make([]byte, identity.MaxSealing+1) },
	} {
		if raw, err := identity.SignKeys(root, changed(statement(root, operational), change)); err == nil {
			t.Errorf("%s: signed %x", name, raw)
		}
	}
}

// TestOnlyTheRootKeySignsStatements has an operational key sign its successor, as its thief would.
func TestOnlyTheRootKeySignsStatements(t *testing.T) {
	root, thief := fromSeed(t, 1), fromSeed(t, 3)
	working, err := root.Rotate(identity.Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	if working.IsRoot() || !root.IsRoot() {
		t.Error("who holds the root key?")
	}
	s := statement(root, thief)
	if _, err := identity.SignKeys(working, s); err == nil {
		t.Error("an operational key has signed a statement")
	}
	if _, err := working.Rotate(identity.Rotation{Current: working.Statement()}); err == nil {
		t.Error("an operational key was rotated without the root key")
	}
	if _, err := working.Revoke(nil); err == nil {
		t.Error("an agent was revoked without the root key")
	}
	genuine, err := cose.Parse(sign(t, root, s))
	if err != nil {
		t.Fatal(err)
	}
	for name, signer := range map[string]*identity.Identity{"operational key": working, "stranger": thief} {
		id := root.ID()
		forged := cose.SignStatement(signer, id[:], cose.DomainKeys, "application/converge-keys", genuine.Payload)
		if _, err := identity.OpenKeys(forged); !errors.Is(err, identity.ErrForgedStatement) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSplicedStatementsAreRefused puts parts of statements together that were not signed together.
func TestSplicedStatementsAreRefused(t *testing.T) {
	root, other := fromSeed(t, 1), fromSeed(t, 2)
	mine, err := cose.Parse(sign(t, root, statement(root, fromSeed(t, 3))))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := cose.Parse(sign(t, other, statement(other, fromSeed(t, 3))))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]cose.Sign1{
		"another root's payload":   {Protected: mine.Protected, Payload: theirs.Payload, Signature: mine.Signature},
		"another ID":               {Protected: theirs.Protected, Payload: mine.Payload, Signature: mine.Signature},
		"another root's signature": {Protected: mine.Protected, Payload: mine.Payload, Signature: theirs.Signature},
	} {
		if _, err := identity.OpenKeys(s.Append(nil)); !errors.Is(err, identity.ErrForgedStatement) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStatementOfOtherDomainIsNoKeyStatement passes what the root key signed as something else.
func TestStatementOfOtherDomainIsNoKeyStatement(t *testing.T) {
	root := fromSeed(t, 1)
	id := root.ID()
	genuine, err := cose.Parse(sign(t, root, statement(root, fromSeed(t, 2))))
	if err != nil {
		t.Fatal(err)
	}
	for _, domain := range []cose.Domain{
		cose.DomainMessage, cose.DomainDescriptor, cose.DomainDelegation, cose.DomainReceipt, cose.DomainBallot,
		cose.DomainHandshake, cose.DomainBatch, "",
	} {
		raw := cose.SignStatement(root, id[:], domain, "application/converge-keys", genuine.Payload)
		if _, err := identity.OpenKeys(raw); !errors.Is(err, identity.ErrForgedStatement) {
			t.Errorf("%q: %v", domain, err)
		}
	}
	raw := cose.SignStatement(root, id[:], cose.DomainKeys, "application/converge-message", genuine.Payload)
	if _, err := identity.OpenKeys(raw); !errors.Is(err, identity.ErrForgedStatement) {
		t.Errorf("another typ: %v", err)
	}
}

func TestEverySingleBitFlipOfAStatementIsRefused(t *testing.T) {
	t.Parallel()
	root := fromSeed(t, 1)
	raw := sign(t, root, statement(root, fromSeed(t, 2)))
	for i := range 8 * len(raw) {
		flipped := bytes.Clone(raw)
		flipped[i/8] ^= 1 << (i % 8)
		if s, err := identity.OpenKeys(flipped); err == nil {
			t.Fatalf("bit %d: %+v", i, s)
		}
	}
}

// TestStatementHasOneEncoding has the root key sign other spellings of a statement.
func TestStatementHasOneEncoding(t *testing.T) {
	root := fromSeed(t, 1)
	id := root.ID()
	s := statement(root, fromSeed(t, 2))
	s.Previous, s.Overlap, s.Sealing = nil, 0, nil
	genuine, err := cose.Parse(sign(t, root, s))
	if err != nil {
		t.Fatal(err)
	}
	body, pairs := genuine.Payload[1:], genuine.Payload[0]
	for name, payload := range map[string][]byte{
		"overlap of 0 spelled out": append(append([]byte{pairs + 1}, body...), 10, 0),
		"an unknown field":         append(append([]byte{pairs + 1}, body...), 11, 1),
		"a text as key":            append(append([]byte{pairs + 1}, body...), 0x61, 'x', 1),
		"bytes after the end":      append(bytes.Clone(genuine.Payload), 0),
		"nothing":                  {},
		"an empty map":             {0xa0},
		"an array":                 {0x80},
	} {
		raw := cose.SignStatement(root, id[:], cose.DomainKeys, "application/converge-keys", payload)
		if got, err := identity.OpenKeys(raw); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := identity.OpenKeys(make([]byte, identity.MaxStatement+1)); !errors.Is(err, identity.ErrStatement) {
		t.Errorf("too large: %v", err)
	}
}

func TestTextsThatAreNoStatement(t *testing.T) {
	root := fromSeed(t, 1)
	block := string(identity.EncodeStatement(sign(t, root, statement(root, fromSeed(t, 2)))))
	for name, text := range map[string]string{
		"nothing":     "",
		"prose":       "trust me",
		"two blocks":  block + block,
		"another":     strings.ReplaceAll(block, "CONVERGE KEY STATEMENT", "CERTIFICATE"),
		"with header": strings.Replace(block, "\n", "\nID: x\n\n", 1),
		"huge":        block + strings.Repeat("\n", 20_000),
		"rubbish":     string(identity.EncodeStatement([]byte("rubbish"))),
	} {
		if raw, err := identity.DecodeStatement([]byte(text)); !errors.Is(err, identity.ErrStatement) {
			t.Errorf("%s: %x, %v", name, raw, err)
		}
	}
}

// FuzzOpenKeys holds that nothing is a statement that its root key did not sign, and that a statement has one
// encoding.
func FuzzOpenKeys(f *testing.F) {
	root := fromSeed(f, 1)
	s := statement(root, fromSeed(f, 2))
	signed := map[string]bool{}
	for _, s := range []identity.KeyStatement{
		s,
		changed(s, func(s *identity.KeyStatement) { s.Revoked, s.Sealing = true, nil }),
		changed(s, func(s *identity.KeyStatement) { s.Sequence, s.Previous, s.Overlap = 7, nil, 0 }),
	} {
		raw := sign(f, root, s)
		signed[string(raw)] = true
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := identity.OpenKeys(raw)
		if err != nil {
			return
		}
		if s.ID == root.ID() && !signed[string(raw)] || s.ID != identity.IDOf(s.Root) {
			t.Fatalf("nobody signed %+v", s)
		}
		parsed, err := cose.Parse(raw)
		if err != nil || !ed25519.Verify(s.Root, toBeSigned(parsed), parsed.Signature) {
			t.Fatalf("not signed: %x, %v", raw, err)
		}
		if got := parsed.Append(nil); !bytes.Equal(got, raw) {
			t.Fatalf("%x is another spelling of %x", raw, got)
		}
	})
}

// toBeSigned is the Sig_structure of a statement.
func toBeSigned(s cose.Sign1) []byte {
	b := cose.AppendText(cose.AppendArray(nil, 4), "Signature1")
	b = cose.AppendBytes(cose.AppendBytes(b, s.Protected), []byte("converge/keys/v1"))
	return cose.AppendBytes(b, s.Payload)
}
