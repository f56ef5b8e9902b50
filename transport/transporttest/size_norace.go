//go:build !race

package transporttest

import "time"

// Sizes of the tests whose time goes into what is signed, verified and proved.
const (
	crowdSize = 1000    // peers that one agent has to serve
	poured    = 50      // messages that show that a path is sound
	burst     = 10      // messages that are sent in a row under load
	heard     = 50      // messages that have to arrive under load
	flapped   = 300     // messages that have to arrive over a path that flaps
	aside     = 20      // messages that show that another path is as it was
	cuts      = 5       // cuts under load
	closings  = 5       // agents that close after they have sent
	hectic    = 500     // frames that have to arrive at full speed
	breath    = 1 << 30 // frames between two pauses of those who send at full speed: they never pause
	each      = 200     // frames of each of many senders
	shuffled  = 300     // messages that are sent in another order
	doubled   = 100     // messages that are sent three times
	replayed  = 100     // messages that arrive after the carrier repeated itself
	rounds    = 50      // honest messages among garbage
	questions = 25      // requests of one goroutine of several
	garbled   = 5000    // malformed frames for a sound transport
	fickle    = 400     // frames that arrive while subscriptions change

	knock = 2 * time.Millisecond // between messages to an agent that is away, until Send says so
)
