//go:build race

package tcp_test

// rotatedAmid is fewer with the race detector, under which each signature takes many times as long.
const rotatedAmid = 100
