//go:build soak

package postgres_test

import (
	"testing"

	"github.com/converge-agents/converge/internal/tasktest"
)

func TestHundredClaimersOfTenThousandTasks(t *testing.T) { claimers(t, 10, 100, 10000) }

func TestTasksOfProcessKilledThousandTimes(t *testing.T) { tasksOfKilledProcess(t, *tasktest.Loops) }
