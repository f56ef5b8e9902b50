package wasm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// maxTable is how many entries of 8 bytes a table may have. The runtime's limit for memory does not hold for tables,
// which a module that has not set itself a maximum can let grow to 32 GiB.
const maxTable = 1 << 20

const tableSection = 4

var errModule = errors.New("not a WebAssembly module")

// boundTables returns the module with a maximum for each of its tables. All else stays as it is; what this does not
// understand is for the runtime to refuse.
func boundTables(module []byte) ([]byte, error) {
	const header = 8
	if len(module) < header || string(module[:4]) != "\x00asm" {
		return nil, errModule
	}
	for at := header; at < len(module); {
		start, id := at, module[at]
		size, n := binary.Uvarint(module[at+1:])
		at += 1 + n
		if n <= 0 || size > uint64(len(module)-at) {
			return nil, errModule
		}
		if id == tableSection {
			bounded, err := bounded(module[at : at+int(size)])
			if err != nil {
				return nil, err
			}
			section := binary.AppendUvarint([]byte{id}, uint64(len(bounded)))
			return slices.Concat(module[:start], section, bounded, module[at+int(size):]), nil // there is one such section at most
		}
		at += int(size)
	}
	return module, nil
}

// bounded returns the content of a table section with maxima.
func bounded(content []byte) ([]byte, error) {
	r := reader{content}
	count := r.number()
	out := binary.AppendUvarint(nil, count)
	for range min(count, uint64(len(content))) {
		kind, flag, least, most := r.next(), r.next(), r.number(), uint64(maxTable)
		if flag == 1 {
			most = min(most, r.number())
		}
		switch {
		case r.rest == nil || flag > 1:
			return nil, fmt.Errorf("%w: a table is not understood", errModule)
		case least > maxTable:
			return nil, fmt.Errorf("a table of %d entries, where %d are allowed", least, maxTable)
		}
		out = binary.AppendUvarint(binary.AppendUvarint(append(out, kind, 1), least), most)
	}
	if len(r.rest) > 0 || count > uint64(len(content)) {
		return nil, fmt.Errorf("%w: the section of tables is not understood", errModule)
	}
	return out, nil
}

// reader reads what a section is made of. Its rest is nil once it has failed.
type reader struct{ rest []byte }

func (r *reader) next() byte {
	if len(r.rest) == 0 {
		r.rest = nil
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number() uint64 {
	value, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest = nil
		return 0
	}
	r.rest = r.rest[n:]
	return value
}
