//go:build !race

package transporttest

// crowdSize is how many peers one agent has to serve.
const crowdSize = 1000
