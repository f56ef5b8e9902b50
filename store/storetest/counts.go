//go:build !soak

package storetest

// How much the suite asks for; with the tag soak it is several times as much.
const (
	enoughChanges = 120 // of random operations
	manyKeys      = 240
	momentLists   = 20 // that are held against a writer
	countRounds   = 10 // of each racer
	churnRounds   = 40 // of each writer
	pagedKeys     = 1200
	cutRounds     = 8 // of each racer
	manyLives     = 4
)
