package nats_test

import (
	"testing"

	"github.com/converge-agents/converge/transport/nats"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMain(m *testing.M) { transporttest.Main(m) }

// TestConformanceOverTCP puts faults between clients and server.
func TestConformanceOverTCP(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Fabric {
		return newApart(t, brisk(nats.Config{}), brisk(nats.Config{}))
	})
}
