package tasktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/task"
)

// The child is told by its environment where the store is, and which submission is the next of each submitter.
const (
	placeVariable = "CONVERGE_TASKTEST_PLACE"
	nextVariable  = "CONVERGE_TASKTEST_NEXT"
)

const (
	submitters = 4
	workers    = 8
	backlog    = 64 // tasks of one life that wait
	network    = "kills.example"
	kind       = "kills"
)

// crew is agents that work on a store with one manager.
type crew struct {
	t         testing.TB
	manager   *task.Manager
	submitter *task.Signer
	worker    *task.Signer
	profile   task.Profile
	wake      chan struct{}
}

func newCrew(t testing.TB, s store.Store) *crew {
	t.Helper()
	registry := identity.NewRegistry(0)
	var signers []*task.Signer
	for seed := range byte(2) {
		id, err := identity.FromSeed(bytes.Repeat([]byte{seed + 1}, 32))
		if err == nil {
			err = registry.Register(id.ID(), id.PublicKey())
		}
		signer, err2 := task.NewSigner(id, network)
		if err = errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		signers = append(signers, signer)
	}
	verifier, err := task.NewVerifier(registry, network)
	if err != nil {
		t.Fatal(err)
	}
	m, err := task.New(task.Config{Store: s, Verifier: verifier, Retention: task.Forever, MaxPending: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &crew{
		t: t, manager: m, submitter: signers[0], worker: signers[1], wake: make(chan struct{}, 1),
		profile: task.Profile{Agent: signers[1].ID(), Kinds: []string{kind}},
	}
}

// attach follows the store until the function that it returns is called.
func (c *crew) attach() (detach func()) {
	return c.manager.Attach(func(task.Task) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	})
}

// live is what the child does, until it is killed.
func live(t *testing.T, s store.Store) {
	c := newCrew(t, s)
	c.attach()
	room := make(chan struct{}, backlog)
	var all sync.WaitGroup
	for i, next := range strings.Fields(os.Getenv(nextVariable)) {
		n, _ := strconv.Atoi(next)
		all.Go(func() { c.submitForever(i, n, room) })
	}
	for range workers {
		all.Go(func() { c.workForever(room) })
	}
	all.Go(c.watch)
	all.Wait()
}

var speaking sync.Mutex

// say writes a line at once and whole.
func say(words ...any) {
	speaking.Lock()
	defer speaking.Unlock()
	os.Stdout.WriteString(fmt.Sprintln(words...))
}

// submitForever submits one task after the other, of which the first may be there already.
func (c *crew) submitForever(submitter, n int, room chan<- struct{}) {
	for ; ; n++ {
		spec := task.Spec{
			Kind: kind, IdempotencyKey: fmt.Sprintf("%d/%d", submitter, n), ClaimTTL: claimTTL, MaxAttempts: task.MostAttempts,
			Backoff: task.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond},
		}
		if errs := c.submitter.SignSpecs(&spec); errs != nil {
			say("error", errs[0])
			return
		}
		k, err := c.manager.Submit(context.Background(), spec)
		if err != nil {
			say("error", err)
			return
		}
		say("submitted", submitter, n, k.ID, k.Existed)
		room <- struct{}{}
	}
}

func (c *crew) workForever(room <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	for {
		if !c.work(say) {
			select {
			case <-c.wake:
			case <-tick.C:
			}
			continue
		}
		select {
		case <-room:
		default: // it was of an earlier life
		}
	}
}

// work claims one of the first tasks and ends it, and tells whether a task was completed.
func (c *crew) work(say func(...any)) bool {
	visible := c.manager.Visible(c.profile, 2*workers)
	if len(visible) == 0 {
		return false
	}
	claim, _, err := c.manager.Claim(context.Background(), visible[rand.IntN(len(visible))].ID, c.profile)
	if errors.Is(err, task.ErrNotPending) || errors.Is(err, task.ErrTerminal) {
		return false
	}
	if err != nil {
		say("error", err)
		return false
	}
	say("claimed", claim.TaskID, claim.Epoch)
	return c.end(claim, say)
}

// end reports most tasks, gives some up, and lets go of some.
func (c *crew) end(claim task.Claim, say func(...any)) bool {
	ending := task.Completion(claim, result(claim.Epoch), "text/plain")
	chance := rand.IntN(20)
	if chance == 0 {
		ending = task.Failure(claim, "another time")
	}
	var err error
	if chance == 1 {
		_, err = c.manager.Release(context.Background(), claim)
	} else if errs := c.worker.SignEndings(&ending); errs != nil {
		err = errs[0]
	} else {
		_, err = c.manager.End(context.Background(), ending)
	}
	done := chance > 1 && err == nil
	if done {
		say("ended", claim.TaskID, claim.Epoch)
	} else if err != nil && !task.IsLost(err) {
		say("error", err)
	}
	return done
}

// result is what the winner of an epoch reports.
func result(epoch uint64) []byte { return fmt.Appendf(nil, "of epoch %d", epoch) }

// watch tells of all tasks and what becomes of them.
func (c *crew) watch() {
	for change, err := range c.manager.Watch(context.Background(), task.Filter{}, 0) {
		k := change.Task
		switch {
		case err != nil:
			say("error", err)
			return
		case change.Gone:
			say("gone", k.ID)
		case !change.Synced:
			say("seen", k.ID, int(k.Status), k.Epoch, uint64(k.Revision))
		}
	}
}

// workOff works until all tasks have ended, also those whose claims nobody holds any more.
func (c *crew) workOff() {
	c.t.Helper()
	defer c.attach()()
	quiet := func(words ...any) {
		if words[0] == "error" {
			c.t.Error(words...)
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !c.done() && !c.t.Failed(); <-tick.C {
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for len(c.manager.Visible(c.profile, 1)) > 0 && !c.t.Failed() {
					c.work(quiet)
				}
			})
		}
		all.Wait()
		if time.Now().After(deadline) {
			c.t.Errorf("tasks are left after %v", patience)
		}
	}
}

// done tells whether all tasks of the store have ended.
func (c *crew) done() bool {
	for _, k := range c.all() {
		if !k.Status.Terminal() {
			return false
		}
	}
	return true
}

// all returns the tasks of the store.
func (c *crew) all() (all []task.Task) {
	c.t.Helper()
	for after := ""; ; {
		page, err := c.manager.List(c.t.Context(), task.Filter{}, task.MaxPage, after)
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, page.Tasks...)
		if after = page.Next; after == "" {
			return all
		}
	}
}
