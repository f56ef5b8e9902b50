package gossip

import (
	"bytes"
	"testing"
)

// Encode returns a message that announces descriptors.
func Encode(descriptors ...[]byte) []byte {
	var items []item
	for _, raw := range descriptors {
		items = append(items, item{raw: raw})
	}
	return encode(announce, items)
}

func FuzzParse(f *testing.F) {
	f.Add(encode(request, nil))
	f.Add(encode(announce, []item{{raw: []byte("a")}, {name: name{statement: true}, raw: []byte("b")}}))
	f.Add([]byte("\x83\x02\x00\x80"))
	f.Fuzz(func(t *testing.T, body []byte) {
		k, items, err := parse(body)
		if err == nil && !bytes.Equal(encode(k, items), body) {
			t.Errorf("%x is read as %x", body, encode(k, items))
		}
		if err != nil && (k != 0 || items != nil) {
			t.Errorf("what is refused is returned: %v", items)
		}
	})
}
