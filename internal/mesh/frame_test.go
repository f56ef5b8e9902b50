package mesh

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// TestFormatIsFrozen holds the bytes of the stream: a change of them is a new version.
func TestFormatIsFrozen(t *testing.T) {
	h := hello{link: 1, change: 2, patterns: []message.Pattern{message.MustPattern("a.>")}}
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"data":        {append(appendHeader(nil, typeData, 2), "hi"...), "00000003" + "00" + "6869"},
		"hello":       {h.append(nil), "00000017" + "01" + "01" + "0000000000000001" + "0000000000000002" + "0003" + "612e3e"},
		"subscribe":   {appendChange(nil, typeSubscribe, 3, "a"), "0000000a" + "02" + "0000000000000003" + "61"},
		"unsubscribe": {appendChange(nil, typeUnsubscribe, 4, "a"), "0000000a" + "03" + "0000000000000004" + "61"},
		"ack":         {appendChange(nil, typeAck, 5, ""), "00000009" + "04" + "0000000000000005"},
		"ping":        {appendHeader(nil, typePing, 0), "00000001" + "05"},
		"pong":        {appendHeader(nil, typePong, 0), "00000001" + "06"},
		"bye":         {append(appendHeader(nil, typeBye, 1), byeDuplicate), "00000002" + "07" + "01"},
	} {
		if got := hex.EncodeToString(c.frame); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	const limit = 100
	for name, c := range map[string]struct {
		length uint32
		t      frameType
		want   error
	}{
		"no type":             {0, typeData, errMalformed},
		"unknown type":        {1, typeKeys + 1, errMalformed},
		"type 255":            {1, 255, errMalformed},
		"data over the limit": {limit + 2, typeData, errFrameTooLarge},
		"4 GiB":               {1<<32 - 1, typeData, errFrameTooLarge},
		"a long ping":         {2, typePing, errFrameTooLarge},
		"a long ack":          {10, typeAck, errFrameTooLarge},
		"a long bye":          {3, typeBye, errFrameTooLarge},
		"a long hello":        {maxHello + 2, typeHello, errFrameTooLarge},
		"a long subscribe":    {8 + message.MaxTopicText + 2, typeSubscribe, errFrameTooLarge},
	} {
		header := append(binary.BigEndian.AppendUint32(nil, c.length), byte(c.t))
		if _, _, err := parseHeader(header, limit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, size, err := parseHeader(append(binary.BigEndian.AppendUint32(nil, limit+1), byte(typeData)), limit); err != nil || size != limit {
		t.Errorf("a frame of the largest size: %d, %v", size, err)
	}
}

func TestHellosThatAreRefused(t *testing.T) {
	good := hello{link: 1, change: 2, patterns: []message.Pattern{message.MustPattern("orders.*")}}.append(nil)[headerSize:]
	if h, err := parseHello(good); err != nil || h.link != 1 || h.change != 2 || len(h.patterns) != 1 {
		t.Fatalf("%+v, %v", h, err)
	}
	many := good[:helloHead:helloHead]
	for range MaxPatterns + 1 {
		many = append(many, 0, 1, 'a')
	}
	for name, payload := range map[string][]byte{
		"empty":               {},
		"short":               good[:helloHead-1],
		"of another version":  append([]byte{2}, good[1:]...),
		"cut off":             good[:len(good)-1],
		"cut off in a length": append(bytes.Clone(good), 0),
		"with no pattern":     append(bytes.Clone(good), 0, 1, '.'),
		"with too many":       many,
	} {
		if _, err := parseHello(payload); !errors.Is(err, errMalformed) {
			t.Errorf("a hello %s: %v", name, err)
		}
	}
}

// TestReaderSplitsAnyStream feeds frames of all sizes in pieces of all sizes.
func TestReaderSplitsAnyStream(t *testing.T) {
	var stream []byte
	var want [][]byte
	for _, size := range []int{0, 1, 4, 5, 600, minBuffer - headerSize, minBuffer, maxBuffer - headerSize, maxBuffer, maxBuffer + 1, 300_000, 3} {
		frame := bytes.Repeat([]byte{byte(size)}, size)
		stream = append(append(appendHeader(stream, typeData, size), frame...), appendHeader(nil, typePing, 0)...)
		want = append(want, frame)
	}
	for name, source := range map[string]io.Reader{
		"at once":       bytes.NewReader(stream),
		"in halves":     iotest.HalfReader(bytes.NewReader(stream)),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(stream)),
		"error at last": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		frames, pings, err := split(&reader{src: source, maxFrame: 1 << 20})
		if err != io.EOF || pings != len(want) || len(frames) != len(want) {
			t.Fatalf("%s: %d frames, %d pings, %v", name, len(frames), pings, err)
		}
		for i := range want {
			if !bytes.Equal(frames[i], want[i]) {
				t.Errorf("%s: frame %d of %d bytes is wrong", name, i, len(want[i]))
			}
		}
	}
}

func split(r *reader) (frames [][]byte, pings int, err error) {
	for {
		for {
			kind, payload, ok, err := r.next()
			if err != nil {
				return frames, pings, err
			}
			if !ok {
				break
			}
			switch kind {
			case typeData:
				frames = append(frames, payload)
			case typePing:
				pings++
			}
		}
		if _, err := r.fill(); err != nil {
			return frames, pings, err
		}
	}
}

func TestReaderReturnsFramesOfTheirOwn(t *testing.T) {
	stream := append(append(appendHeader(nil, typeData, 3), "one"...), append(appendHeader(nil, typeData, 3), "two"...)...)
	frames, _, _ := split(&reader{src: bytes.NewReader(stream), maxFrame: 10})
	copy(frames[0][:cap(frames[0])], "ONE????")
	if string(frames[1]) != "two" {
		t.Errorf("writing to one frame changed the next: %q", frames[1])
	}
}

// TestHugePrefixAllocatesNothing announces the largest frame and sends next to nothing of it.
func TestHugePrefixAllocatesNothing(t *testing.T) {
	const limit = 1 << 30
	for _, arrives := range []int{0, 1, 1000, 50_000} {
		r := &reader{src: strings.NewReader(string(appendHeader(nil, typeData, limit)) + strings.Repeat("x", arrives)), maxFrame: limit}
		if _, _, err := split(r); err != io.EOF {
			t.Fatal(err)
		}
		if held := cap(r.buf) + cap(r.large); held > minBuffer+4*(headerSize+arrives) {
			t.Errorf("after %d bytes of a frame of 1 GiB %d bytes are held", arrives, held)
		}
	}
}

func TestQuietReaderGivesItsBufferBack(t *testing.T) {
	r := &reader{src: bytes.NewReader(append(appendHeader(nil, typeData, 40_000), make([]byte, 40_000)...)), maxFrame: 1 << 20}
	split(r)
	if r.shrink(); cap(r.buf) > minBuffer {
		t.Errorf("a buffer of %d bytes is kept", cap(r.buf))
	}
}

// FuzzReader: whatever arrives, what comes out as frames is what went in, and nothing panics.
func FuzzReader(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(appendHeader(nil, typePing, 0), uint8(1))
	f.Add(append(appendHeader(nil, typeData, 3), "abc"...), uint8(2))
	f.Add(hello{link: 1, patterns: []message.Pattern{message.MustPattern("a.*")}}.append(nil), uint8(3))
	f.Add(appendChange(nil, typeSubscribe, 7, "a.>"), uint8(4))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0}, uint8(5))
	f.Fuzz(func(t *testing.T, stream []byte, chop uint8) {
		r := &reader{src: &chopper{stream, int(chop)%7 + 1}, maxFrame: 1000}
		var again []byte
		for {
			kind, payload, ok, err := r.next()
			if err != nil {
				break
			}
			if ok {
				again = append(appendHeader(again, kind, len(payload)), payload...)
				checkControl(t, kind, payload)
				continue
			}
			if _, err := r.fill(); err != nil {
				break
			}
		}
		if !bytes.HasPrefix(stream, again) {
			t.Errorf("%x came out of %x", again, stream)
		}
	})
}

// checkControl checks that a control frame that is accepted says what its bytes say.
func checkControl(t *testing.T, kind frameType, payload []byte) {
	switch kind {
	case typeHello:
		h, err := parseHello(payload)
		if err == nil && !bytes.Equal(h.append(nil)[headerSize:], payload) {
			t.Errorf("hello %x is read as %+v", payload, h)
		}
	case typeSubscribe, typeUnsubscribe, typeAck:
		change, text, err := parseChange(payload)
		if err == nil && !bytes.Equal(appendChange(nil, kind, change, text)[headerSize:], payload) {
			t.Errorf("change %x is read as %d %q", payload, change, text)
		}
	}
}

// chopper returns a few bytes at a time.
type chopper struct {
	rest []byte
	size int
}

func (c *chopper) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

// FuzzKeysFrame holds that a statement on a connection has one encoding, and counts only with its own key's proof.
func FuzzKeysFrame(f *testing.F) {
	working := workingIdentity(f) // the same in each process that fuzzes
	l := &link{number: 7, p: &peer{id: working.ID(), e: &Endpoint{id: identity.ID{2}}}}
	self := working.ID()
	proof := cose.SignStatement(working, self[:], cose.DomainHandshake, keysType, l.keysClaim(self, l.p.e.id))
	genuine := cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), working.Statement()), proof)
	f.Add(genuine)
	f.Add(cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), working.Statement()), nil))
	f.Add([]byte{0x82, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, payload []byte) {
		raw, proof, err := parseKeys(payload)
		if err != nil {
			return
		}
		if again := cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), raw), proof); !bytes.Equal(again, payload) {
			t.Fatalf("%x is another spelling of %x", payload, again)
		}
		if _, err := l.openKeys(raw, proof); (err == nil) != bytes.Equal(payload, genuine) {
			t.Fatalf("%x: %v", payload, err)
		}
	})
}

func workingIdentity(f *testing.F) *identity.Identity {
	f.Helper()
	root, err := identity.FromSeed(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		f.Fatal(err)
	}
	operational, err := identity.FromSeed(bytes.Repeat([]byte{2}, 32))
	if err != nil {
		f.Fatal(err)
	}
	raw, err := identity.SignKeys(root, identity.KeyStatement{
		ID: root.ID(), Root: root.PublicKey(), Epoch: 1, Operational: operational.PublicKey(),
		NotBefore: time.UnixMilli(1), Expires: time.UnixMilli(2), Sequence: 1,
	})
	if err != nil {
		f.Fatal(err)
	}
	working, err := operational.WithStatement(raw)
	if err != nil {
		f.Fatal(err)
	}
	return working
}
