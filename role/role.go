// Package role has agents that need no code: a [Worker] claims tasks and runs tools for them, a
// [Coordinator] submits tasks and collects the results. Both are ordinary converge.Agents; `converge
// run` makes them from a configuration file.
//
// For every task that it ends, a worker signs a [Statement] and sends it to the submitter, so that the
// coordinator's account rests on what the worker's key vouched for, not on the task record alone.
package role

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/task"
)

// Content types of the messages between workers and coordinators.
const (
	StatementType = "application/vnd.converge.task-statement+json"
	// RequestType asks the worker for its statement on the message's task once more; the body is empty.
	RequestType = "application/vnd.converge.task-statement-request"
)

// Statement is what a worker vouches for: how a task that it held has ended. The message that carries
// it names the task and is signed by the worker. The result itself stays in the task record; the
// statement has its digest, whatever its size.
type Statement struct {
	Status task.Status `json:"status"`           // completed or failed
	Digest string      `json:"digest,omitempty"` // SHA-256 of the result, in hexadecimal, if completed
	Error  string      `json:"error,omitempty"`  // why, if failed
}

// digest returns the SHA-256 of a result in hexadecimal.
func digest(result []byte) string {
	sum := sha256.Sum256(result)
	return hex.EncodeToString(sum[:])
}

// maxStatement is the size of a statement in bytes at most; a coordinator keeps several for a task.
const maxStatement = 16 << 10

// readStatement reads a message of [StatementType].
func readStatement(m *message.Message) (Statement, error) {
	var s Statement
	if len(m.Body()) > maxStatement {
		return s, fmt.Errorf("statement on task %q: %d bytes where at most %d are allowed", m.TaskID(), len(m.Body()), maxStatement)
	}
	if err := json.Unmarshal(m.Body(), &s); err != nil {
		return s, fmt.Errorf("statement on task %q: %w", m.TaskID(), err)
	}
	if s.Status != task.Completed && s.Status != task.Failed {
		return s, errors.New("a statement is on a task that has completed or failed")
	}
	return s, nil
}

// vouchesFor reports whether the statement says what the record does.
func (s Statement) vouchesFor(t task.Task) bool {
	return s.Status == t.Status && (s.Status == task.Failed || s.Digest == digest(t.Result))
}
