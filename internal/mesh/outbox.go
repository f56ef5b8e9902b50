package mesh

import "sync"

// Sizes of blocks: the first one that waits is small, since most are alone; where one does not do, the next
// is of the size that is written at once: four records of TLS (RFC 8446, section 5.1).
const (
	smallBlock = 4 << 10
	largeBlock = 64 << 10
)

// block is a run of whole frames, ready to be written.
type block struct {
	buf    []byte
	frames int
}

var (
	smallBlocks = sync.Pool{New: func() any { return &block{buf: make([]byte, 0, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{buf: make([]byte, 0, largeBlock)} }}
)

// newBlock returns an empty block with room for need bytes.
func newBlock(need int, first bool) *block {
	switch {
	case need > largeBlock:
		return &block{buf: make([]byte, 0, need)}
	case first && need <= smallBlock:
		return smallBlocks.Get().(*block)
	}
	return largeBlocks.Get().(*block)
}

func (b *block) release() {
	b.buf, b.frames = b.buf[:0], 0
	switch cap(b.buf) {
	case smallBlock:
		smallBlocks.Put(b)
	case largeBlock:
		largeBlocks.Put(b)
	}
}

// outbox holds the frames that wait for one peer, encoded, in blocks. The first block stays until it has
// been written, so that it can be written again on another connection. Its owner's lock guards it.
type outbox struct {
	blocks []*block
	sealed bool // the first block is being written, or was in part
	bytes  int
}

func (o *outbox) empty() bool { return len(o.blocks) == 0 }

// add appends a data frame.
func (o *outbox) add(frame []byte) {
	need := headerSize + len(frame)
	last := o.last()
	if last == nil || len(last.buf)+need > cap(last.buf) {
		last = newBlock(need, o.empty())
		o.blocks = append(o.blocks, last)
	}
	last.buf = append(appendHeader(last.buf, typeData, len(frame)), frame...)
	last.frames++
	o.bytes += need
}

// last returns the block that may be added to, or nil.
func (o *outbox) last() *block {
	if n := len(o.blocks); n > 1 || n == 1 && !o.sealed {
		return o.blocks[n-1]
	}
	return nil
}

// first returns the block to write, which nothing is added to from then on, or nil.
func (o *outbox) first() *block {
	if o.empty() {
		return nil
	}
	o.sealed = true
	return o.blocks[0]
}

// written removes the first block.
func (o *outbox) written() {
	b := o.blocks[0]
	o.bytes -= len(b.buf)
	o.sealed = false
	o.blocks[0] = nil
	if o.blocks = o.blocks[1:]; o.empty() {
		o.blocks = nil
	}
	b.release()
}

// drop removes everything and returns how many frames that was.
func (o *outbox) drop() (frames int) {
	for _, b := range o.blocks {
		frames += b.frames
	}
	*o = outbox{} // not released: a broken connection may still be writing the first
	return frames
}
