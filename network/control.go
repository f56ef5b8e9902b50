package network

import (
	"cmp"
	"context"
	"fmt"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/control"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
)

// serveControl serves the socket in the state directory until ctx ends. A network that cannot have one runs without:
// calls that are asked about are denied when their time is over.
func (n *Network) serveControl() (run func(ctx context.Context)) {
	if n.removes {
		n.log.Debug("no control socket, since the state directory is a temporary one")
		return func(context.Context) {}
	}
	server, err := control.Listen(control.Config{
		Dir: n.dir, Approvals: n.approvals, Tasks: operator{n}, Keys: operator{n}, Logger: n.log,
	})
	if err != nil {
		attributes := []any{"error", err}
		if remedy := advice.In(err); remedy != "" {
			attributes = append(attributes, "remedy", remedy)
		}
		n.log.Warn("nobody can decide on tool calls, or look after tasks and keys, through this process", attributes...)
		return func(context.Context) {}
	}
	n.log.Debug("serving the control socket", "path", server.Addr())
	n.controlled.Store(true)
	return func(ctx context.Context) {
		defer n.controlled.Store(false)
		if err := server.Run(ctx); err != nil {
			n.log.Error("the control socket has failed", "error", err)
		}
	}
}

// operator does what whoever runs the network asks for, through the control socket.
type operator struct{ *Network }

var (
	_ control.Tasks = operator{}
	_ control.Keys  = operator{}
)

// act is something that an operator does.
type act struct {
	action  string
	subject string      // the ID of a task or agent
	peer    identity.ID // the agent that it is about; zero if there is none
	urgent  bool        // it is done even if it cannot be recorded
}

// do does something for somebody, and says so in the log and in a receipt. What cannot be recorded is not done, unless it
// is urgent.
func (o operator) do(ctx context.Context, a act, by control.Author, do func() error) error {
	if err := o.auditHealthy(); err != nil && !a.urgent {
		return fmt.Errorf("%s: %w: %w", a.action, converge.ErrAudit, err)
	}
	err := do()
	attributes := []any{"action", a.action, "about", a.subject, "by", by.By, "claimed", by.Claimed}
	if err != nil {
		o.log.Warn("operator's command failed", append(attributes, "error", err)...)
	} else {
		o.log.Info("operator's command", attributes...)
	}
	if unrecorded := o.recordAct(ctx, a, by, err); unrecorded != nil {
		o.log.Error("an operator's command has no receipt", append(attributes, "error", unrecorded)...)
	}
	return err
}

func (o operator) auditHealthy() error {
	if o.audit == nil {
		return nil
	}
	return o.audit.Healthy()
}

func (o operator) recordAct(ctx context.Context, a act, by control.Author, failed error) error {
	if o.audit == nil {
		return nil
	}
	r := actReceipt(a, by, failed)
	seq, err := o.audit.Append(&r)
	if err == nil && o.auditConfig().Sync {
		err = o.audit.Sync(ctx, seq)
	}
	return err
}

func actReceipt(a act, by control.Author, failed error) audit.Receipt {
	r := audit.Receipt{Kind: audit.KindOperator, Action: a.action, Subject: a.subject, Peer: a.peer, Outcome: "ok", Reason: "by " + by.By}
	if by.Claimed != "" {
		r.Reason += ", who says to be " + by.Claimed
	}
	if failed != nil {
		r.Outcome = "failed"
		r.Reason += ": " + failed.Error()
	}
	if by.Note != "" {
		r.Reason += ": " + by.Note
	}
	return r
}

// told is an error with the meaning that it has for who asks through the socket.
type told struct {
	error
	meaning error
}

func (t *told) Unwrap() []error { return []error{t.error, t.meaning} }

// agentCalled returns the agent of a name, or of an ID.
func (o operator) agentCalled(text string) (identity.ID, error) {
	if id, err := identity.ParseID(text); err == nil {
		return id, nil
	}
	for id, name := range o.names {
		if name == text {
			return id, nil
		}
	}
	return identity.ID{}, fmt.Errorf("agent %.80q: %w: neither the name of an agent or peer of this process, nor an ID of 64 hexadecimal digits", text, control.ErrNotFound)
}

// nameOf returns what an agent is called here, the beginning of its ID if it has no name, and "" for the zero ID.
func (o operator) nameOf(id identity.ID) string {
	if id.IsZero() {
		return ""
	}
	return cmp.Or(o.names[id], id.Short())
}

// textUnlessZero returns the text form of an ID, and "" for the zero ID.
func textUnlessZero(id identity.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
