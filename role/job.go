package role

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/task"
)

// job is one run of a coordinator's tasks, which may take several runs of its process. Tasks get the job's
// idempotency keys, so that a coordinator that goes on with it submits none twice and finds what has ended.
type job struct {
	digest  [sha256.Size]byte // of the tasks: others are another job
	id      [16]byte
	started time.Time // to the millisecond
	done    bool
}

func newJob(tasks []task.Spec) (j job, err error) {
	encoded, err := json.Marshal(tasks)
	if err != nil {
		return job{}, fmt.Errorf("role.CoordinatorConfig.Tasks: %w", err)
	}
	j.digest = sha256.Sum256(encoded)
	rand.Read(j.id[:]) // never fails
	return j, nil
}

// key returns the idempotency key of a task.
func (j *job) key(index int) string { return hex.EncodeToString(j.id[:]) + "/" + strconv.Itoa(index) }

// A job is an array in deterministic CBOR (RFC 8949, section 4.2.1): [1, digest, ID, milliseconds since 1970
// when it began, 1 if it is done].
const (
	jobVersion = 1
	jobFields  = 5
)

func (j *job) encode() []byte {
	b := cose.AppendUint(cose.AppendArray(nil, jobFields), jobVersion)
	b = cose.AppendBytes(cose.AppendBytes(b, j.digest[:]), j.id[:])
	done := uint64(0)
	if j.done {
		done = 1
	}
	return cose.AppendUint(cose.AppendInt(b, j.started.UnixMilli()), done)
}

func decodeJob(state []byte) (j job, err error) {
	r := cose.NewReader(state)
	fields, version := r.Array(), r.Uint()
	if r.Err() == nil && version > jobVersion {
		return job{}, fmt.Errorf("job of version %d, newer than %d, the newest that this program knows", version, jobVersion)
	}
	digest, id, started, done := r.Bytes(), r.Bytes(), r.Int(), r.Uint()
	if r.End() != nil || fields != jobFields || version != jobVersion || copy(j.digest[:], digest) != len(digest) ||
		copy(j.id[:], id) != len(id) || done > 1 {
		return job{}, errors.New("it is not the job of a coordinator")
	}
	j.started, j.done = time.UnixMilli(started), done == 1
	if !bytes.Equal(j.encode(), state) {
		return job{}, errors.New("it is not the job of a coordinator")
	}
	return j, nil
}

// Checkpoint implements converge.Checkpointer.
func (k *Coordinator) Checkpoint() ([]byte, error) {
	if !k.changed {
		return nil, nil
	}
	k.changed = false
	return k.job.encode(), nil
}

// Restore implements converge.Checkpointer: the coordinator goes on with the job of an earlier run, unless that is
// done, or was another one.
func (k *Coordinator) Restore(state []byte) error {
	j, err := decodeJob(state)
	if err != nil {
		return err
	}
	if !j.done && j.digest == k.job.digest {
		k.job = j
	}
	return nil
}

// begin gives the tasks that have no ID those of the job.
func (k *Coordinator) begin() {
	if k.job.started.IsZero() {
		k.job.started, k.changed = k.config.Now().Truncate(time.Millisecond), true
	}
	for i := range k.config.Tasks {
		spec := &k.config.Tasks[i]
		if spec.ID == "" {
			spec.IdempotencyKey = k.job.key(i)
			spec.ID = task.IDForKey(k.config.ID, spec.IdempotencyKey)
		}
		k.byID[spec.ID] = i
	}
	if k.config.Deadline > 0 {
		k.deadline = k.job.started.Add(k.config.Deadline)
	}
}
