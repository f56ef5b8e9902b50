//go:build race

package transporttest

import "time"

// Sizes of the same tests with the race detector, under which each signature and each handshake takes many times as
// long. What they want of a transport is the same.
const (
	crowdSize = 60
	poured    = 10
	aside     = 5
	burst     = 2
	heard     = 25
	flapped   = 150
	cuts      = 2
	closings  = 2
	hectic    = 100
	breath    = 4
	each      = 50
	shuffled  = 100
	doubled   = 30
	replayed  = 25
	rounds    = 20
	questions = 8
	garbled   = 1500
	fickle    = 100
	knock     = 20 * time.Millisecond
)
