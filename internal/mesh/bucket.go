package mesh

import "time"

// bucket limits what one connection brings in. It is not safe for concurrent use: the connection's
// reader owns it. It starts full, and holds one second's worth.
type bucket struct {
	frames, bytes       float64 // tokens; below zero is what has to be waited for
	frameRate, byteRate float64 // per second
	last                time.Time
}

func newBucket(frames, bytes int) bucket {
	return bucket{float64(frames), float64(bytes), float64(frames), float64(bytes), time.Now()}
}

// take takes tokens for what has arrived, and returns how long to wait before more is read.
func (b *bucket) take(frames, bytes int) time.Duration {
	now := time.Now()
	passed := max(0, now.Sub(b.last).Seconds())
	b.last = now
	b.frames = min(b.frameRate, b.frames+passed*b.frameRate) - float64(frames)
	b.bytes = min(b.byteRate, b.bytes+passed*b.byteRate) - float64(bytes)
	debt := max(0, -b.frames/b.frameRate, -b.bytes/b.byteRate)
	return time.Duration(debt * float64(time.Second))
}
