package message_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

func topicAudience(topics ...string) []string {
	texts := make([]string, len(topics))
	for i, topic := range topics {
		texts[i] = network + "/topic/" + topic
	}
	return texts
}

func numberedTopics(n int) []string {
	topics := make([]string, n)
	for i := range topics {
		topics[i] = fmt.Sprint("t", i)
	}
	return topicAudience(topics...)
}

// nested returns n arrays in each other.
func nested(n int) any {
	var v any = []any{}
	for range n - 1 {
		v = []any{v}
	}
	return v
}

// TestHeadersAreHeldToTheFormat signs headers that a Signer never makes; the signature is always good.
func TestHeadersAreHeldToTheFormat(t *testing.T) {
	const ok message.Reason = 0
	for _, c := range []struct {
		name   string
		edit   func(*envelope)
		reason message.Reason
	}{
		{"as it should be", func(e *envelope) {}, ok},

		{"algorithm ES256", func(e *envelope) { e.header[labelAlg] = -7 }, message.ErrUnsupported},
		{"algorithm Ed25519 (RFC 9864)", func(e *envelope) { e.header[labelAlg] = -19 }, message.ErrUnsupported},
		{"algorithm HMAC", func(e *envelope) { e.header[labelAlg] = 5 }, message.ErrUnsupported},
		{"algorithm 0", func(e *envelope) { e.header[labelAlg] = 0 }, message.ErrUnsupported},
		{"algorithm as text", func(e *envelope) { e.header[labelAlg] = "EdDSA" }, message.ErrMalformed},
		{"no algorithm", func(e *envelope) { delete(e.header, labelAlg) }, message.ErrMalformed},
		{"other typ", func(e *envelope) { e.header[labelTyp] = "application/cwt" }, message.ErrUnsupported},
		{"typ of a descriptor", func(e *envelope) { e.header[labelTyp] = "application/converge-descriptor" }, message.ErrUnsupported},
		{"typ in capitals", func(e *envelope) { e.header[labelTyp] = "Application/converge-message" }, message.ErrUnsupported},
		{"typ as a number", func(e *envelope) { e.header[labelTyp] = 60 }, message.ErrMalformed},
		{"no typ", func(e *envelope) { delete(e.header, labelTyp) }, message.ErrMalformed},
		{"unknown critical header", func(e *envelope) { e.header[labelCrit], e.header[-70000] = []int{-70000}, 1 }, message.ErrUnsupported},
		{"known critical header", func(e *envelope) { e.header[labelCrit] = []int64{labelAlg} }, message.ErrUnsupported},
		{"empty list of critical headers", func(e *envelope) { e.header[labelCrit] = []int{} }, message.ErrUnsupported},

		{"content type of 128 bytes", func(e *envelope) { e.header[labelContentType] = "text/" + strings.Repeat("x", 123) }, ok},
		{"content type of 129 bytes", func(e *envelope) { e.header[labelContentType] = "text/" + strings.Repeat("x", 124) }, message.ErrMalformed},
		{"content type empty", func(e *envelope) { e.header[labelContentType] = "" }, message.ErrMalformed},
		{"content type without slash", func(e *envelope) { e.header[labelContentType] = "json" }, message.ErrMalformed},
		{"content type with newline", func(e *envelope) { e.header[labelContentType] = "text/plain\r\nX: y" }, message.ErrMalformed},
		{"content type as a number", func(e *envelope) { e.header[labelContentType] = 50 }, message.ErrMalformed},
		{"no content type", func(e *envelope) { delete(e.header, labelContentType) }, message.ErrMalformed},
		{"short kid", func(e *envelope) { e.header[labelKid] = idBytes(alice)[:31] }, message.ErrMalformed},
		{"long kid", func(e *envelope) { e.header[labelKid] = append(idBytes(alice), 0) }, message.ErrMalformed},
		{"kid as text", func(e *envelope) { e.header[labelKid] = alice.ID().String() }, message.ErrMalformed},
		{"no kid", func(e *envelope) { delete(e.header, labelKid) }, message.ErrMalformed},
		{"claims are an array", func(e *envelope) { e.header[labelClaims] = []int{1} }, message.ErrMalformed},

		{"unknown header", func(e *envelope) { e.header[-70000] = labels{1: "x"} }, ok},
		{"unknown header with a text label", func(e *envelope) { e.header["note"] = []any{"x", []byte{1}} }, ok},
		{"unknown claim", func(e *envelope) { e.claims[-70000] = -1 }, ok},
		{"iss, which might differ from kid", func(e *envelope) { e.claims[1] = "somebody" }, message.ErrMalformed},
		{"sub", func(e *envelope) { e.claims[2] = "something" }, message.ErrMalformed},
		{"nbf, which is not heeded", func(e *envelope) { e.claims[5] = int64(1) }, message.ErrMalformed},
		{"unknown claim with a text label", func(e *envelope) { e.claims["note"] = "x" }, ok},
		{"seven arrays in a header", func(e *envelope) { e.header[-70000] = nested(7) }, ok},
		{"eight arrays in a header", func(e *envelope) { e.header[-70000] = nested(8) }, message.ErrMalformed},
		{"six arrays in a claim", func(e *envelope) { e.claims[-70000] = nested(6) }, ok},
		{"seven arrays in a claim", func(e *envelope) { e.claims[-70000] = nested(7) }, message.ErrMalformed},
		{"float in an unknown header", func(e *envelope) { e.header[-70000] = 1.5 }, message.ErrMalformed},
		{"null in an unknown claim", func(e *envelope) { e.claims[-70000] = nil }, message.ErrMalformed},
		{"tag in an unknown claim", func(e *envelope) { e.claims[-70000] = cbor.Tag{Number: 1, Content: 1} }, message.ErrMalformed},
		{"expiry as a tag", func(e *envelope) { e.claims[claimExp] = cbor.Tag{Number: 1, Content: noon.Unix() + 9} }, message.ErrMalformed},
		{"expiry as a float", func(e *envelope) { e.claims[claimExp] = float64(noon.Unix()) + 0.5 }, message.ErrMalformed},

		{"id of 15 bytes", func(e *envelope) { e.claims[claimCti] = make([]byte, 15) }, message.ErrMalformed},
		{"id of 17 bytes", func(e *envelope) { e.claims[claimCti] = bytes.Repeat([]byte{1}, 17) }, message.ErrMalformed},
		{"id zero", func(e *envelope) { e.claims[claimCti] = make([]byte, 16) }, message.ErrMalformed},
		{"id as text", func(e *envelope) { e.claims[claimCti] = "0123456789abcdef" }, message.ErrMalformed},
		{"expiry 0", func(e *envelope) { e.claims[claimExp] = 0 }, message.ErrMalformed},
		{"expiry negative", func(e *envelope) { e.claims[claimExp] = -1 }, message.ErrMalformed},
		{"expiry in the year 9999", func(e *envelope) { e.claims[claimExp] = int64(253402300799) }, ok},
		{"expiry in the year 10000", func(e *envelope) { e.claims[claimExp] = int64(253402300800) }, message.ErrMalformed},
		{"expiry never", func(e *envelope) { e.claims[claimExp] = uint64(math.MaxUint64) }, message.ErrMalformed},
		{"iat a second early", func(e *envelope) { e.claims[claimIat] = noon.Unix() - 1 }, message.ErrMalformed},
		{"iat a second late", func(e *envelope) { e.claims[claimIat] = noon.Unix() + 1 }, message.ErrMalformed},
		{"milliseconds of the next second", func(e *envelope) { e.claims[claimIssuedMillis] = noon.UnixMilli() + 1000 }, message.ErrMalformed},
		{"milliseconds negative", func(e *envelope) { e.claims[claimIssuedMillis], e.claims[claimIat] = -1000, -1 }, message.ErrMalformed},
		{"milliseconds 0", func(e *envelope) { e.claims[claimIssuedMillis], e.claims[claimIat] = 0, 0 }, message.ErrMalformed},
		{"milliseconds overflow", func(e *envelope) {
			e.claims[claimIssuedMillis], e.claims[claimIat] = int64(math.MaxInt64), int64(math.MaxInt64/1000)
		}, message.ErrMalformed},
		{"session of 7 bytes", func(e *envelope) { e.claims[claimSession] = make([]byte, 7) }, message.ErrMalformed},
		{"session as a number", func(e *envelope) { e.claims[claimSession] = 1 }, message.ErrMalformed},
		{"session zero", func(e *envelope) { e.claims[claimSession] = make([]byte, 8) }, ok},
		{"sequence 0", func(e *envelope) { e.claims[claimSequence] = 0 }, message.ErrMalformed},
		{"sequence negative", func(e *envelope) { e.claims[claimSequence] = -1 }, message.ErrMalformed},
		{"sequence highest", func(e *envelope) { e.claims[claimSequence] = maxSequence }, ok},
		{"sequence over it", func(e *envelope) { e.claims[claimSequence] = uint64(maxSequence) + 1 }, message.ErrMalformed},
		{"task ID empty", func(e *envelope) { e.claims[claimTaskID] = "" }, message.ErrMalformed},
		{"task ID of 256 bytes", func(e *envelope) { e.claims[claimTaskID] = strings.Repeat("x", 256) }, ok},
		{"task ID of 257 bytes", func(e *envelope) { e.claims[claimTaskID] = strings.Repeat("x", 257) }, message.ErrMalformed},
		{"in-reply-to zero", func(e *envelope) { e.claims[claimInReplyTo] = make([]byte, 16) }, message.ErrMalformed},
		{"in-reply-to short", func(e *envelope) { e.claims[claimInReplyTo] = []byte{1} }, message.ErrMalformed},
		{"trace empty", func(e *envelope) { e.claims[claimTrace] = "" }, message.ErrMalformed},
		{"trace of 128 bytes", func(e *envelope) { e.claims[claimTrace] = strings.Repeat("x", 128) }, ok},
		{"trace of 129 bytes", func(e *envelope) { e.claims[claimTrace] = strings.Repeat("x", 129) }, message.ErrMalformed},
		{"trace with newline", func(e *envelope) { e.claims[claimTrace] = "a\nb" }, message.ErrMalformed},

		{"audience: array of one agent", func(e *envelope) { e.claims[claimAud] = []string{direct(bob)} }, message.ErrMalformed},
		{"audience: array of one topic", func(e *envelope) { e.claims[claimAud] = topicAudience("t0") }, message.ErrMalformed},
		{"audience: empty array", func(e *envelope) { e.claims[claimAud] = []string{} }, message.ErrMalformed},
		{"audience: one topic", func(e *envelope) { e.claims[claimAud] = network + "/topic/t0" }, ok},
		{"audience: 2 topics", func(e *envelope) { e.claims[claimAud] = numberedTopics(2) }, ok},
		{"audience: 16 topics", func(e *envelope) { e.claims[claimAud] = numberedTopics(16) }, ok},
		{"audience: 17 topics", func(e *envelope) { e.claims[claimAud] = numberedTopics(17) }, message.ErrMalformed},
		{"audience: topic twice", func(e *envelope) { e.claims[claimAud] = topicAudience("t0", "t1", "t0") }, message.ErrMisaddressed},
		{"audience: two agents", func(e *envelope) { e.claims[claimAud] = []string{direct(bob), direct(carol)} }, message.ErrMisaddressed},
		{"audience: agent and topic", func(e *envelope) { e.claims[claimAud] = []string{direct(bob), network + "/topic/t0"} }, message.ErrMisaddressed},
		{"audience: network and topic", func(e *envelope) { e.claims[claimAud] = []string{network, network + "/topic/t0"} }, message.ErrMisaddressed},
		{"audience: topics of two networks", func(e *envelope) { e.claims[claimAud] = []string{network + "/topic/t0", "other/topic/t0"} }, message.ErrMisaddressed},
		{"audience: topic not canonical", func(e *envelope) { e.claims[claimAud] = network + "/topic/t0@01" }, message.ErrMisaddressed},
		{"audience: pattern", func(e *envelope) { e.claims[claimAud] = network + "/topic/>" }, message.ErrMisaddressed},
		{"audience: empty topic", func(e *envelope) { e.claims[claimAud] = network + "/topic/" }, message.ErrMisaddressed},
		{"audience: empty", func(e *envelope) { e.claims[claimAud] = "" }, message.ErrMisaddressed},
		{"audience: network with slash", func(e *envelope) { e.claims[claimAud] = network + "/" }, message.ErrMisaddressed},
		{"audience: agent in capitals", func(e *envelope) { e.claims[claimAud] = network + "/agent/" + strings.ToUpper(bob.ID().String()) }, message.ErrMisaddressed},
		{"audience: agent with more", func(e *envelope) { e.claims[claimAud] = direct(bob) + "/x" }, message.ErrMisaddressed},
		{"audience: bytes", func(e *envelope) { e.claims[claimAud] = []byte(direct(bob)) }, message.ErrMalformed},
		{"audience: array of bytes", func(e *envelope) { e.claims[claimAud] = []any{[]byte("a"), []byte("b")} }, message.ErrMalformed},
		{"audience: map", func(e *envelope) { e.claims[claimAud] = labels{1: "a"} }, message.ErrMalformed},
		{"no audience", func(e *envelope) { delete(e.claims, claimAud) }, message.ErrMalformed},
		{"no expiry", func(e *envelope) { delete(e.claims, claimExp) }, message.ErrMalformed},
		{"no iat", func(e *envelope) { delete(e.claims, claimIat) }, message.ErrMalformed},
		{"no id", func(e *envelope) { delete(e.claims, claimCti) }, message.ErrMalformed},
		{"no milliseconds", func(e *envelope) { delete(e.claims, claimIssuedMillis) }, message.ErrMalformed},
		{"no session", func(e *envelope) { delete(e.claims, claimSession) }, message.ErrMalformed},
		{"no sequence", func(e *envelope) { delete(e.claims, claimSequence) }, message.ErrMalformed},
		{"no claims", func(e *envelope) { e.claims = labels{} }, message.ErrMalformed},
	} {
		v := newVerifier(bob, newClock(), "t0", "t15")
		e := newEnvelope(noon, direct(bob))
		c.edit(e)
		if claims, replaced := e.header[labelClaims]; replaced {
			refuses(t, v, e.sign(must(core.Marshal(withClaims(e.header, claims)))), c.reason, c.name)
		} else if c.reason == ok {
			accepts(t, v, e.raw(), c.name)
		} else {
			refuses(t, v, e.raw(), c.reason, c.name)
		}
	}
}

// withClaims returns the header with something else in the place of the claims.
func withClaims(header labels, claims any) labels {
	header[labelClaims] = claims
	return header
}

// TestOtherEncodingsOfTheHeaderAreRefused signs headers of the same meaning in other bytes.
func TestOtherEncodingsOfTheHeaderAreRefused(t *testing.T) {
	e := newEnvelope(noon, direct(bob))
	good := e.protected()
	claims := bytes.Index(good, []byte{byte(labelClaims), 0xa7})
	pair := func(label int64, value any) []byte {
		return append(must(core.Marshal(label)), must(core.Marshal(value))...)
	}
	for name, protected := range map[string][]byte{
		"empty":                 {},
		"empty map":             {0xa0},
		"wrapped in bytes":      cose.AppendBytes(nil, good),
		"array of pairs":        append([]byte{0x8a}, good[1:]...),
		"indefinite map":        slices.Concat([]byte{0xbf}, good[1:], []byte{0xff}),
		"map head not minimal":  slices.Concat([]byte{0xb8, 5}, good[1:]),
		"label not minimal":     slices.Concat(good[:1], []byte{0x18}, good[1:]),
		"value not minimal":     slices.Concat(good[:2], []byte{0x38, 7}, good[3:]),
		"label twice":           slices.Concat([]byte{0xa6}, good[1:3], good[1:]),
		"labels unsorted":       slices.Concat(good[:1], good[3:claims], good[1:3], good[claims:]),
		"claims not minimal":    slices.Concat(good[:claims+1], []byte{0xb8, 7}, good[claims+2:]),
		"claims indefinite":     slices.Concat(good[:claims+1], []byte{0xbf}, good[claims+2:len(good)-30], []byte{0xff}, good[len(good)-30:]),
		"claims twice":          slices.Concat([]byte{0xa6}, good[1:claims], pair(labelClaims, e.claims), good[claims:]),
		"trailing byte":         append(slices.Clone(good), 0),
		"a pair less than said": append([]byte{0xa6}, good[1:]...),
		"a pair more than said": append([]byte{0xa4}, good[1:]...),
		"half a header":         good[:len(good)/2],
	} {
		refuses(t, newVerifier(bob, newClock()), e.sign(protected), message.ErrMalformed, name)
	}
	accepts(t, newVerifier(bob, newClock()), e.sign(good), "the header to start from")
}

// TestOtherEncodingsOfTheFrameAreRefused changes what is outside of the signature.
func TestOtherEncodingsOfTheFrameAreRefused(t *testing.T) {
	e := newEnvelope(noon, direct(bob))
	s := must(cose.Parse(e.raw()))
	frame := func(unprotected, payload any) []byte {
		return must(core.Marshal(cbor.Tag{Number: 18, Content: []any{s.Protected, unprotected, payload, s.Signature}}))
	}
	raw := frame(labels{}, s.Payload)
	if !bytes.Equal(raw, e.raw()) {
		t.Fatalf("%x, and by hand %x", e.raw(), raw)
	}
	for name, data := range map[string][]byte{
		"unprotected header":          frame(labels{labelKid: idBytes(alice)}, s.Payload),
		"unprotected header is text":  frame("", s.Payload),
		"detached payload":            frame(labels{}, nil),
		"payload is text":             frame(labels{}, string(s.Payload)),
		"untagged":                    raw[1:],
		"tagged twice":                append([]byte{0xd2}, raw...),
		"tag not minimal":             slices.Concat([]byte{0xd8, 18}, raw[1:]),
		"array not minimal":           slices.Concat(raw[:1], []byte{0x98, 4}, raw[2:]),
		"array indefinite":            slices.Concat(raw[:1], []byte{0x9f}, raw[2:], []byte{0xff}),
		"COSE_Sign":                   slices.Concat([]byte{0xd8, 98}, raw[1:]),
		"CWT tag":                     slices.Concat([]byte{0xd8, 61}, raw),
		"nothing":                     nil,
		"JSON":                        []byte(`{"sender":"alice"}`),
		"HTTP":                        []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"a length of 2⁶⁴-1":           {0xd2, 0x84, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a million opening brackets":  bytes.Repeat([]byte{0x81}, 1_000_000),
		"a million tags":              bytes.Repeat([]byte{0xd2}, 1_000_000),
		"a million zeros":             make([]byte, 1_000_000),
		"protected header is a map":   slices.Concat([]byte{0xd2, 0x84}, s.Protected, raw[len(raw)-90:]),
		"a signature cut to 63 bytes": cose.Sign1{Protected: s.Protected, Payload: s.Payload, Signature: s.Signature[:63]}.Append(nil),
		"a signature of nothing":      cose.Sign1{Protected: s.Protected, Payload: s.Payload}.Append(nil),
	} {
		refuses(t, newVerifier(bob, newClock()), data, message.ErrMalformed, name)
	}
}

func TestHeaderOverItsLimitIsRefused(t *testing.T) {
	e := newEnvelope(noon, direct(bob))
	e.header["padding"] = ""
	room := message.MaxHeader - len(e.protected()) - 2 // the length of the padding takes two bytes more
	e.header["padding"] = strings.Repeat("x", room)
	if size := len(e.protected()); size != message.MaxHeader {
		t.Fatalf("the header has %d bytes", size)
	}
	accepts(t, newVerifier(bob, newClock()), e.raw(), "64 KiB")
	e.header["padding"] = strings.Repeat("x", room+1)
	refuses(t, newVerifier(bob, newClock()), e.raw(), message.ErrMalformed, "a byte more")
}

func TestParseUnsafe(t *testing.T) {
	for name, audience := range map[string]any{
		"direct": direct(bob), "network": network, "topic": network + "/topic/a@2?b=c", "topics": numberedTopics(16),
		"other network": "prod.example",
	} {
		e := newEnvelope(noon, audience)
		e.signer = mallory // nobody checks
		m, err := message.ParseUnsafe(e.raw())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Verified() || m.Sender() != alice.ID() || string(m.Body()) != string(e.body) {
			t.Errorf("%s: verified %t, sender %s, body %s", name, m.Verified(), m.Sender(), m.Body())
		}
	}
	for name, audience := range map[string]any{
		"nobody": network + "/agent/" + strings.Repeat("0", 64), "bad ID": network + "/agent/x", "bad network": "Not/topic/a",
		"empty": "", "bad topic": network + "/topic/a..b", "networks": []string{network, "prod.example"},
		"topics of two networks": []string{network + "/topic/a", "prod.example/topic/b"}, "topic twice": topicAudience("a", "a"),
		"two agents": []string{direct(bob), direct(carol)}, "17 topics": numberedTopics(17), "unknown kind": network + "/pool/a",
	} {
		m, err := message.ParseUnsafe(newEnvelope(noon, audience).raw())
		if !errors.Is(err, message.ErrMalformed) || m != nil {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := message.ParseUnsafe(make([]byte, message.DefaultMaxSize+1)); !errors.Is(err, message.ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := message.ParseUnsafe([]byte("hello")); !errors.Is(err, message.ErrMalformed) {
		t.Errorf("text: %v", err)
	}
}
