package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// A file is the line below and then frames: four bytes with the length of a record, four with the CRC-32C of these,
// the record, and the chain's hash, which is SHA-256 of the hash before and the record. A record is an array in
// deterministic CBOR of a version, a type, and what the type has. The checksum tells a length that was changed from a
// frame that was cut short when a process was killed.
const (
	magic   = "converge audit 1\n"
	version = 1
	newest  = 2 // of headers of files whose log has had other keys: programs that know only version 1 refuse these

	typeHeader     = 1 // [1, 1, {…}] or [2, 1, {…}], first in a file
	typeReceipt    = 2 // [1, 2, sequence, {…}]
	typeCheckpoint = 3 // [1, 3, COSE_Sign1]

	headSize  = 8                      // of a frame, before its record
	frameSize = headSize + sha256.Size // of a frame, besides its record
)

// checkpointTyp is the typ of a signed checkpoint.
const checkpointTyp = "application/converge-audit-checkpoint"

// chain is the hash that a record has after the one before it.
func chain(before *[32]byte, record []byte) (h [32]byte) {
	s := sha256.New()
	s.Write(before[:])
	s.Write(record)
	s.Sum(h[:0])
	return h
}

// beginFrame leaves room for a frame's length, and endFrame fills it in and adds the hash, which it moves on.
func beginFrame(buf []byte) (out []byte, start int) {
	return append(buf, make([]byte, headSize)...), len(buf)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func endFrame(buf []byte, start int, head *[32]byte) []byte {
	record := buf[start+headSize:]
	length := buf[start : start+4]
	binary.BigEndian.PutUint32(length, uint32(len(record)))
	binary.BigEndian.PutUint32(buf[start+4:], crc32.Checksum(length, castagnoli))
	*head = chain(head, record)
	return append(buf, head[:]...)
}

// header is the first record of a file.
type header struct {
	log      [16]byte // random; of all files of a log
	key      []byte   // Ed25519; its SHA-256 is the key's ID
	network  string
	file     uint64   // its number, from 1
	first    uint64   // sequence number of its first receipt
	previous [32]byte // the last hash of the file before; zero for the first
	created  int64    // nanoseconds since 1970
	changes  [][]byte // of the key, signed, from the first one on; in version 2 only, where there is one
}

func (h *header) version() uint64 {
	if len(h.changes) > 0 {
		return newest
	}
	return version
}

func (h *header) append(buf []byte) []byte {
	buf = cose.AppendUint(cose.AppendUint(cose.AppendArray(buf, 3), h.version()), typeHeader)
	w := cose.NewMapWriter(buf)
	w.Bytes(1, h.log[:])
	w.Bytes(2, h.key)
	w.Text(3, h.network)
	w.Uint(4, h.file)
	w.Uint(5, h.first)
	writeHash(&w, 6, &h.previous)
	w.Int(7, h.created)
	w.Array(8, len(h.changes), func(b []byte, i int) []byte { return cose.AppendBytes(b, h.changes[i]) })
	return w.End()
}

func (h *header) keyID() identity.ID { return identity.IDOf(h.key) }

var (
	errHeader  = errors.New("it is not the header of an audit file")
	errType    = errors.New("it is a record of another type than may be here")
	errVersion = fmt.Errorf("it is of a newer version than %d, the newest that this program knows", newest)
)

// open reads the beginning of a record.
func open(record []byte) (r cose.Reader, kind uint64, err error) {
	r = cose.NewReader(record)
	n, v := r.Array(), r.Uint()
	if r.Err() == nil && v > newest {
		return r, 0, errVersion
	}
	kind = r.Uint()
	if r.Err() == nil && (v != version && !(v == newest && kind == typeHeader) || n != map[uint64]int{typeHeader: 3, typeReceipt: 4, typeCheckpoint: 3}[kind]) {
		r.Fail(errType)
	}
	return r, kind, r.Err()
}

func decodeHeader(record []byte) (h header, err error) {
	r, kind, err := open(record)
	if err != nil {
		return h, err
	}
	if kind != typeHeader {
		return h, errHeader
	}
	r.Fields(func(key int64) {
		switch key {
		case 1:
			if b := r.Bytes(); len(b) == len(h.log) {
				copy(h.log[:], b)
			}
		case 2:
			h.key = bytes.Clone(r.Bytes())
		case 3:
			h.network = string(r.Text())
		case 4:
			h.file = r.Uint()
		case 5:
			h.first = r.Uint()
		case 6:
			readHash(&r, &h.previous)
		case 7:
			h.created = r.Int()
		case 8:
			h.changes = readChanges(&r)
		default:
			r.Fail(errHeader)
		}
	})
	if err := r.End(); err != nil {
		return h, err
	}
	if len(h.key) != ed25519.PublicKeySize || h.file == 0 || h.first == 0 || (h.file == 1) != (h.previous == zeroHash) ||
		!bytes.Equal(h.append(nil), record) {
		return h, errHeader
	}
	return h, nil
}

// readChanges reads what a header says of changes of the key.
func readChanges(r *cose.Reader) (all [][]byte) {
	n := r.Array()
	if n > MaxRotations {
		r.Fail(errHeader)
		return nil
	}
	for range n {
		all = append(all, bytes.Clone(r.Bytes()))
	}
	return all
}

// checkpoint is what is signed: everything up to a receipt.
type checkpoint struct {
	network string
	log     [16]byte
	seq     uint64   // of the last receipt; 0 if there is none yet
	head    [32]byte // the chain's hash after it
	time    int64    // nanoseconds since 1970
}

func (c *checkpoint) payload() []byte {
	w := cose.NewMapWriter(make([]byte, 0, 128))
	c.write(&w)
	return w.End()
}

func (c *checkpoint) write(w *cose.MapWriter) {
	w.Text(1, c.network)
	w.Bytes(2, c.log[:])
	w.Uint(3, c.seq)
	w.Bytes(4, c.head[:])
	w.Int(5, c.time)
}

// field reads what write has written.
func (c *checkpoint) field(r *cose.Reader, key int64) {
	switch key {
	case 1:
		c.network = string(r.Text())
	case 2:
		if b := r.Bytes(); len(b) == len(c.log) {
			copy(c.log[:], b)
		}
	case 3:
		c.seq = r.Uint()
	case 4:
		readHash(r, &c.head)
	case 5:
		c.time = r.Int()
	default:
		r.Fail(errType)
	}
}

// append appends the record of a checkpoint.
func (c *checkpoint) append(buf []byte, key *identity.Identity, kid *identity.ID) []byte {
	buf = cose.AppendUint(cose.AppendUint(cose.AppendArray(buf, 3), version), typeCheckpoint)
	return cose.AppendBytes(buf, cose.SignStatement(key, kid[:], cose.DomainReceipt, checkpointTyp, c.payload()))
}

// errForged says that a checkpoint is not what the log's key has signed.
var errForged = errors.New("the checkpoint is not signed by the log's key")

// decodeCheckpoint reads and verifies a signed checkpoint.
func decodeCheckpoint(raw []byte, h *header) (c checkpoint, err error) {
	s, err := cose.Parse(raw)
	if err != nil {
		return c, err
	}
	kid := h.keyID()
	if err := s.VerifyStatement(h.key, kid[:], cose.DomainReceipt, checkpointTyp); err != nil {
		return c, fmt.Errorf("%w: %w", errForged, err)
	}
	r := cose.NewReader(s.Payload)
	r.Fields(func(key int64) { c.field(&r, key) })
	if err := r.End(); err != nil {
		return c, err
	}
	if !bytes.Equal(c.payload(), s.Payload) {
		return c, errType
	}
	return c, nil
}
