//go:build soak

package natskv_test

import (
	"testing"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
	"github.com/converge-agents/converge/store/storetest"
)

func TestStoreOnCluster(t *testing.T) {
	c := startCluster(t, 3)
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, natskv.Config{JetStream: connect(t, c.url()), MaxBytes: 16 << 20, Patience: patience})
	})
}

// TestNodesOfClusterStopInTurn stops whichever server leads, again and again.
func TestNodesOfClusterStopInTurn(t *testing.T) {
	c := startCluster(t, 3)
	bucket := newBucket()
	js := connect(t, c.url())
	var stores []*natskv.Store
	for range 3 {
		stores = append(stores, open(t, natskv.Config{JetStream: connect(t, c.url()), Bucket: bucket, Patience: patience}))
	}
	seen := watchAll(t, stores[2])
	l := startLoad(t, stores[:2]...)
	for range 10 {
		l.wait(50)
		stopped := c.leader(t, js, bucket)
		stopped.stop()
		l.wait(50)
		stopped.start(t)
	}
	l.check(stores[2], seen)
}
