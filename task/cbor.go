package task

import "encoding/binary"

// Major types of CBOR (RFC 8949 §3.1), in their place in the first byte.
const (
	majorUint     = 0 << 5
	majorNegative = 1 << 5
	majorBytes    = 2 << 5
	majorText     = 3 << 5
	majorArray    = 4 << 5
	majorMap      = 5 << 5
)

// mapWriter appends a CBOR map in core deterministic encoding (RFC 8949 §4.2.1). The keys, which are
// less than 24 as is their number, must come in ascending order. A zero value is left out.
type mapWriter struct {
	buf  []byte
	head int // where the head of the map is
}

func newMapWriter(buf []byte) mapWriter {
	return mapWriter{append(buf, majorMap), len(buf)}
}

// end returns the buffer.
func (w *mapWriter) end() []byte { return w.buf }

func (w *mapWriter) key(k byte) {
	w.buf[w.head]++
	w.buf = append(w.buf, majorUint|k)
}

func (w *mapWriter) uint(k byte, n uint64) {
	if n != 0 {
		w.key(k)
		w.buf = appendHead(w.buf, majorUint, n)
	}
}

func (w *mapWriter) int(k byte, n int64) {
	if n >= 0 {
		w.uint(k, uint64(n))
		return
	}
	w.key(k)
	w.buf = appendHead(w.buf, majorNegative, uint64(^n))
}

func (w *mapWriter) bytes(k byte, b []byte) {
	if len(b) != 0 {
		w.key(k)
		w.buf = append(appendHead(w.buf, majorBytes, uint64(len(b))), b...)
	}
}

func (w *mapWriter) text(k byte, s string) {
	if s != "" {
		w.key(k)
		w.buf = append(appendHead(w.buf, majorText, uint64(len(s))), s...)
	}
}

// appendHead appends the shortest head for a number or a length.
func appendHead(buf []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(buf, major|byte(n))
	case n < 1<<8:
		return append(buf, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(buf, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(buf, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(buf, major|27), n)
}
