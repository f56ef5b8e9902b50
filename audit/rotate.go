package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
)

// turn is a change of the key that is under way.
type turn struct {
	from  identity.ID
	next  *identity.Identity
	ended chan error // holds its outcome
}

// RotateKey has another key sign from now on. The one that signs now makes a last checkpoint over all that is there, and
// names next, in a statement that every later file holds; whoever trusts it can follow it to next, see [Check]. It
// returns when next has signed a checkpoint that is on the disk, and it is in force then. Keep next where it survives before you
// call it, and the key before until it has returned: a process that dies meanwhile does not know which of them is in
// force, and neither does one that gets an error. [Open] does, if it has both ([Config.Next]).
//
// Errors: [ErrInvalid] if next is an operational key, or has signed this log before, if another change is under way, or if
// there were [MaxRotations]; [ErrBroken], [ErrClosed], and ctx's cause, with which the change may still take place.
func (l *Log) RotateKey(ctx context.Context, next *identity.Identity) error {
	t, err := l.turnTo(next)
	if err != nil {
		return fmt.Errorf("rotate the key of the audit log: %w", err)
	}
	l.wake()
	select {
	case err = <-t.ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("rotate the key of the audit log: %w", err)
	}
	return nil
}

// turnTo asks the writer for a change.
func (l *Log) turnTo(next *identity.Identity) (*turn, error) {
	if next == nil || next.ID() != identity.IDOf(next.PublicKey()) {
		return nil, fmt.Errorf("%w: the next key has to be a root key", ErrInvalid)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	switch {
	case l.turn != nil:
		return nil, fmt.Errorf("%w: another change of the key is under way", ErrInvalid)
	case l.header.names(next.ID()):
		return nil, fmt.Errorf("%w: key %s has signed this log already", ErrInvalid, next.ID())
	case len(l.header.changes) >= MaxRotations:
		return nil, fmt.Errorf("%w: the key has changed %d times: begin another folder", ErrInvalid, MaxRotations)
	}
	l.turn = &turn{l.kid, next, make(chan error, 1)}
	return l.turn, nil
}

// changeKey has the job end the current file with the key of so far, and begin the next one with the other; mu is held.
func (l *Log) changeKey(j *job) {
	j.turn = l.turn
	l.note(j.turn.begun())
	j.sync, j.signed = true, l.sign()
	j.frames, l.pending = l.pending, nil
	c := change{
		at:   checkpoint{l.header.network, l.header.log, l.seq, l.head, time.Now().UnixNano()},
		from: l.header.key, to: j.turn.next.PublicKey(),
	}
	l.header.changes = append(slices.Clip(l.header.changes), c.sign(l.key))
	l.header.key = c.to
	l.key, l.kid = j.turn.next, j.turn.next.ID()
	l.rotate(j)
	l.room.Broadcast()
}

// answer tells who asked for a change of the key how that has ended; mu is held.
func (l *Log) answer(j *job) {
	t := l.turn
	if t == nil || t != j.turn && l.broken == nil && !j.last {
		return
	}
	l.turn = nil
	switch {
	case l.broken != nil:
		t.ended <- l.broken
	case t != j.turn:
		t.ended <- ErrClosed
	default:
		t.ended <- nil
	}
}

// begun is the last receipt under the key before.
func (t *turn) begun() Receipt {
	return Receipt{
		Action: "rotate_key", Outcome: "begun", Subject: t.next.ID().String(),
		Reason: fmt.Sprintf("key %s signs up to here", t.from),
	}
}

// done is the first receipt under the next key.
func (t *turn) done() Receipt {
	return Receipt{
		Action: "rotate_key", Outcome: "ok", Subject: t.next.ID().String(),
		Reason: fmt.Sprintf("it signs from here on, in place of %s", t.from),
	}
}

// Rotations returns the changes of the key so far, from the first key on.
func (l *Log) Rotations() []Rotation {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Rotation
	for _, raw := range l.header.changes {
		if c, err := decodeChange(raw); err == nil { // they were verified, or made here
			all = append(all, c.rotation())
		}
	}
	return all
}
