package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/ondisk"
)

// A file of sealing keys is one PEM block around one CBOR array, deterministically encoded: the version, and the
// keys, the current one first, each an array of suite, private key, and the milliseconds since 1970 when it
// was made and when it was replaced (0 for the current one).
const (
	sealingBlockType   = "CONVERGE SEALING KEYS"
	sealingFileVersion = 1
	sealingSecretSize  = 32
	maxSealingMillis   = 253402300799999 // the end of the year 9999
)

// ErrSealingFile says that a file of sealing keys is not one, or is damaged.
var ErrSealingFile = errors.New("not a file of sealing keys, or damaged")

// ErrSealingFileTaken says that somebody else has written the file: keys that others seal to could be lost.
var ErrSealingFileTaken = errors.New("the file of sealing keys was written by somebody else")

type digest = [sha256.Size]byte

// load reads the keys from the file, if there is one.
func (k *SealingKeys) load() error {
	if k.config.Path == "" {
		return nil
	}
	data, err := readSealingFile(k.config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if k.keys, err = parseSealingKeys(data); err != nil {
		return fmt.Errorf("read sealing keys %s: %w", k.config.Path, err)
	}
	k.file = sha256.Sum256(data)
	return nil
}

// readSealingFile returns the bytes of a file of sealing keys.
func readSealingFile(path string) ([]byte, error) {
	data, err := readPrivate("sealing keys", path)
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("read sealing keys %s: %w: larger than %d bytes", path, ErrSealingFile, maxKeyFile)
	}
	return data, err
}

// save replaces the file in one step, unless another process has.
func (k *SealingKeys) save(keys []heldKey) error {
	if k.config.Path == "" {
		return nil
	}
	if err := k.checkFile(); err != nil {
		return fmt.Errorf("write sealing keys %s: %w", k.config.Path, err)
	}
	data, err := encodeSealingKeys(keys)
	if err == nil {
		err = ondisk.Replace(k.config.Path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write sealing keys %s: %w", k.config.Path, err)
	}
	k.file = sha256.Sum256(data)
	return nil
}

// checkFile reports whether the file is as k left it.
func (k *SealingKeys) checkFile() error {
	data, err := readSealingFile(k.config.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && sha256.Sum256(data) != k.file {
		err = fmt.Errorf("%w: give each agent and process a file of its own", ErrSealingFileTaken)
	}
	return err
}

func encodeSealingKeys(keys []heldKey) ([]byte, error) {
	b := cose.AppendUint(cose.AppendArray(nil, 2), sealingFileVersion)
	b = cose.AppendArray(b, len(keys))
	for _, held := range keys {
		secret, err := held.private().Bytes()
		if err != nil {
			return nil, err
		}
		b = cose.AppendUint(cose.AppendArray(b, 4), uint64(held.public.suite))
		b = cose.AppendBytes(b, secret)
		b = cose.AppendInt(b, held.created.UnixMilli())
		b = cose.AppendInt(b, millisOf(held.retired))
	}
	return pem.EncodeToMemory(&pem.Block{Type: sealingBlockType, Bytes: b}), nil
}

func millisOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// parseSealingKeys accepts exactly what encodeSealingKeys writes. Its errors never tell what it read.
func parseSealingKeys(data []byte) ([]heldKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != sealingBlockType || len(rest) > 0 {
		return nil, fmt.Errorf("%w: expected one PEM block %q", ErrSealingFile, sealingBlockType)
	}
	r := cose.NewReader(block.Bytes)
	if r.Array() != 2 {
		r.Fail(ErrSealingFile)
	}
	if version := r.Uint(); r.Err() == nil && version != sealingFileVersion {
		return nil, fmt.Errorf("%w: version %d, where this program knows %d", ErrSealingFile, version, sealingFileVersion)
	}
	n := r.Array()
	if n < 1 || n > MaxSealingKeys {
		r.Fail(ErrSealingFile)
	}
	var keys []heldKey
	for i := 0; i < n && r.Err() == nil; i++ {
		keys = append(keys, readHeldKey(&r, i == 0))
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealingFile, err)
	}
	if again, err := encodeSealingKeys(keys); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: not as it was written", ErrSealingFile)
	}
	return keys, nil
}

// readHeldKey reads one key; the first, and only the first, is current.
func readHeldKey(r *cose.Reader, first bool) heldKey {
	if r.Array() != 4 {
		r.Fail(ErrSealingFile)
	}
	suite, secret := r.Uint(), r.Bytes()
	created, retired := r.Int(), r.Int()
	if suite >= uint64(len(suiteOf)) || len(secret) != sealingSecretSize || first != (retired == 0) ||
		created <= 0 || created > maxSealingMillis || retired < 0 || retired > maxSealingMillis {
		r.Fail(ErrSealingFile)
		return heldKey{}
	}
	key, err := SealingKeyFrom(SealingSuite(suite), secret)
	if err != nil {
		r.Fail(err)
		return heldKey{}
	}
	held := heldKey{SealingKey: key, created: time.UnixMilli(created)}
	if !first {
		held.retired = time.UnixMilli(retired)
	}
	return held
}
