package audit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// frame is a frame as it was read. The record is valid until the next one is read.
type frame struct {
	offset int64 // of the frame in the file
	record []byte
	hash   [32]byte // as the file has it
}

// reader reads the frames of one file. It needs memory for one record.
type reader struct {
	in  *bufio.Reader
	at  int64 // offset of what is read next
	buf []byte
}

var (
	errMagic  = errors.New("it is not an audit file")
	errLength = errors.New("the length of the record is not what was written")
	errTorn   = errors.New("the file ends within the record")
)

// newReader reads the beginning of a file.
func newReader(f io.Reader) (*reader, error) {
	r := &reader{in: bufio.NewReaderSize(f, 64<<10)}
	line := make([]byte, len(magic))
	n, err := io.ReadFull(r.in, line)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	case string(line[:n]) != magic[:n]:
		return nil, errMagic
	case n < len(magic):
		return nil, errTorn
	}
	r.at = int64(n)
	return r, nil
}

// next returns the next frame. The error is io.EOF after the last one, and errTorn if the file ends within one.
func (r *reader) next() (f frame, err error) {
	f.offset = r.at
	var head [headSize]byte
	n, err := io.ReadFull(r.in, head[:])
	if n == 0 && errors.Is(err, io.EOF) {
		return f, io.EOF
	}
	if err != nil {
		return f, torn(err)
	}
	length := binary.BigEndian.Uint32(head[:4])
	if binary.BigEndian.Uint32(head[4:]) != crc32.Checksum(head[:4], castagnoli) || length > maxRecord {
		return f, errLength
	}
	if err := r.fill(int(length)); err != nil {
		return f, torn(err)
	}
	if _, err := io.ReadFull(r.in, f.hash[:]); err != nil {
		return f, torn(err)
	}
	f.record = r.buf
	r.at += frameSize + int64(length)
	return f, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// growth bounds what is allocated ahead of what is there.
const growth = 1 << 20

// fill reads a record. Memory grows with what has come, whatever length was promised.
func (r *reader) fill(length int) error {
	r.buf = r.buf[:0]
	for len(r.buf) < length {
		start := len(r.buf)
		step := min(length-start, growth)
		if cap(r.buf) < start+step {
			r.buf = append(r.buf, make([]byte, step)...)
		}
		r.buf = r.buf[:start+step]
		if _, err := io.ReadFull(r.in, r.buf[start:]); err != nil {
			return err
		}
	}
	return nil
}

// source is a file that was opened, with the header that it has.
type source struct {
	name   string
	file   *os.File
	reader *reader
	header header
	frame  frame // that of the header
}

// openSource opens a file and reads its header.
func openSource(name string) (s *source, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	s = &source{name: name, file: f}
	if err := s.begin(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (s *source) begin() (err error) {
	if info, err := s.file.Stat(); err == nil && !info.Mode().IsRegular() {
		return s.bad(0, 0, errMagic)
	}
	if s.reader, err = newReader(s.file); err != nil {
		return s.bad(0, 0, err)
	}
	if s.frame, err = s.reader.next(); err != nil {
		return s.bad(int64(len(magic)), 0, err)
	}
	if s.header, err = decodeHeader(s.frame.record); err != nil {
		return s.bad(s.frame.offset, 0, err)
	}
	if chain(&s.header.previous, s.frame.record) != s.frame.hash {
		return s.bad(s.frame.offset, s.header.first, errHash)
	}
	return nil
}

func (s *source) bad(offset int64, seq uint64, err error) error {
	return &BadRecord{File: s.name, Offset: offset, Seq: seq, Err: err}
}

var errHash = errors.New("the record is not the one that was written: its hash differs")
