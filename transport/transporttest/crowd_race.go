//go:build race

package transporttest

// crowdSize is smaller with the race detector, under which a thousand handshakes take a minute.
const crowdSize = 200
