//go:build soak

package sqlite_test

import (
	"testing"

	"github.com/converge-agents/converge/internal/tasktest"
)

func TestThousandKillsLoseNothingAcknowledged(t *testing.T) {
	t.Parallel()
	killLoops(t, 1000)
}

func TestFlippedBitsOfAWholeFile(t *testing.T) {
	t.Parallel()
	flipBits(t, 5)
}

func TestHundredClaimersOfTenThousandTasks(t *testing.T) { claimers(t, 10, 100, 10000) }

func TestTasksOfProcessKilledThousandTimes(t *testing.T) { tasksOfKilledProcess(t, *tasktest.Loops) }
