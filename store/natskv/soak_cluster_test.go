//go:build soak

package natskv_test

import (
	"errors"
	"testing"
	"time"

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

// TestWithoutQuorumNothingIsAcknowledged leaves one server of three.
func TestWithoutQuorumNothingIsAcknowledged(t *testing.T) {
	c := startCluster(t, 3)
	s := open(t, natskv.Config{JetStream: connect(t, c[0].address()), Patience: 5 * time.Second})
	rev := mustPut(t, s, "a", "1", 0)
	c[1].stop()
	c[2].stop()
	_, err := s.Put(t.Context(), "a", []byte("2"), rev)
	if !errors.Is(err, natskv.ErrUnavailable) {
		t.Fatalf("Put without a quorum gives %v", err)
	}
	t.Log(err)
	hint(t, err, "half of")
	if err := s.Delete(t.Context(), "a", rev); !errors.Is(err, natskv.ErrUnavailable) {
		t.Fatalf("Delete without a quorum gives %v", err)
	}
	c[1].start(t)
	until(t, "the cluster has a leader", func() bool {
		e, err := s.Get(t.Context(), "a")
		if err == nil {
			rev = e.Revision
		}
		return err == nil || errors.Is(err, store.ErrNotFound)
	})
	c[2].start(t)
}

// TestNodesOfClusterStopInTurn stops whichever server leads, again and again.
func TestNodesOfClusterStopInTurn(t *testing.T) {
	c := startCluster(t, 3)
	bucket := newBucket()
	js := connect(t, c.url())
	var stores []*natskv.Store
	for range 3 {
		stores = append(stores, open(t, natskv.Config{JetStream: connect(t, c.url()), Bucket: bucket, History: 1 << 16, Patience: patience}))
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
