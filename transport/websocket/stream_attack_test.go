package websocket_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"

	"github.com/converge-agents/converge/transport/websocket"
)

// TestBytesOfAHostilePeer has a peer that has proved its key send what no honest one sends.
func TestBytesOfAHostilePeer(t *testing.T) {
	garbage := make([]byte, 64<<10)
	rand.Read(garbage)
	garbage[4] = 0xff // no type of frame
	for _, c := range []struct {
		name, word string
		code       coder.StatusCode
		attack     func(i *intruder)
	}{
		{"text message", "text_message", coder.StatusUnsupportedData, func(i *intruder) {
			i.write(wsFrame(fin|opText, []byte("hello")))
		}},
		{"compressed message, though nobody agreed on that", "protocol", coder.StatusProtocolError, func(i *intruder) {
			i.write(wsFrame(fin|rsv1|opBinary, []byte{0x4a, 0x4c, 0x04, 0x00}))
		}},
		{"unknown opcode", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write(wsFrame(fin|0x3, nil)) }},
		{"fragmented ping", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write(wsFrame(opPing, nil)) }},
		{"ping that is too long", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write(wsFrame(fin|opPing, make([]byte, 126))) }},
		{"continuation of nothing", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write(wsFrame(fin|opContinuation, nil)) }},
		{"message within a message", "protocol", coder.StatusProtocolError, func(i *intruder) {
			i.write(wsFrame(opBinary, []byte{0}))
			i.write(wsFrame(fin|opBinary, []byte{0}))
		}},
		{"close frame that is none", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write(wsFrame(fin|0x8, []byte{1})) }},
		{"close frame that refuses", "refused_by_peer", coder.StatusPolicyViolation, func(i *intruder) { i.write(wsFrame(fin|0x8, []byte{0x03, 0xf0})) }},
		{"frame without a mask", "protocol", coder.StatusProtocolError, func(i *intruder) { i.write([]byte{fin | opBinary, 1, 0}) }},
		{"frame of a negative length", "protocol", coder.StatusProtocolError, func(i *intruder) {
			i.write(binary.BigEndian.AppendUint64([]byte{fin | opBinary, 0xff}, 1<<63))
		}},
		{"flood of pings", "protocol", coder.StatusProtocolError, func(i *intruder) {
			flood(i, wsFrame(fin|opPing, make([]byte, 125)))
		}},
		{"flood of pongs", "protocol", coder.StatusProtocolError, func(i *intruder) { flood(i, wsFrame(fin|0xa, nil)) }},
		{"flood of empty messages", "protocol", coder.StatusProtocolError, func(i *intruder) { flood(i, wsFrame(fin|opBinary, nil)) }},
		{"endless empty fragments", "protocol", coder.StatusProtocolError, func(i *intruder) {
			i.write(wsFrame(opBinary, nil))
			flood(i, wsFrame(opContinuation, nil))
		}},
		{"message over the limit", "frame_too_large", coder.StatusMessageTooBig, func(i *intruder) {
			i.write(wsFrame(fin|opBinary, bytes.Repeat(meshFrame(0, make([]byte, 1<<10)), 1<<10)))
		}},
		{"message without an end", "frame_too_large", coder.StatusMessageTooBig, func(i *intruder) {
			i.write(wsFrame(opBinary, nil))
			flood(i, wsFrame(opContinuation, meshFrame(0, make([]byte, 1<<10))))
		}},
		{"huge frame", "frame_too_large", coder.StatusMessageTooBig, func(i *intruder) {
			i.message(binary.BigEndian.AppendUint32(nil, 1<<31)[:4])
			i.message(make([]byte, 1<<10))
		}},
		{"endless garbage", "malformed", coder.StatusProtocolError, func(i *intruder) { flood(i, wsFrame(fin|opBinary, garbage)) }},
		{"frame of no type", "malformed", coder.StatusProtocolError, func(i *intruder) { i.message(meshFrame(77, nil)) }},
		{"frame of no length", "malformed", coder.StatusProtocolError, func(i *intruder) { i.message(make([]byte, 5)) }},
		{"second hello", "malformed", coder.StatusProtocolError, func(i *intruder) {
			i.message(meshFrame(1, append([]byte{1}, make([]byte, 16)...)))
		}},
		{"truncated frame with silence after it", "stalled", coder.StatusPolicyViolation, func(i *intruder) {
			i.message(meshFrame(0, make([]byte, 100))[:50])
		}},
		{"truncated message with silence after it", "stalled", coder.StatusPolicyViolation, func(i *intruder) {
			i.write(wsFrame(fin|opBinary, meshFrame(0, make([]byte, 100)))[:50])
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			inBothModes(t, func(t *testing.T, proof websocket.Proof) {
				s := newScene(t, proof, func(c *websocket.Config) { c.ProgressTimeout = time.Second })
				i := s.join(s.mallory)
				s.refuses(c.word, func() {
					c.attack(i)
					if got := i.closed(); got != c.code && got != -1 {
						t.Errorf("the connection ended with code %d, want %d", got, c.code)
					}
				})
			})
		})
	}
}

// flood writes b again and again until nobody takes it any more.
func flood(i *intruder, b []byte) {
	b = bytes.Repeat(b, 1+4096/len(b))
	for range 1 << 16 {
		if i.write(b) != nil {
			return
		}
	}
	i.t.Error("64 Ki writes of a flood were taken")
}
