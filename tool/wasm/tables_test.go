package wasm

import (
	"bytes"
	"testing"
)

// FuzzBoundTables: what comes out has maxima already, and differs from what went in only in its section of tables.
func FuzzBoundTables(f *testing.F) {
	const header = "\x00asm\x01\x00\x00\x00"
	for _, seed := range []string{
		"", "\x00asm", header, header + "\x01\x04\x01\x60\x00\x00", header + "\x04\x04\x01\x70\x00\x01", header + "\x04\x05\x01\x70\x01\x01\x02",
		header + "\x04\x09\x01\x70\x01\x01\xff\xff\xff\xff\x0f", header + "\x04\x84\x80\x80\x80\x00\x01\x70\x00\x01\x0a\x00", header + "\x04\x04\x02\x70\x00\x01", header + "\x04\x7f",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, module []byte) {
		before := bytes.Clone(module)
		out, err := boundTables(module)
		if !bytes.Equal(module, before) {
			t.Fatal("the module was changed in place")
		}
		if err != nil {
			return
		}
		again, err := boundTables(out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%x became %x, and then %x (%v)", module, out, again, err)
		}
		if len(out) > len(module)+16*len(module) {
			t.Fatalf("%d bytes became %d", len(module), len(out))
		}
	})
}
