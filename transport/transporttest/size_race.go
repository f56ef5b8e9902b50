//go:build race

package transporttest

// Sizes of the same tests with the race detector, under which each signature and each handshake takes many times as
// long. What they want of a transport is the same.
const (
	crowdSize = 60
	poured    = 20
	burst     = 2
	heard     = 25
	flapped   = 150
)
