package wasm_test

import "encoding/binary"

// module assembles a module that imports WASI functions, has a memory and a table, and runs code as _start.
type module struct {
	imports []string // of wasi_snapshot_preview1; see signatures
	from    string   // what the imports are from; "" is wasi_snapshot_preview1
	memory  byte     // pages
	table   []byte   // limits of a table of functions; nil is none
	export  string   // of the code; "" is _start
	data    string   // at address 0
	code    []byte   // of a function without params and results, with a local of 32 bits
}

// signatures of the imports: so many params of 32 bits and a result, or none.
var signatures = map[string][2]byte{"fd_write": {4, 1}, "proc_exit": {1, 0}, "fd_read": {4, 1}, "sched_yield": {0, 1}, "steal": {0, 0}, "poll_oneoff": {4, 1}}

func section(id byte, content ...byte) []byte {
	return append(binary.AppendUvarint([]byte{id}, uint64(len(content))), content...)
}

func text(s string) []byte { return append(binary.AppendUvarint(nil, uint64(len(s))), s...) }

func (m module) binary() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	types := []byte{byte(1 + len(m.imports)), 0x60, 0, 0}
	imports := []byte{byte(len(m.imports))}
	from := m.from
	if from == "" {
		from = "wasi_snapshot_preview1"
	}
	for i, name := range m.imports {
		s := signatures[name]
		types = append(types, 0x60, s[0])
		for range s[0] {
			types = append(types, 0x7f)
		}
		types = append(types, s[1])
		for range s[1] {
			types = append(types, 0x7f)
		}
		imports = append(append(append(imports, text(from)...), text(name)...), 0, byte(i+1))
	}
	out = append(out, section(1, types...)...)
	out = append(out, section(2, imports...)...)
	out = append(out, section(3, 1, 0)...)
	if m.table != nil {
		out = append(out, section(4, append([]byte{1, 0x70}, m.table...)...)...)
	}
	out = append(out, section(5, 1, 0, m.memory)...)
	export := m.export
	if export == "" {
		export = "_start"
	}
	exports := append(append([]byte{2}, text(export)...), 0, byte(len(m.imports)))
	exports = append(append(exports, text("memory")...), 2, 0)
	out = append(out, section(7, exports...)...)
	body := append(append([]byte{1, 1, 0x7f}, m.code...), 0x0b) // one local, of 32 bits
	out = append(out, section(10, append(binary.AppendUvarint([]byte{1}, uint64(len(body))), body...)...)...)
	if m.data != "" {
		out = append(out, section(11, append([]byte{1, 0, 0x41, 0, 0x0b}, text(m.data)...)...)...)
	}
	return out
}

// Code of the modules. Calls are by the index of the import; the function itself comes after those.
var (
	spin        = []byte{0x03, 0x40, 0x0c, 0, 0x0b} // loop br 0 end
	unreachable = []byte{0x00}
	recurse     = []byte{0x10, 0}                                                                                   // call 0
	growMemory  = []byte{0x03, 0x40, 0x41, 1, 0x40, 0, 0x41, 0x7f, 0x47, 0x0d, 0, 0x0b}                             // until memory.grow says -1
	growTable   = []byte{0x03, 0x40, 0xd0, 0x70, 0x41, 0x80, 0x80, 4, 0xfc, 15, 0, 0x41, 0x7f, 0x47, 0x0d, 0, 0x0b} // by 65536 each, until table.grow says -1
	outOfBounds = []byte{0x41, 0x7f, 0x28, 2, 0, 0x1a}                                                              // i32.load at -1
	divide      = []byte{0x41, 1, 0x41, 0, 0x6d, 0x1a}                                                              // 1 / 0
	exit0       = []byte{0x41, 0, 0x10, 0}                                                                          // proc_exit(0)
	exitCancel  = []byte{0x41, 0x7f, 0x10, 0}                                                                       // proc_exit(0xffffffff), as of a cancelled call
	flood       = []byte{0x03, 0x40, 0x41, 1, 0x41, 8, 0x41, 1, 0x41, 4, 0x10, 0, 0x1a, 0x0c, 0, 0x0b}              // fd_write(1, 8, 1, 4) for ever
	hello       = []byte{0x41, 1, 0x41, 8, 0x41, 1, 0x41, 4, 0x10, 0, 0x1a}                                         // fd_write(1, 8, 1, 4)
	sleep       = []byte{0x41, 0, 0x41, 0xc0, 0, 0x41, 1, 0x41, 0x80, 1, 0x10, 0, 0x1a}                             // poll_oneoff(0, 64, 1, 128)
	yield       = []byte{0x03, 0x40, 0x10, 0, 0x1a, 0x0c, 0, 0x0b}                                                  // sched_yield() for ever
)

// iovec is the data of flood: at 8, a buffer of 4096 bytes at 16.
const iovec = "\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x10\x00\x00"

// helloData is that of hello: at 8, a buffer of 3 bytes at 16, and there an empty object.
const helloData = "\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x03\x00\x00\x00{}\n"

// hour is the data of sleep: a subscription to the monotonic clock, for 2^42 ns.
const hour = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
