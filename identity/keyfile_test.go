package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// testWork is a scrypt work factor that costs next to nothing.
const testWork = 2

var testPassphrase = []byte("correct horse battery staple")

// The first example of RFC 8410, section 10.3, and the public key of section 10.1.
const (
	rfc8410Seed   = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842"
	rfc8410Public = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
	rfc8410Key    = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
`
	// The second example carries attributes and the public key (RFC 5958, version 2).
	rfc8410KeyV2 = `-----BEGIN PRIVATE KEY-----
MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB
Z9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PRIVATE KEY-----
`
)

func TestKeyFileIsTheKeyOfRFC8410(t *testing.T) {
	seed, err := hex.DecodeString(rfc8410Seed)
	if err != nil {
		t.Fatal(err)
	}
	id, err := FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(id.PublicKey()); got != rfc8410Public {
		t.Errorf("public key is %s", got)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteKeyFile(path, id, nil); err != nil {
		t.Fatal(err)
	}
	if written := readFile(t, path); string(written) != rfc8410Key {
		t.Errorf("written:\n%s", written)
	}
	for _, text := range []string{rfc8410Key, rfc8410KeyV2} {
		parsed, err := ParseKey([]byte(text), nil)
		if err != nil || parsed.ID() != id.ID() {
			t.Errorf("parsing the RFC's key: %v, %v\n%s", parsed, err, text)
		}
	}
}

func TestKeyFileRoundTrip(t *testing.T) {
	for name, passphrase := range map[string][]byte{"plain": nil, "sealed": testPassphrase} {
		t.Run(name, func(t *testing.T) {
			id := generate(t)
			path := filepath.Join(t.TempDir(), "key")
			if err := writeKeyFile(path, id, passphrase, testWork); err != nil {
				t.Fatal(err)
			}
			read, err := ReadKeyFile(path, passphrase)
			if err != nil {
				t.Fatal(err)
			}
			if read.ID() != id.ID() || !bytes.Equal(read.Sign(nil), id.Sign(nil)) {
				t.Errorf("wrote %v, read %v", id, read)
			}
			if data := readFile(t, path); (passphrase != nil) == bytes.Contains(data, []byte("PRIVATE KEY")) {
				t.Errorf("the file is\n%s", data)
			}
		})
	}
}

func TestHostileWorkFactorIsRefused(t *testing.T) {
	sealed, err := encodeKey(generate(t), testPassphrase, testWork)
	if err != nil {
		t.Fatal(err)
	}
	hostile := bytes.Replace(unarmor(t, sealed), []byte(" 2\n"), []byte(" 21\n"), 1)
	if _, err := ParseKey(rearmor(hostile), testPassphrase); err == nil || !strings.Contains(err.Error(), "too large: 21") {
		t.Errorf("%v", err)
	}
}

func TestPlainKeyFileIgnoresThePassphrase(t *testing.T) {
	if _, err := ParseKey([]byte(rfc8410Key), testPassphrase); err != nil {
		t.Error(err)
	}
}

func TestKeyFileIsNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	id := generate(t)
	file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
	link, dangling := filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	err := errors.Join(
		os.WriteFile(file, []byte("precious"), 0o600), os.Mkdir(folder, 0o700),
		os.Symlink(file, link), os.Symlink(filepath.Join(dir, "nowhere"), dangling))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, folder, link, dangling} {
		if err := WriteKeyFile(path, id, nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
	if got := readFile(t, file); string(got) != "precious" {
		t.Errorf("the file holds %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key went through a dangling link: %v", err)
	}
}

func TestKeyFileInAMissingFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "key")
	if err := WriteKeyFile(path, generate(t), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a missing folder: %v", err)
	}
}

func TestMissingKeyFile(t *testing.T) {
	if _, err := ReadKeyFile(filepath.Join(t.TempDir(), "key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestDirectoryIsNoKeyFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFile(dir, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}

func TestKeyFileBehindALinkIsRead(t *testing.T) {
	dir := t.TempDir()
	id := generate(t)
	err := errors.Join(
		WriteKeyFile(filepath.Join(dir, "key"), id, nil),
		os.Symlink(filepath.Join(dir, "key"), filepath.Join(dir, "link")))
	if err != nil {
		t.Fatal(err)
	}
	if read, err := ReadKeyFile(filepath.Join(dir, "link"), nil); err != nil || read.ID() != id.ID() {
		t.Errorf("read %v, %v", read, err)
	}
}

func TestSealedKeyNeedsItsPassphrase(t *testing.T) {
	data, err := encodeKey(generate(t), testPassphrase, testWork)
	if err != nil {
		t.Fatal(err)
	}
	for _, passphrase := range [][]byte{nil, {}} {
		if _, err := ParseKey(data, passphrase); !errors.Is(err, ErrPassphraseRequired) {
			t.Errorf("without one: %v", err)
		}
	}
	for _, wrong := range []string{"x", "Correct horse battery staple", string(testPassphrase) + "\n"} {
		if _, err := ParseKey(data, []byte(wrong)); !errors.Is(err, ErrPassphrase) {
			t.Errorf("with %q: %v", wrong, err)
		}
	}
}

func TestKeySealedWithoutPassphraseIsNamedSo(t *testing.T) {
	recipient, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	armored := armor.NewWriter(&sealed)
	w, err := age.Encrypt(armored, recipient.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte(rfc8410Key))
	if err := errors.Join(err, w.Close(), armored.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = ParseKey(sealed.Bytes(), testPassphrase)
	if err == nil || errors.Is(err, ErrPassphrase) {
		t.Errorf("%v", err)
	}
}

func TestTruncatedKeyIsRefused(t *testing.T) {
	sealed, err := encodeKey(generate(t), testPassphrase, testWork)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": []byte(rfc8410Key), "sealed": sealed} {
		whole := len(bytes.TrimSpace(data))
		for size := range whole {
			if _, err := ParseKey(data[:size], testPassphrase); err == nil {
				t.Errorf("%s: accepted %d of %d bytes", name, size, len(data))
			}
		}
	}
}

// TestDamagedSealedKeyIsRefused flips a bit in every byte of what the armor holds.
func TestDamagedSealedKeyIsRefused(t *testing.T) {
	sealed, err := encodeKey(generate(t), testPassphrase, testWork)
	if err != nil {
		t.Fatal(err)
	}
	whole := unarmor(t, sealed)
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		if _, err := parseKey(rearmor(damaged), testPassphrase, testWork+2); err == nil {
			t.Errorf("accepted with byte %d of %d flipped", i, len(damaged))
		}
	}
}

func TestOversizedKeyFileIsRefused(t *testing.T) {
	big := []byte(rfc8410Key + strings.Repeat("\n", maxKeyFile))
	if _, err := ParseKey(big, nil); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("parse: %v", err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeyFile(path, nil); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("read: %v", err)
	}
}

func TestOtherKindsOfKeysAreRefusedByName(t *testing.T) {
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	xKey, err3 := ecdh.X25519().GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.PrivateKey{
		"*rsa.PrivateKey": rsaKey, "*ecdsa.PrivateKey": ecKey, "*ecdh.PrivateKey": xKey,
	} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		data := pem.EncodeToMemory(&pem.Block{Type: keyBlockType, Bytes: der})
		if _, err := ParseKey(data, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestWhatIsNoKeyIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"text":          "hello",
		"another block": strings.ReplaceAll(rfc8410Key, "PRIVATE", "PUBLIC"),
		"PKCS #1 block": strings.ReplaceAll(rfc8410Key, "PRIVATE", "RSA PRIVATE"),
		"two keys":      rfc8410Key + rfc8410Key,
		"text behind":   rfc8410Key + "hello",
		"not DER":       "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"empty block":   "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
		"empty armor":   armor.Header + "\n" + armor.Footer + "\n",
		"armored text":  armor.Header + "\naGVsbG8=\n" + armor.Footer + "\n",
	} {
		if id, err := ParseKey([]byte(text), testPassphrase); err == nil {
			t.Errorf("%s: accepted as %v", name, id)
		} else if errors.Is(err, ErrPassphrase) || errors.Is(err, ErrPassphraseRequired) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsOfDamagedKeysShowNothingOfThem(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString([]byte("the secret of the key"))
	_, err := ParseKey([]byte("-----BEGIN PRIVATE KEY-----\n"+secret+"\n-----END PRIVATE KEY-----\n"), nil)
	if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), secret) {
		t.Errorf("%v", err)
	}
}

func FuzzParseKey(f *testing.F) {
	id := generate(f)
	for _, passphrase := range [][]byte{nil, testPassphrase} {
		data, err := encodeKey(id, passphrase, testWork)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, passphrase)
		f.Add(data, []byte("wrong"))
		f.Add(data[:len(data)/2], passphrase)
		f.Add(append(data, data...), passphrase)
	}
	f.Add([]byte(rfc8410KeyV2), []byte(nil))
	f.Add([]byte(armor.Header+"\n"+armor.Footer), testPassphrase)
	f.Fuzz(func(t *testing.T, data, passphrase []byte) {
		// The product allows work that takes seconds; a fuzzer must not choose it.
		id, err := parseKey(data, passphrase, testWork+2)
		if err != nil {
			return
		}
		encoded, err := encodeKey(id, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseKey(encoded, nil)
		if err != nil || again.ID() != id.ID() {
			t.Fatalf("%v becomes %v, %v", id, again, err)
		}
	})
}

// unarmor returns the age file in the armor, which is PEM.
func unarmor(t *testing.T, sealed []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(sealed)
	if block == nil {
		t.Fatalf("no armor:\n%s", sealed)
	}
	return block.Bytes
}

func rearmor(file []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "AGE ENCRYPTED FILE", Bytes: file})
}

func generate(t testing.TB) *Identity {
	t.Helper()
	id, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSealedKeyFileKeepsTheStatement seals the operational key and its statement together.
func TestSealedKeyFileKeepsTheStatement(t *testing.T) {
	root, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	working, err := root.Rotate(Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encodeKey(working, testPassphrase, testWork)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("STATEMENT")) {
		t.Error("the statement is outside")
	}
	opened, err := ParseKey(sealed, testPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	if opened.ID() != root.ID() || opened.Epoch() != 1 || !bytes.Equal(opened.Statement(), working.Statement()) || !opened.PublicKey().Equal(working.PublicKey()) {
		t.Errorf("%v, epoch %d", opened, opened.Epoch())
	}
}
