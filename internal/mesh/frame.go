package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/message"
)

// A stream is a sequence of frames, numbers in big endian:
//
//	u32 length of what follows | u8 type | payload
const headerSize = 5

// frameType says what a frame's payload is.
type frameType byte

const (
	typeData        frameType = iota // an agent's frame, opaque
	typeHello                        // u8 version | u64 link | u64 change | patterns, each u16 length and text
	typeSubscribe                    // u64 change | pattern
	typeUnsubscribe                  // u64 change | pattern
	typeAck                          // u64 change: all changes up to this one are in effect
	typePing                         // empty
	typePong                         // empty
	typeBye                          // u8 reason: nothing comes after it
	typeKeys                         // [statement about the sender's key, proof that it has the key], in CBOR
)

// version is the version of the stream's format; a hello of another one is malformed.
const version = 1

// MaxPatterns is how many subscriptions an agent may have on a network.
const MaxPatterns = 1024

const (
	helloHead = 1 + 8 + 8
	maxHello  = helloHead + MaxPatterns*(2+message.MaxTopicText)
)

// The reasons of a bye.
const (
	byeClosing   byte = iota // the agent leaves
	byeDuplicate             // another connection of the pair stays
)

var (
	errMalformed     = errors.New("malformed frame")
	errFrameTooLarge = errors.New("frame is larger than the limit")
)

// sizeLimit is the largest payload of a frame of type t.
func (t frameType) sizeLimit(maxFrame int) int {
	switch t {
	case typeData:
		return maxFrame
	case typeHello:
		return maxHello
	case typeSubscribe, typeUnsubscribe:
		return 8 + message.MaxTopicText
	case typeAck:
		return 8
	case typeBye:
		return 1
	case typeKeys:
		return maxKeys
	default:
		return 0
	}
}

// parseHeader reads a header of headerSize bytes and checks it, so that no length is believed.
func parseHeader(b []byte, maxFrame int) (t frameType, size int, err error) {
	length := int64(binary.BigEndian.Uint32(b))
	t = frameType(b[4])
	switch {
	case length == 0 || t > typeKeys:
		return 0, 0, fmt.Errorf("%w: length %d, type %d", errMalformed, length, t)
	case length-1 > int64(t.sizeLimit(maxFrame)):
		return 0, 0, fmt.Errorf("%w: %d bytes of type %d, at most %d", errFrameTooLarge, length-1, t, t.sizeLimit(maxFrame))
	}
	return t, int(length - 1), nil
}

func appendHeader(b []byte, t frameType, size int) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(size+1)), byte(t))
}

// appendChange appends a subscribe, unsubscribe or ack frame; an ack has no pattern.
func appendChange(b []byte, t frameType, change uint64, pattern string) []byte {
	b = appendHeader(b, t, 8+len(pattern))
	return append(binary.BigEndian.AppendUint64(b, change), pattern...)
}

func parseChange(payload []byte) (change uint64, pattern string, err error) {
	if len(payload) < 8 {
		return 0, "", fmt.Errorf("%w: %d bytes where at least 8 are due", errMalformed, len(payload))
	}
	return binary.BigEndian.Uint64(payload), string(payload[8:]), nil
}

// hello opens a connection, from both ends.
type hello struct {
	// link, from the end that was dialled, is the connection's number, never 0; from the end that
	// dialled it is the number of the last connection of the pair that it has lost, or 0.
	link     uint64
	change   uint64 // of the subscriptions
	patterns []message.Pattern
}

func (h hello) append(b []byte) []byte {
	size := helloHead
	for _, p := range h.patterns {
		size += 2 + len(p.String())
	}
	b = append(appendHeader(b, typeHello, size), version)
	b = binary.BigEndian.AppendUint64(b, h.link)
	b = binary.BigEndian.AppendUint64(b, h.change)
	for _, p := range h.patterns {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.String())))
		b = append(b, p.String()...)
	}
	return b
}

func parseHello(payload []byte) (h hello, err error) {
	if len(payload) < helloHead || payload[0] != version {
		return h, fmt.Errorf("%w: a hello of %d bytes, or of another version than %d", errMalformed, len(payload), version)
	}
	h.link = binary.BigEndian.Uint64(payload[1:])
	h.change = binary.BigEndian.Uint64(payload[9:])
	for rest := payload[helloHead:]; len(rest) > 0; {
		var text string
		if text, rest, err = cutText(rest); err != nil {
			return h, err
		}
		p, err := message.ParsePattern(text)
		if err != nil || len(h.patterns) == MaxPatterns {
			return h, fmt.Errorf("%w: hello: pattern %d: %w", errMalformed, len(h.patterns), err)
		}
		h.patterns = append(h.patterns, p)
	}
	return h, nil
}

func cutText(b []byte) (text string, rest []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return "", nil, fmt.Errorf("%w: hello: a pattern is cut off", errMalformed)
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	return string(b[2:end]), b[end:], nil
}
