//go:build !soak

package remote_test

const (
	lossySeeds = 2 // 5 with the tag soak
	raceTasks  = 10
)
