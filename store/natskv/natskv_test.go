package natskv_test

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
	"github.com/converge-agents/converge/store/storetest"
)

func TestMain(m *testing.M) {
	flag.Set("rapid.checks", "10") // each step is a round trip or more
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	storetest.Run(t, func(t *testing.T) store.Store { return b.open(t, natskv.Config{}) })
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	storetest.RunCompaction(t, func(t *testing.T) store.Store { return b.open(t, natskv.Config{MaxLog: 16}) })
}

func TestDurable(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	storetest.RunDurable(t, func(t *testing.T, place string) store.Store {
		sum := sha256.Sum256([]byte(place))
		return b.open(t, natskv.Config{Bucket: hex.EncodeToString(sum[:8])})
	})
}
