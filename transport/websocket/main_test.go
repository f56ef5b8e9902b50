package websocket_test

import (
	"testing"

	"github.com/converge-agents/converge/transport/transporttest"
)

func TestMain(m *testing.M) { transporttest.Main(m) }
