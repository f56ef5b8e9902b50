//go:build soak

package remote_test

const (
	lossySeeds = 5
	raceTasks  = 30
)
