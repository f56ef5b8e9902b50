package network

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
)

// addApprovals makes the one service that approves the tool calls of all agents.
func (n *Network) addApprovals() error {
	rules, err := n.config.Policy.Compile()
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if rules.Len() == 0 {
		n.log.Warn("the policy has no rules, so no tool call will run", "remedy", "give it rules, or leave the section policy out")
	}
	key, err := n.approvalKey()
	if err != nil {
		return err
	}
	n.approvals, err = approval.New(approval.Config{
		Store:              n.store,
		Key:                key,
		Policy:             rules,
		Timeout:            time.Duration(n.config.Policy.Timeout),
		MaxPending:         n.config.Policy.MaxPending,
		MaxPendingPerAgent: n.config.Policy.MaxPendingPerAgent,
		Asked:              n.tellOfRequest,
		Record:             n.recordVerdict,
		Logger:             n.log,
	})
	if err != nil {
		return err
	}
	n.metrics.AddApprovals(n.approvals)
	return nil
}

// Approvals returns the service that approves the tool calls of all agents: what waits can be listed and decided
// on there, and through the socket in the state directory (see package control).
func (n *Network) Approvals() *approval.Service { return n.approvals }

// tellOfRequest logs that a call waits, and what to type. What the agent has chosen, but for the name of the tool,
// stays out of the log.
func (n *Network) tellOfRequest(r approval.Request) {
	how := "set data to a folder that stays, to be able to decide"
	switch {
	case n.controlled.Load():
		how = "converge approvals show " + r.ID + " --data " + quoted(n.dir) + " (or allow, deny)"
	case n.config.StoreShared() && n.config.Policy.Key != (config.Secret{}):
		how = "decide where the store and policy.key are known"
	}
	n.log.Warn("tool call waits for approval", "agent", r.Agent, "tool", r.Tool, "id", r.ID, "until", r.Expires.Local().Format(time.TimeOnly), "decide", how)
}

// quoted returns a path as a shell takes it, in whichever folder it is typed.
func quoted(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
