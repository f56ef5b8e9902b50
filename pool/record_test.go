package pool

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

var (
	owner   = mustID(1)
	member  = mustID(2)
	mallory = mustID(66)
	noon    = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

func mustID(seed byte) *identity.Identity {
	id, err := identity.FromSeed(bytes.Repeat([]byte{seed}, 32))
	if err != nil {
		panic(err)
	}
	return id
}

// described returns definitions in which every field is set in one of them.
func described(by *identity.Identity) (all []*Definition) {
	listed := sortedSet([]identity.ID{member.ID(), mallory.ID()}, compareIDs)
	for _, s := range []Spec{
		{Admission: Open, Topics: []string{"a", "b.c"}, Trust: 0.1, Governance: "majority"},
		{Admission: Allowlist, Allowlist: listed},
		{Admission: ByToken, Trust: 1},
		{Admission: Custom, Custom: "staff"},
	} {
		s.Name, s.MaxMembers = "painters/of@rome", 100
		d := &Definition{
			Spec: s, Network: "test", Owner: by.ID(), OwnerKey: by.PublicKey(), Sequence: 1 << 40,
			Created: noon, Issued: noon.Add(time.Second), Expelled: []identity.ID{{9}}, Dissolved: s.Admission == Custom,
		}
		if s.Admission == ByToken {
			d.salt, d.tokenKey = bytes.Repeat([]byte{7}, saltSize), bytes.Repeat([]byte{8}, tokenKeySize)
		}
		all = append(all, d)
	}
	return all
}

func said(by *identity.Identity) (all []*Membership) {
	for _, m := range []Membership{{}, {Left: true}, {proof: bytes.Repeat([]byte{5}, proofSize)}} {
		m.Pool, m.Owner, m.Network = "painters", owner.ID(), "test"
		m.Member, m.Key, m.Sequence, m.Issued = by.ID(), by.PublicKey(), 3, noon
		all = append(all, &m)
	}
	return all
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, d := range described(owner) {
		raw, err := d.sign(owner)
		if err != nil {
			t.Fatal(err)
		}
		back, err := openDefinition(raw, verifySignature)
		if err != nil || fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", d) {
			t.Errorf("%+v comes back as %+v, %v", d, back, err)
		}
	}
	for _, m := range said(member) {
		raw, err := m.sign(member)
		if err != nil {
			t.Fatal(err)
		}
		back, err := openMembership(raw, verifySignature)
		if err != nil || fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", m) {
			t.Errorf("%+v comes back as %+v, %v", m, back, err)
		}
	}
}

func TestNobodySignsForSomebodyElse(t *testing.T) {
	t.Parallel()
	if _, err := described(owner)[0].sign(mallory); !errors.Is(err, ErrInvalid) {
		t.Errorf("a definition: %v", err)
	}
	m := said(member)[0]
	if _, err := m.sign(mallory); !errors.Is(err, ErrInvalid) {
		t.Errorf("a membership: %v", err)
	}
}

// TestRecordsOfOperationalKeysNameTheirStatement puts other statements in the place of that of the key that signed.
func TestRecordsOfOperationalKeysNameTheirStatement(t *testing.T) {
	t.Parallel()
	working, err := member.Rotate(identity.Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	m := said(member)[0]
	raw, err := m.sign(working)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := openMembership(raw, verifySignature); err != nil || back.Member != member.ID() || back.epoch != 1 {
		t.Fatalf("%+v, %v", back, err)
	}
	other, err := mallory.Rotate(identity.Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := member.Rotate(identity.Rotation{}) // another key of the same epoch
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Membership){
		"another agent's statement": func(m *Membership) { m.statement = other.Statement() },
		"another key's statement":   func(m *Membership) { m.statement = again.Statement() },
		"another epoch":             func(m *Membership) { m.epoch = 2 },
		"garbage":                   func(m *Membership) { m.statement = []byte("garbage") },
	} {
		forged := *m
		change(&forged)
		raw := cose.SignStatement(working, forged.Member[:], cose.DomainMember, membershipTyp, forged.payload())
		if _, err := openMembership(raw, verifySignature); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	byRoot := *m // the root key is not that of epoch 1
	raw = cose.SignStatement(member, byRoot.Member[:], cose.DomainMember, membershipTyp, byRoot.payload())
	if _, err := openMembership(raw, verifySignature); !errors.Is(err, ErrForged) {
		t.Errorf("signed by the root key: %v", err)
	}
	for name, change := range map[string]func(*Membership){
		"no statement": func(m *Membership) { m.statement = nil }, "no epoch": func(m *Membership) { m.epoch = 0 },
	} {
		broken := *m
		change(&broken)
		raw := cose.SignStatement(working, broken.Member[:], cose.DomainMember, membershipTyp, broken.payload())
		if _, err := openMembership(raw, verifySignature); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fields returns what is in a payload, as a library reads it.
func fields(t testing.TB, payload []byte) map[int]any {
	t.Helper()
	var all map[int]any
	if err := cbor.Unmarshal(payload, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func encode(t testing.TB, all map[int]any) []byte {
	t.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := mode.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestBadRecordsOfTheirOwnersAreRefused: whoever signs may sign anything.
func TestBadRecordsOfTheirOwnersAreRefused(t *testing.T) {
	t.Parallel()
	definition, word := described(owner)[0].payload(), said(member)[0].payload()
	for what, change := range map[string]func(map[int]any){
		"newer version":           func(f map[int]any) { f[1] = 2; f[99] = "of the future" },
		"version 0":               func(f map[int]any) { f[1] = 0 },
		"no version":              func(f map[int]any) { delete(f, 1) },
		"another type of version": func(f map[int]any) { f[1] = "1" },
		"unknown field":           func(f map[int]any) { f[23] = 1 },
		"a zero that is spelled":  func(f map[int]any) { f[18] = 0 },
		"a bool that is no 1":     func(f map[int]any) { f[18] = 2 },
		"bad name":                func(f map[int]any) { f[4] = "a b" },
		"no network":              func(f map[int]any) { delete(f, 2) },
		"no admission":            func(f map[int]any) { delete(f, 9) },
		"admission 5":             func(f map[int]any) { f[9] = 5 },
		"admission 257":           func(f map[int]any) { f[9] = 257 },
		"trust NaN":               func(f map[int]any) { f[14] = uint64(0x7ff8000000000001) },
		"trust 2":                 func(f map[int]any) { f[14] = uint64(0x4000000000000000) },
		"trust -0":                func(f map[int]any) { f[14] = uint64(1 << 63) },
		"no seats":                func(f map[int]any) { delete(f, 16) },
		"too many seats":          func(f map[int]any) { f[16] = uint64(1)<<32 + 1 },
		"short ID":                func(f map[int]any) { f[17] = [][]byte{{1, 2}} },
		"long ID":                 func(f map[int]any) { f[17] = [][]byte{make([]byte, 33)} },
		"IDs out of order":        func(f map[int]any) { f[17] = [][]byte{bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{1}, 32)} },
		"owner expelled":          func(f map[int]any) { id := owner.ID(); f[17] = [][]byte{id[:]} },
		"topics out of order":     func(f map[int]any) { f[8] = []string{"b", "a"} },
		"token of an open pool":   func(f map[int]any) { f[11], f[12] = make([]byte, 16), make([]byte, 32) },
		"token without salt":      func(f map[int]any) { f[9] = 3; f[12] = make([]byte, 32) },
	} {
		f := fields(t, definition)
		change(f)
		id := owner.ID()
		raw := cose.SignStatement(owner, id[:], cose.DomainPool, definitionTyp, encode(t, f))
		_, err := openDefinition(raw, verifySignature)
		if !errors.Is(err, ErrRecord) || errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
		if newer := what == "newer version"; newer != (err != nil && strings.Contains(err.Error(), "newer version")) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(map[int]any){
		"newer version": func(f map[int]any) { f[1] = 2 },
		"no owner":      func(f map[int]any) { delete(f, 5) },
		"short proof":   func(f map[int]any) { f[9] = []byte{1} },
		"unknown field": func(f map[int]any) { f[10] = 1 },
		"bad name":      func(f map[int]any) { f[4] = strings.Repeat("x", MaxName+1) },
	} {
		f := fields(t, word)
		change(f)
		id := member.ID()
		raw := cose.SignStatement(member, id[:], cose.DomainMember, membershipTyp, encode(t, f))
		if _, err := openMembership(raw, verifySignature); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEachByteOfARecordCounts(t *testing.T) {
	t.Parallel()
	raw, err := said(member)[0].sign(member)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		flipped := bytes.Clone(raw)
		flipped[i] ^= 1 << (i % 8)
		if m, err := openMembership(flipped, verifySignature); err == nil {
			t.Errorf("with a bit of byte %d flipped it says %+v", i, m)
		}
	}
	for n := range raw {
		if _, err := openMembership(raw[:n], verifySignature); err == nil {
			t.Errorf("the first %d bytes are taken for a record", n)
		}
	}
}

// FuzzOpen has no secret key, so it must never get a record accepted that is not, byte for byte, one that was
// signed. The input also serves as a payload that a hostile agent signs itself: what is accepted of that is
// what the program would have written, and speaks for nobody else.
func FuzzOpen(f *testing.F) {
	genuine := map[string]bool{}
	add := func(raw []byte, err error, payload []byte) {
		if err != nil {
			f.Fatal(err)
		}
		genuine[string(raw)] = true
		f.Add(raw)
		f.Add(payload)
	}
	for _, d := range described(owner) {
		raw, err := d.sign(owner)
		add(raw, err, described(mallory)[0].payload())
	}
	for _, m := range said(member) {
		raw, err := m.sign(member)
		add(raw, err, said(mallory)[0].payload())
	}
	for _, d := range described(mallory) {
		f.Add(d.payload())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := openDefinition(data, verifySignature)
		m, err2 := openMembership(data, verifySignature)
		if (err == nil || err2 == nil) && !genuine[string(data)] {
			t.Fatalf("%x: accepted as %+v or %+v, which nobody signed", data, d, m)
		}
		for _, err := range []error{err, err2} {
			if err != nil && !errors.Is(err, ErrRecord) && !errors.Is(err, ErrForged) {
				t.Fatalf("%x: %v", data, err)
			}
		}
		id := mallory.ID()
		raw := cose.SignStatement(mallory, id[:], cose.DomainPool, definitionTyp, data)
		if d, err := openDefinition(raw, verifySignature); err == nil {
			again, err := d.sign(mallory)
			if d.Owner != id || err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("%x: signed again it is %x, %v", raw, again, err)
			}
		}
		raw = cose.SignStatement(mallory, id[:], cose.DomainMember, membershipTyp, data)
		if m, err := openMembership(raw, verifySignature); err == nil {
			again, err := m.sign(mallory)
			if m.Member != id || err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("%x: signed again it is %x, %v", raw, again, err)
			}
		}
	})
}

// FuzzTopic: what is split is what was joined.
func FuzzTopic(f *testing.F) {
	f.Add("painters", "a.b", "pool.painters.a.b")
	f.Add("_/", "x", "pool._5F_2F.x")
	f.Add(".", "x", "pool._.x")
	f.Fuzz(func(t *testing.T, name, topic, namespace string) {
		if joined, err := Topic(name, topic); err == nil {
			n, p, ok := splitTopic(joined.Namespace())
			if !ok || n != name || p != topic || !inSpace(joined.Namespace()) {
				t.Errorf("%s of %s is split into %q and %q", joined, name, n, p)
			}
		}
		if n, p, ok := splitTopic(namespace); ok && "pool."+escape(n)+"."+p != namespace {
			t.Errorf("%q is split into %q and %q", namespace, n, p)
		}
	})
}
