//go:build soak

package local_test

import (
	"testing"

	"github.com/converge-agents/converge/transport/local"
	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMillionMalformedFrames(t *testing.T) {
	transporttest.Malformed(t, fabric{newNetwork(t, local.Config{})}, transporttest.MalformedConfig{})
}
