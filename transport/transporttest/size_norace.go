//go:build !race

package transporttest

// Sizes of the tests whose time goes into what is signed, verified and proved.
const (
	crowdSize = 1000 // peers that one agent has to serve
	poured    = 50   // messages that show that a path is sound
	burst     = 10   // messages that are sent in a row under load
	heard     = 50   // messages that have to arrive under load
	flapped   = 300  // messages that have to arrive over a path that flaps
)
