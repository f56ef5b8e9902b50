//go:build race

package message_test

// batchSizes are fewer with the race detector, under which each signature takes many times as long: whole trees and
// others, of each depth once.
var batchSizes = []int{2, 3, 5, 8}
