//go:build !race

package message_test

// batchSizes are the batches of which every proof is altered in every way.
var batchSizes = []int{2, 3, 4, 5, 6, 7, 8, 9}
