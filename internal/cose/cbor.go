package cose

import (
	"errors"
	"unicode/utf8"
)

// Errors of a [Reader]. They carry no detail on purpose: what is read comes from strangers, and a
// refused frame must not cost an allocation.
var (
	ErrTruncated        = errors.New("cbor: data ends inside an item")
	ErrNotDeterministic = errors.New("cbor: not in deterministic encoding (RFC 8949, section 4.2)")
	ErrUnexpected       = errors.New("cbor: item of another type than expected")
	ErrTrailing         = errors.New("cbor: data after the last item")
	ErrNesting          = errors.New("cbor: nested too deeply")
	ErrText             = errors.New("cbor: text is not valid UTF-8")
)

// MaxNesting is how deep arrays and maps may nest.
const MaxNesting = 8

// Major types of RFC 8949, section 3.1.
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
)

func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return append(b, major|25, byte(n>>8), byte(n))
	case n < 1<<32:
		return append(b, major|26, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	default:
		return append(b, major|27, byte(n>>56), byte(n>>48), byte(n>>40), byte(n>>32), byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// AppendInt appends an integer.
func AppendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendHead(b, majorNint, uint64(-1-n))
	}
	return appendHead(b, majorUint, uint64(n))
}

// AppendUint appends an unsigned integer.
func AppendUint(b []byte, n uint64) []byte { return appendHead(b, majorUint, n) }

// AppendBytes appends a byte string.
func AppendBytes(b, p []byte) []byte { return append(appendHead(b, majorBytes, uint64(len(p))), p...) }

// AppendText appends a text string, which has to be valid UTF-8.
func AppendText(b []byte, s string) []byte { return append(AppendTextHead(b, len(s)), s...) }

// AppendTextHead appends the head of a text string of n bytes, which the caller appends next.
func AppendTextHead(b []byte, n int) []byte { return appendHead(b, majorText, uint64(n)) }

// AppendArray appends the head of an array of n items, which the caller appends next.
func AppendArray(b []byte, n int) []byte { return appendHead(b, majorArray, uint64(n)) }

// AppendMap appends the head of a map of n pairs, which the caller appends next, sorted by key.
func AppendMap(b []byte, n int) []byte { return appendHead(b, majorMap, uint64(n)) }

// Reader reads deterministically encoded CBOR (RFC 8949, section 4.2.1): shortest heads, definite
// lengths, map keys in ascending order of their bytes and therefore none twice. Keys are labels in the
// sense of COSE: text, or integers that fit into 64 bits with sign. Floating point numbers, simple
// values and tags within items are not part of any Converge format and are refused.
//
// The first error sticks: later reads return zero values, and [Reader.Err] returns the error. Nothing
// is allocated, whatever a head claims; byte strings alias the input.
type Reader struct {
	data []byte
	at   int // what was read; an index, since moving a slice costs a write barrier while garbage is collected
	err  error
}

// NewReader returns a reader of data.
func NewReader(data []byte) Reader { return Reader{data: data} }

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Fail makes err the reader's error, unless there is one already.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
		r.data, r.at = nil, 0
	}
}

// left returns how many bytes have not been read.
func (r *Reader) left() int { return len(r.data) - r.at }

// End fails the reader unless everything was read, and returns the first error.
func (r *Reader) End() error {
	if r.left() > 0 {
		r.Fail(ErrTrailing)
	}
	return r.err
}

func (r *Reader) head() (major byte, n uint64) {
	if r.at >= len(r.data) {
		r.Fail(ErrTruncated)
		return 0, 0
	}
	first := r.data[r.at]
	r.at++
	if first&31 < 24 {
		return first >> 5, uint64(first & 31)
	}
	return first >> 5, r.number(first & 31)
}

// number reads the number that follows the first byte of a head.
func (r *Reader) number(info byte) (n uint64) {
	if info > 27 { // reserved or indefinite
		r.Fail(ErrNotDeterministic)
		return 0
	}
	size := 1 << (info - 24)
	if r.left() < size {
		r.Fail(ErrTruncated)
		return 0
	}
	for _, c := range r.data[r.at : r.at+size] {
		n = n<<8 | uint64(c)
	}
	r.at += size
	if size == 1 && n < 24 || size > 1 && n>>(4*size) == 0 {
		r.Fail(ErrNotDeterministic)
		return 0
	}
	return n
}

// expect reads a head of the given type and returns its number.
func (r *Reader) expect(want byte) uint64 {
	major, n := r.head()
	if r.err == nil && major != want {
		r.Fail(ErrUnexpected)
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *Reader) take(n uint64) []byte {
	if n > uint64(r.left()) {
		r.Fail(ErrTruncated)
		return nil
	}
	end := r.at + int(n)
	taken := r.data[r.at:end:end]
	r.at = end
	return taken
}

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 { return r.expect(majorUint) }

// Int reads an integer that fits into 64 bits with sign.
func (r *Reader) Int() int64 {
	major, n := r.head()
	if r.err == nil && (major > majorNint || n > 1<<63-1) {
		r.Fail(ErrUnexpected)
	}
	if r.err != nil {
		return 0
	}
	if major == majorNint {
		return -1 - int64(n)
	}
	return int64(n)
}

// Bytes reads a byte string, which aliases the input.
func (r *Reader) Bytes() []byte { return r.take(r.expect(majorBytes)) }

// Text reads a text string, which aliases the input.
func (r *Reader) Text() []byte {
	text := r.take(r.expect(majorText))
	if !utf8.Valid(text) {
		r.Fail(ErrText)
		return nil
	}
	return text
}

// Array reads the head of an array and returns the number of its items.
func (r *Reader) Array() int { return r.count(r.expect(majorArray), 1) }

// Map reads the head of a map and returns the number of its pairs. Its keys are read by a [Keys].
func (r *Reader) Map() int { return r.count(r.expect(majorMap), 2) }

// count refuses a number of items that the rest of the input cannot hold.
func (r *Reader) count(n, each uint64) int {
	if n > uint64(r.left())/each {
		r.Fail(ErrTruncated)
		return 0
	}
	return int(n)
}

// Tag reads a tag's number; the tagged item follows.
func (r *Reader) Tag() uint64 { return r.expect(majorTag) }

// IsArray reports whether the next item is an array.
func (r *Reader) IsArray() bool { return r.left() > 0 && r.data[r.at]>>5 == majorArray }

// Skip reads over one item, holding it to the same rules; depth is the number of arrays and maps that
// it is in.
func (r *Reader) Skip(depth int) {
	if r.left() == 0 {
		r.Fail(ErrTruncated)
		return
	}
	switch r.data[r.at] >> 5 {
	case majorUint, majorNint:
		r.head()
	case majorBytes:
		r.Bytes()
	case majorText:
		r.Text()
	case majorArray, majorMap:
		r.skipItems(depth + 1)
	default:
		r.Fail(ErrUnexpected)
	}
}

func (r *Reader) skipItems(depth int) {
	if depth > MaxNesting {
		r.Fail(ErrNesting)
		return
	}
	if r.IsArray() {
		for n := r.Array(); n > 0 && r.err == nil; n-- {
			r.Skip(depth)
		}
		return
	}
	var keys Keys
	for n := r.Map(); n > 0 && r.err == nil; n-- {
		keys.Label(r)
		r.Skip(depth)
	}
}

// Keys reads the keys of one map and holds them to ascending order. The zero value is ready to use.
type Keys struct{ from, to int } // where the last key is; both are 0 before the first

// Label reads a key, which is an integer or text; known is false for text, whose value the caller
// skips.
func (k *Keys) Label(r *Reader) (label int64, known bool) {
	start := r.at
	if r.left() > 0 && r.data[start]>>5 == majorText {
		r.Text()
	} else {
		label, known = r.Int(), true
	}
	if r.err != nil {
		return label, false
	}
	if k.to > 0 && string(r.data[start:r.at]) <= string(r.data[k.from:k.to]) {
		r.Fail(ErrNotDeterministic)
		return label, false
	}
	k.from, k.to = start, r.at
	return label, known
}
