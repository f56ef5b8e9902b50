package mesh

import (
	"bytes"
	"io"
	"slices"
)

const (
	minBuffer = 4 << 10
	maxBuffer = 64 << 10
)

// reader splits a stream into frames. What a length prefix announces is never allocated up front: a
// frame that fits the buffer is copied out once it is complete, a larger one grows with what arrives.
type reader struct {
	src      io.Reader
	maxFrame int
	buf      []byte // what was read and not taken is buf[from:to]
	from, to int
	large    []byte // the beginning of a frame that does not fit the buffer
	size     int    // of that frame; 0 if there is none
}

// pending returns how many bytes of an incomplete frame are there, and its size as far as it is known.
func (r *reader) pending() (have, size int) {
	if r.size > 0 {
		return len(r.large), r.size
	}
	have = r.to - r.from
	if have < headerSize {
		return have, headerSize
	}
	_, size, _ = parseHeader(r.buf[r.from:], r.maxFrame) // next has checked it
	return have, headerSize + size
}

// fill reads once. It is called when next has no more.
func (r *reader) fill() (int, error) {
	if r.size > 0 {
		return r.fillLarge()
	}
	r.makeRoom()
	n, err := r.src.Read(r.buf[r.to:])
	r.to += n
	if n > 0 {
		err = nil // it comes again
	}
	return n, err
}

func (r *reader) fillLarge() (int, error) {
	have := len(r.large)
	if have == cap(r.large) {
		r.large = slices.Grow(r.large, min(have, r.size-have))
	}
	n, err := r.src.Read(r.large[have:min(cap(r.large), r.size)])
	r.large = r.large[:have+n]
	if n > 0 {
		err = nil
	}
	return n, err
}

// makeRoom moves what is left to the front; a buffer that the last read has filled grows.
func (r *reader) makeRoom() {
	left := r.buf[r.from:r.to]
	grows := len(r.buf) == 0 || r.to == len(r.buf) && len(r.buf) < maxBuffer
	if grows {
		r.buf = make([]byte, max(minBuffer, min(maxBuffer, 4*len(r.buf))))
	}
	if grows || r.from > 0 {
		r.from, r.to = 0, copy(r.buf, left)
	}
}

// shrink gives a large buffer back; it is called when the stream has become quiet.
func (r *reader) shrink() {
	if r.from == r.to && len(r.buf) > minBuffer {
		r.buf, r.from, r.to = nil, 0, 0
	}
}

// next returns the next complete frame. The payload of a data frame is the caller's; others are valid
// until the next call of fill. It returns ok false if more has to be read.
func (r *reader) next() (t frameType, payload []byte, ok bool, err error) {
	if r.size > 0 {
		return r.nextLarge()
	}
	if r.to-r.from < headerSize {
		return 0, nil, false, nil
	}
	t, size, err := parseHeader(r.buf[r.from:], r.maxFrame)
	if err != nil {
		return 0, nil, false, err
	}
	end := r.from + headerSize + size
	if end <= r.to {
		payload = r.buf[r.from+headerSize : end]
		r.from = end
		if t == typeData {
			owned := make([]byte, len(payload))
			copy(owned, payload)
			payload = owned
		}
		return t, payload, true, nil
	}
	if headerSize+size > maxBuffer && r.to-r.from >= maxBuffer/2 {
		r.size = headerSize + size
		r.large = bytes.Clone(r.buf[r.from:r.to])
		r.from, r.to = 0, 0
	}
	return 0, nil, false, nil
}

func (r *reader) nextLarge() (frameType, []byte, bool, error) {
	if len(r.large) < r.size {
		return 0, nil, false, nil
	}
	t, payload := frameType(r.large[4]), r.large[headerSize:]
	r.large, r.size = nil, 0
	return t, payload, true, nil
}
