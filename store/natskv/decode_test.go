package natskv_test

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

func TestSubjectsOfHostileKeysAreLiteral(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"*", ">", "a.*", "a.>", "$JS.API.>", "..", ".", "a b", "a\r\nPUB x 1", "\x00", ""} {
		subject := natskv.Subject(store.Key("tasks", part, part))
		if strings.ContainsAny(subject, "*> \t\r\n\x00") || strings.Contains(subject, "..") || strings.HasSuffix(subject, ".") {
			t.Errorf("the subject of %q is %q", part, subject)
		}
		if strings.Count(subject, ".") != 4 {
			t.Errorf("the subject of %q has other tokens than the key segments: %q", part, subject)
		}
	}
}

// FuzzDecode has anything in the stream. What is taken for a change has a valid key, whose subject is the very one.
func FuzzDecode(f *testing.F) {
	f.Add("$KV.b.a.b", "DEL", "1", "mark", []byte("value"), uint64(2))
	f.Add("$KV.b.a/b", "PURGE", "x", "", []byte{}, uint64(1))
	f.Add("$KV.b..", "", "18446744073709551615", "", []byte("v"), uint64(1<<63))
	f.Add("$KV.c.a", "", "", "", []byte("v"), uint64(0))
	f.Add("$KV.b.a.*.>", "", "-1", "", []byte("v"), uint64(3))
	f.Fuzz(func(t *testing.T, subject, operation, previous, mark string, data []byte, sequence uint64) {
		header := map[string][]string{"KV-Operation": {operation}, "Nats-Expected-Last-Subject-Sequence": {previous}, "Converge-Mark": {mark}}
		key, back, ok := natskv.Decode(subject, header, data, sequence)
		if ok && (store.CheckKey(key) != nil || back != subject) {
			t.Errorf("%q is taken for a change of %q, whose subject is %q", subject, key, back)
		}
	})
}
