//go:build !race

package tcp_test

// rotatedAmid is how many messages go each way between two rotations.
const rotatedAmid = 400
