package message_test

import (
	"bytes"
	"testing"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/message"
)

// FuzzOpen lets Alice sign arbitrary sealing headers and ciphertexts under a header that is fine otherwise: only
// what was sealed under that very header opens, and to what was sealed.
func FuzzOpen(f *testing.F) {
	honest := map[string]string{} // from the file, as sealing is random and processes share the corpus
	for _, v := range readVectors(f, sealedVectorFile) {
		header, ciphertext := sealedParts(f, v)
		if header == nil {
			continue
		}
		e := edited(direct(bob), func(e *envelope) { e.body = ciphertext })
		e.header[labelCrit], e.header[labelSealing] = []int64{labelSealing}, header
		if v.Message != nil && bytes.Equal(e.raw(), unhex(f, v.Envelope)) {
			honest[string(header)+string(ciphertext)] = string(unhex(f, v.Message.Body))
		}
		f.Add(header, ciphertext)
		f.Add(header, []byte{})
		f.Add(header[:len(header)/2], ciphertext)
	}
	if len(honest) < 5 {
		f.Fatalf("%d vectors open under this header", len(honest))
	}
	for _, bad := range badSealing() {
		f.Add(must(core.Marshal(bad.value)), []byte("x"))
	}
	clock := newClock()
	keys := ring(f, clock, bobX, bobHybrid)
	f.Fuzz(func(t *testing.T, header, ciphertext []byte) {
		e := edited(direct(bob), func(e *envelope) { e.body = ciphertext })
		want, sealedSo := honest[string(header)+string(ciphertext)]
		e.header[labelCrit], e.header[labelSealing] = []int64{labelSealing}, header
		raw := e.raw()
		m, err := configured(message.VerifierConfig{Now: clock.Now, Sealing: keys}).Verify(bytes.Clone(raw))
		if err == nil && (!sealedSo || string(m.Body()) != want || !m.Sealed()) {
			t.Fatalf("%x, %x is opened as %q", header, ciphertext, m.Body())
		}
		parsed, err := message.ParseUnsafe(bytes.Clone(raw))
		if err != nil {
			return
		}
		if !bytes.Equal(parsed.Body(), ciphertext) || !parsed.Sealed() {
			t.Fatalf("ParseUnsafe reads %x of %x", parsed.Body(), ciphertext)
		}
		expectOneSealingHeader(t, header)
	})
}

// expectOneSealingHeader encodes a sealing header that was taken once more, by other code.
func expectOneSealingHeader(t *testing.T, header []byte) {
	t.Helper()
	var value any
	if err := strict.Unmarshal(header, &value); err != nil {
		t.Fatalf("%x: %v", header, err)
	}
	if again := must(core.Marshal(value)); !bytes.Equal(again, header) {
		t.Fatalf("%x is encoded again as %x", header, again)
	}
}

// FuzzVerifySealed holds that of envelopes that come from anywhere only those open that Alice signed.
func FuzzVerifySealed(f *testing.F) {
	signed := map[string]bool{}
	for _, v := range readVectors(f, sealedVectorFile) {
		raw := unhex(f, v.Envelope)
		signed[string(raw)] = v.Reason != message.ErrBadSignature.String() // some are refused for another reason
		f.Add(raw)
	}
	clock := newClock()
	keys := ring(f, clock, bobX, bobHybrid)
	f.Fuzz(func(t *testing.T, raw []byte) {
		v := configured(message.VerifierConfig{Now: clock.Now, Sealing: keys, Seal: message.SealRequired}, ">")
		m, err := v.Verify(bytes.Clone(raw))
		if err == nil && !signed[string(raw)] {
			t.Fatalf("accepted %x as %v", raw, m)
		}
		if s, err := cose.Parse(raw); err == nil && !bytes.Equal(s.Append(nil), raw) {
			t.Fatalf("%x has another encoding", raw)
		}
	})
}

// sealedParts returns the sealing header and the ciphertext of a vector, if it is that far in order.
func sealedParts(t testing.TB, v vector) (header, ciphertext []byte) {
	t.Helper()
	s, err := cose.Parse(unhex(t, v.Envelope))
	if err != nil {
		return nil, nil
	}
	var all map[any]any
	if err := strict.Unmarshal(s.Protected, &all); err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	header, _ = all[labelSealing].([]byte)
	return header, s.Payload
}
