package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/converge-agents/converge/internal/keywork"
	"github.com/converge-agents/converge/internal/ondisk"
)

// Errors of key files, to be compared with [errors.Is].
var (
	// ErrPassphraseRequired says that a key file is sealed and no passphrase was given.
	ErrPassphraseRequired = errors.New("key file is sealed: a passphrase is required")
	// ErrPassphrase says that a passphrase does not open the key file.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrExposed says that others than the owner may read or write a key file.
	ErrExposed = errors.New("key file is open to others")
)

const (
	keyBlockType = "PRIVATE KEY" // RFC 5958, as RFC 7468 spells it
	maxKeyFile   = 64 << 10
	// maxScryptWork bounds what a hostile file can make its reader spend.
	maxScryptWork = 20
)

// WriteKeyFile writes an identity to a new file of mode 0600 and syncs it. It never overwrites: if
// path exists, the error wraps [fs.ErrExist].
//
// Without a passphrase the file is a PKCS #8 private key in PEM (RFC 8410), which OpenSSL reads, and, if the
// identity has one, the statement about that key, as [EncodeStatement] writes it. With a passphrase, all
// that is sealed in an armored age file (age-encryption.org/v1: scrypt, ChaCha20-Poly1305), which the age
// command opens.
func WriteKeyFile(path string, id *Identity, passphrase []byte) error {
	return writeKeyFile(path, id, passphrase, keywork.Log2())
}

func writeKeyFile(path string, id *Identity, passphrase []byte, work int) (err error) {
	data, err := encodeKey(id, passphrase, work)
	if err != nil {
		return fmt.Errorf("write key file %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write key file: %w", err), os.Remove(path))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return ondisk.SyncDir(filepath.Dir(path))
}

// ReadKeyFile reads a file that [WriteKeyFile] wrote. A nil or empty passphrase means none; a file
// that needs none ignores it. On Unix it refuses a file that group or others may access in any way,
// naming the chmod that mends it. Errors: [ErrExposed], [ErrPassphraseRequired], [ErrPassphrase].
func ReadKeyFile(path string, passphrase []byte) (*Identity, error) {
	data, err := readPrivate("key file", path)
	if err != nil {
		return nil, err
	}
	id, err := ParseKey(data, passphrase)
	if err != nil {
		return nil, fmt.Errorf("read key file %s: %w", path, err)
	}
	return id, nil
}

// readPrivate returns the bytes of a file that only its owner can access: maxKeyFile at most, and one more if there are
// more. Errors name what is read.
func readPrivate(what, path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = checkMode(path, info)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", what, path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return data, nil
}

func checkMode(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if exposed := info.Mode().Perm() & 0o077; exposed != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%w (mode %04o); run: chmod 600 %q", ErrExposed, info.Mode().Perm(), path)
	}
	return nil
}

// ParseKey reads the contents of a key file. Errors: [ErrPassphraseRequired], [ErrPassphrase]. Opening
// a sealed key takes up to a few seconds and 1 GiB, as its author chose.
func ParseKey(data, passphrase []byte) (*Identity, error) {
	return parseKey(data, passphrase, maxScryptWork)
}

func parseKey(data, passphrase []byte, maxWork int) (*Identity, error) {
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("key file is larger than %d bytes", maxKeyFile)
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(armor.Header)) {
		opened, err := unseal(data, passphrase, maxWork)
		if err != nil {
			return nil, err
		}
		data = opened
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != keyBlockType {
		return nil, fmt.Errorf("not a key file: expected one PEM block %q", keyBlockType)
	}
	id, err := parsePrivate(block)
	if err != nil || len(bytes.TrimSpace(rest)) == 0 {
		return id, err
	}
	raw, err := DecodeStatement(rest)
	if err != nil {
		return nil, fmt.Errorf("not a key file: after the private key: %w", err)
	}
	return id.WithStatement(raw)
}

func parsePrivate(block *pem.Block) (*Identity, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a key file: the PEM block is no PKCS #8 private key")
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is a %T; Converge uses Ed25519 keys", parsed)
	}
	return fromPrivate(private), nil
}

func encodeKey(id *Identity, passphrase []byte, work int) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.private())
	if err != nil {
		return nil, err
	}
	plain := pem.EncodeToMemory(&pem.Block{Type: keyBlockType, Bytes: der})
	if id.statement != "" {
		plain = append(plain, EncodeStatement(id.Statement())...)
	}
	if len(passphrase) == 0 {
		return plain, nil
	}
	return seal(plain, passphrase, work)
}

func seal(plain, passphrase []byte, work int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(string(passphrase))
	if err != nil {
		return nil, err
	}
	recipient.SetWorkFactor(work)
	var sealed bytes.Buffer
	armored := armor.NewWriter(&sealed)
	w, err := age.Encrypt(armored, recipient)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	if err := errors.Join(err, w.Close(), armored.Close()); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

func unseal(sealed, passphrase []byte, maxWork int) ([]byte, error) {
	if len(passphrase) == 0 {
		return nil, ErrPassphraseRequired
	}
	opener, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	opener.SetMaxWorkFactor(maxWork)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), opener)
	if noMatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &noMatch) {
		if !slices.Contains(noMatch.StanzaTypes, "scrypt") {
			return nil, errors.New("key file is sealed, but not with a passphrase")
		}
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("sealed key file is damaged: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("sealed key file is damaged: %w", err)
	}
	return plain, nil
}
