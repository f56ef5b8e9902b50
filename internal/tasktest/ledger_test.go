package tasktest

import (
	"strings"
	"testing"

	"github.com/converge-agents/converge/task"
)

// What must not happen is noticed.
func TestLedgerRefusesWhatCannotBe(t *testing.T) {
	for name, c := range map[string]struct{ story, refused string }{
		"nothing wrong":         {"submitted 0 0 a false|claimed a 1|seen a 3 1 9|ended a 1|submitted 0 0 a true|seen a 3 1 9", ""},
		"late words":            {"ended a 1", "nobody has won"},
		"two winners":           {"claimed a 1|claimed a 1", "won twice"},
		"lost submission":       {"submitted 0 0 a false|submitted 0 0 a false", "was not there"},
		"completed twice":       {"claimed a 1|ended a 1|claimed a 1|ended a 1", "won twice"},
		"completed again":       {"claimed a 1|claimed a 2|ended a 1|ended a 2", "in epoch 1 and in epoch 2"},
		"claimed after its end": {"claimed a 1|ended a 1|claimed a 2", "after it was completed"},
		"undone":                {"seen a 3 1 9|seen a 1 1 10", "is pending at 10"},
		"done anew":             {"seen a 3 1 9|seen a 3 2 12", "is completed at 12"},
		"failed":                {"seen a 4 1 9", "is failed"},
		"gone":                  {"gone a", "it says"},
		"error":                 {"error disk on fire", "disk on fire"},
		"something else":        {"PASS", "PASS"},
	} {
		l := newLedger(t)
		var err error
		for line := range strings.SplitSeq(c.story, "|") {
			if err == nil {
				err = l.take(line + "\n")
			}
		}
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLedgerHoldsTheEndAgainstWhatWasTold(t *testing.T) {
	good := task.Task{Spec: task.Spec{ID: "a"}, Status: task.Completed, Epoch: 2, Revision: 9, Result: result(2)}
	for name, c := range map[string]struct {
		story string
		spoil func(*task.Task)
		wrong bool
	}{
		"as told":           {"submitted 0 0 a false|claimed a 2|ended a 2|seen a 3 2 9", func(*task.Task) {}, false},
		"more than told":    {"", func(*task.Task) {}, false},
		"not completed":     {"submitted 0 0 a false", func(k *task.Task) { k.Status = task.Assigned }, true},
		"another's result":  {"", func(k *task.Task) { k.Result = result(1) }, true},
		"in another epoch":  {"claimed a 1|ended a 1", func(*task.Task) {}, true},
		"seen in another":   {"seen a 3 1 9", func(*task.Task) {}, true},
		"written once more": {"seen a 3 2 8", func(*task.Task) {}, true},
	} {
		l := newLedger(t)
		for line := range strings.SplitSeq(c.story, "|") {
			if err := l.take(line + "\n"); line != "" && err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		k := good
		c.spoil(&k)
		if err := l.checkTask(k); (err != nil) != c.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}
