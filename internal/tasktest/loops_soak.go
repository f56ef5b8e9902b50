//go:build soak

package tasktest

import "flag"

// Loops is how often a soak test of [Kills] kills its process.
var Loops = flag.Int("loops", 1000, "how often a process is killed")
