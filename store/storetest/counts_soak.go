//go:build soak

package storetest

const (
	enoughChanges = 400
	manyKeys      = 800
	momentLists   = 50
	countRounds   = 25
	churnRounds   = 100
	pagedKeys     = 1500
	cutRounds     = 20
	manyLives     = 8
)
