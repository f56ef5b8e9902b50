package message_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// The label and the texts of sealing, spelled out once more.
const (
	labelSealing int64 = -65545
	sealInfo           = "converge/seal/v1"
)

// testKey is a sealing key that is made of its first byte.
type testKey struct {
	suite identity.SealingSuite
	seed  byte
}

// The sealing keys of the cast.
var (
	bobX        = testKey{identity.X25519, 0xb2}
	bobHybrid   = testKey{identity.MLKEM768X25519, 0xb3}
	carolX      = testKey{identity.X25519, 0xc2}
	carolHybrid = testKey{identity.MLKEM768X25519, 0xc3}
)

func (k testKey) secret() []byte { return bytes.Repeat([]byte{k.seed}, 32) }

func (k testKey) public() identity.PublicSealingKey {
	return must(identity.SealingKeyFrom(k.suite, k.secret())).Public()
}

// hpke returns the same key without the code that is tested.
func (k testKey) hpke() hpke.PrivateKey {
	kem := hpke.DHKEM(ecdh.X25519())
	if k.suite == 1 {
		kem = hpke.MLKEM768X25519()
	}
	return must(kem.NewPrivateKey(k.secret()))
}

// id is what docs/wire.md says.
func (k testKey) id() []byte {
	return digest([]byte{byte(k.suite)}, k.hpke().PublicKey().Bytes())[:16]
}

// ring returns sealing keys that hold some of the cast's, the current one first.
func ring(t testing.TB, c *clock, keys ...testKey) *identity.SealingKeys {
	t.Helper()
	var entries []any
	for i, key := range keys {
		retired := int64(0)
		if i > 0 {
			retired = noon.UnixMilli()
		}
		entries = append(entries, []any{uint8(key.suite), must(key.hpke().Bytes()), noon.UnixMilli(), retired})
	}
	block := &pem.Block{Type: "CONVERGE SEALING KEYS", Bytes: must(core.Marshal([]any{1, entries}))}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: keys[0].suite, Path: path, Now: c.Now}))
}

// recipients is a source of sealing keys.
type recipients map[identity.ID]testKey

func (r recipients) SealingKey(id identity.ID) (identity.PublicSealingKey, error) {
	key, ok := r[id]
	if !ok {
		return identity.PublicSealingKey{}, identity.ErrNoSealingKey
	}
	return key.public(), nil
}

// bothX has Bob and Carol use the quicker suite.
var bothX = recipients{bob.ID(): bobX, carol.ID(): carolX}

// newSealer returns a signer of Alice that knows recipients' keys.
func newSealer(c *clock, to message.SealingKeySource, edits ...func(*message.SignerConfig)) *message.Signer {
	config := message.SignerConfig{Identity: alice, Network: network, Now: c.Now, Recipients: to}
	for _, edit := range edits {
		edit(&config)
	}
	return must(message.NewSigner(config))
}

// newOpener returns a verifier of self that holds sealing keys.
func newOpener(t testing.TB, self *identity.Identity, c *clock, keys ...testKey) *message.Verifier {
	t.Helper()
	return configured(message.VerifierConfig{Self: self.ID(), Now: c.Now, Sealing: ring(t, c, keys...)}, ">")
}

// contentSecret is what the hand below seals bodies to several with.
var contentSecret = bytes.Repeat([]byte{0x5e}, 32)

func expand(secret []byte, info string) []byte {
	return must(hkdf.Expand(sha256.New, secret, info, 32))
}

// sealEntry seals the start of a recipient's array by hand, and returns the sender that goes on.
func sealEntry(key testKey) ([]any, *hpke.Sender) {
	public := key.hpke().PublicKey()
	encapsulated, sender, err := hpke.NewSender(public, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(sealInfo))
	if err != nil {
		panic(err)
	}
	return []any{uint8(key.suite), key.id(), encapsulated}, sender
}

// criticalSealing makes value the sealing header.
func (e *envelope) criticalSealing(value any) {
	e.header[labelCrit], e.header[labelSealing] = []int64{labelSealing}, must(core.Marshal(value))
}

// sealed seals the body by hand, as docs/wire.md says. Whatever else is to be changed has to be before, as
// the header is additional data.
func sealed(keys ...testKey) func(*envelope) {
	return func(e *envelope) {
		if len(keys) == 1 {
			entry, sender := sealEntry(keys[0])
			e.criticalSealing(entry)
			e.body = must(sender.Seal(e.protected(), e.body))
			return
		}
		secrets := make([][]byte, len(keys))
		for i := range secrets {
			secrets[i] = contentSecret
		}
		e.sealedWith(keys, secrets)
	}
}

// sealedWith seals to several, each of whom gets a secret of its own; the body is sealed with the first.
func (e *envelope) sealedWith(keys []testKey, secrets [][]byte) {
	commitment := expand(secrets[0], sealInfo+" commitment")
	var entries [][]any
	for i, key := range keys {
		entry, sender := sealEntry(key)
		entries = append(entries, append(entry, must(sender.Seal(commitment, secrets[i]))))
	}
	slices.SortFunc(entries, func(a, b []any) int { return bytes.Compare(a[1].([]byte), b[1].([]byte)) })
	e.criticalSealing([]any{commitment, entries})
	aead := must(chacha20poly1305.New(expand(secrets[0], sealInfo+" body")))
	e.body = aead.Seal(nil, make([]byte, 12), e.body, e.protected())
}

// openByHand opens a frame as docs/wire.md says, without the code that is tested.
func openByHand(t testing.TB, raw []byte, key testKey) []byte {
	t.Helper()
	var parts []any
	if err := strict.Unmarshal(raw[1:], &parts); err != nil {
		t.Fatal(err)
	}
	protected, ciphertext := parts[0].([]byte), parts[2].([]byte)
	var header map[any]any
	if err := strict.Unmarshal(protected, &header); err != nil {
		t.Fatal(err)
	}
	var value []any
	if err := strict.Unmarshal(header[labelSealing].([]byte), &value); err != nil {
		t.Fatal(err)
	}
	open := func(encapsulated, aad, ciphertext []byte) []byte {
		r := must(hpke.NewRecipient(encapsulated, key.hpke(), hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(sealInfo)))
		return must(r.Open(aad, ciphertext))
	}
	if len(value) == 3 {
		return open(value[2].([]byte), protected, ciphertext)
	}
	commitment := value[0].([]byte)
	for _, entry := range value[1].([]any) {
		if item := entry.([]any); bytes.Equal(item[1].([]byte), key.id()) {
			secret := open(item[2].([]byte), commitment, item[3].([]byte))
			if !bytes.Equal(expand(secret, sealInfo+" commitment"), commitment) {
				t.Fatal("the commitment is to another secret")
			}
			return must(must(chacha20poly1305.New(expand(secret, sealInfo+" body"))).Open(nil, make([]byte, 12), ciphertext, protected))
		}
	}
	t.Fatalf("%x is not sealed to %x", raw, key.id())
	return nil
}
