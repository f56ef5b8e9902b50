package loadtest

import (
	"encoding/binary"
	"time"
)

// clock tells the time to both sides.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// A body begins with a header: when its sender decided to say it, and the number that it has among the
// sender's messages, both big endian. The first numbers are the warm-up.
const headerSize = 16

func putHeader(body []byte, decided time.Duration, number int) {
	binary.BigEndian.PutUint64(body, uint64(decided))
	binary.BigEndian.PutUint64(body[8:], uint64(number))
}

func readHeader(body []byte) (decided time.Duration, number uint64) {
	return time.Duration(binary.BigEndian.Uint64(body)), binary.BigEndian.Uint64(body[8:])
}
