//go:build !race || soak

package message_test

// Sizes of the tests whose time goes into signatures.
const (
	flipStride   = 1    // every so many bits of an envelope one is flipped
	randomFlips  = 1000 // random envelopes of which one bit is flipped
	sealedStride = 3    // of ciphertext
	crashSteps   = 90   // times that traffic comes, of a life after which a crash is tried at each write
	backlogRate  = 10   // messages a second of a backlog
	refusedOnes  = 500  // messages beyond what a broken store allows
	steadyOnes   = 2000 // messages in ten seconds
	takenOver    = 400  // messages in twenty seconds
	trafficRate  = 20   // messages a second of steady traffic
	allocFrames  = 400
	stopsAmid    = 5   // stops amid concurrent verifications
	heldUp       = 500 // messages in ten seconds
	lendings     = 10
)

// batchSizes are the batches of which every proof is altered in every way.
var batchSizes = []int{2, 3, 4, 5, 6, 7, 8, 9}
