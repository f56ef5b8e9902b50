package network

import (
	"fmt"
	"log/slog"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/llm"
	"github.com/converge-agents/converge/replay"
)

// recallModel has an agent with a model be replayed with what the model answered then.
func recallModel(c *config.Config, a config.Agent, r *replay.Config) {
	var past *llm.Recall
	r.Agent = func(at replay.At) (converge.Agent, error) {
		past = llm.NewRecall()
		l := settingsOf(c, a)
		l.ID, l.Name, l.Recall, l.Logger = at.ID, at.Name, past, slog.New(slog.DiscardHandler)
		for _, name := range a.LLM.Peers {
			l.Peers = append(l.Peers, llm.Peer{Name: name})
		}
		return llm.New(l)
	}
	observe := r.Observe
	r.Observe = func(e *audit.Entry) error {
		if e.Kind == audit.KindModel {
			return recall(past, e)
		}
		if observe != nil {
			return observe(e)
		}
		return nil
	}
}

// recall takes in what a model answered, or what a turn made of it.
func recall(past *llm.Recall, e *audit.Entry) error {
	if len(e.Content) == 0 {
		return fmt.Errorf("%w: what the model answered; set audit.record: true, before (%s)", replay.ErrNotRecorded, e.Reason)
	}
	return past.Observe(e.Content)
}
