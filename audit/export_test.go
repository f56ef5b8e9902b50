package audit

import (
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
)

// Disk is where a log writes, for tests of disks that fail.
type Disk = disk

// WithDisk returns the configuration with another way to open files.
func WithDisk(c Config, create func(name string, flags int) (Disk, error)) Config {
	c.create = create
	return c
}

// OpenDisk is the way in which logs open files.
func OpenDisk(name string, flags int) (Disk, error) { return openDisk(name, flags) }

// DecodeEntry reads the record of a receipt, and returns it encoded again.
func DecodeEntry(record []byte) (Receipt, []byte, error) { return decodeEntry(record, nil) }

// DecodeHeader reads the record of a header, and returns it encoded again.
func DecodeHeader(record []byte) ([]byte, error) {
	h, err := decodeHeader(record)
	if err != nil {
		return nil, err
	}
	return h.append(nil), nil
}

// Reframe returns the file with its chain made anew, as somebody without the key would after changing records.
func Reframe(file []byte, change func(i int, record []byte) []byte) []byte {
	out := append([]byte(nil), file[:len(magic)]...)
	var head [32]byte
	rest := file[len(magic):]
	for i := 0; len(rest) > 0; i++ {
		size := int(rest[0])<<24 | int(rest[1])<<16 | int(rest[2])<<8 | int(rest[3])
		record := rest[headSize : headSize+size]
		if i == 0 {
			h, err := decodeHeader(record)
			if err != nil {
				panic(err)
			}
			head = h.previous
		}
		if record = change(i, append([]byte(nil), record...)); record != nil {
			buf, start := beginFrame(out)
			out = endFrame(append(buf, record...), start, &head)
		}
		rest = rest[frameSize+size:]
	}
	return out
}

// Change is what a header says of a change of the key.
type Change struct {
	Network  string
	Log      [16]byte
	Seq      uint64
	Head     [32]byte
	From, To []byte
}

// Sign signs the change with any key, in the name of From.
func (c Change) Sign(key *identity.Identity) []byte {
	s := change{at: checkpoint{network: c.Network, log: c.Log, seq: c.Seq, head: c.Head, time: 1}, from: c.From, to: c.To}
	kid := identity.IDOf(c.From)
	return cose.SignStatement(key, kid[:], cose.DomainReceipt, changeTyp, s.payload())
}

// DecodeChange verifies a signed change, and returns its payload.
func DecodeChange(raw []byte) (Change, []byte, error) {
	c, err := decodeChange(raw)
	return Change{c.at.network, c.at.log, c.at.seq, c.at.head, c.from, c.to}, c.payload(), err
}

// Place is where a file ends.
type Place struct {
	Change  // of the key from here on, but for To
	File    uint64
	Changes [][]byte
}

// EndOf returns where a file ends, which is one that has been verified.
func EndOf(name string) Place {
	v := &verifier{}
	if err := v.file(name); err != nil {
		panic(err)
	}
	return Place{Change{v.sum.Network, v.sum.Log, v.sum.Last, v.hash, v.head.key, nil}, v.head.file, v.head.changes}
}

// Continue makes a file that follows a place, with a receipt and a checkpoint by any key, and says what it is told of
// changes.
func (p Place) Continue(key *identity.Identity, changes [][]byte) []byte {
	h := header{log: p.Log, key: key.PublicKey(), network: p.Network, file: p.File + 1, first: p.Seq + 1, previous: p.Head, created: 1, changes: changes}
	head := p.Head
	buf, start := beginFrame([]byte(magic))
	buf = endFrame(h.append(buf), start, &head)
	r := Receipt{Kind: KindCall, Subject: "forged"}
	buf, start = beginFrame(buf)
	buf = endFrame(appendEntry(buf, p.Seq+1, r.append(nil)), start, &head)
	c := checkpoint{network: p.Network, log: p.Log, seq: p.Seq + 1, head: head, time: 1}
	kid := key.ID()
	buf, start = beginFrame(buf)
	return endFrame(c.append(buf, key, &kid), start, &head)
}
