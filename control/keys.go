package control

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// MaxQuarantined is how many agents a list of those in quarantine has at most.
const MaxQuarantined = 500

// Keys is what the server needs of whoever knows the keys of a network's agents. Errors wrap [ErrNotFound],
// [ErrState], [ErrInvalid], and those of identity.Registry.Apply.
type Keys interface {
	Quarantined(ctx context.Context) ([]Quarantine, error)
	// ReleaseAgent ends the quarantine of an agent, which is given by its name or its ID.
	ReleaseAgent(ctx context.Context, agent string, a Author) (Quarantine, error)
	// ApplyStatement takes in a signed key statement in the form of identity.EncodeStatement: it is in force when
	// it returns, stays so, and others are told as far as there is a way.
	ApplyStatement(ctx context.Context, statement string, a Author) (Applied, error)
}

// Quarantine is an agent of which nothing counts, since its root key contradicts itself.
type Quarantine struct {
	Agent    string    `json:"agent,omitempty"` // the name here; "" if it has none
	ID       string    `json:"id"`
	Since    time.Time `json:"since"` // when this process has seen it; its start, if it has it from a store
	Why      string    `json:"why"`
	Epoch    uint64    `json:"epoch"`  // of the key that counts once the agent is released
	Counts   string    `json:"counts"` // that statement, and the one that contradicts it, as text
	Contrary string    `json:"contrary"`
}

// How others hear of a statement.
const (
	ToldByStore    = "store"    // those that share it read it there
	ToldByMessages = "messages" // peers are told, and tell others
)

// Applied is what has come of a statement.
type Applied struct {
	Agent   string `json:"agent,omitempty"` // the name here; "" if it has none
	ID      string `json:"id"`
	Epoch   uint64 `json:"epoch"`
	Revoked bool   `json:"revoked,omitempty"`
	Changed bool   `json:"changed"`        // it was not in force already
	Told    string `json:"told,omitempty"` // how others hear of it: ToldByStore, ToldByMessages, or "" if nobody does
	File    string `json:"file,omitempty"` // of the folder of statements, where it stays; "" if there is none
	// Untold is why others could not be told, or why it will be forgotten; "" if all went well.
	Untold string `json:"untold,omitempty"`
}

type quarantineBody struct {
	Agents []Quarantine `json:"agents"`
	Total  int          `json:"total"` // that there are
}

func (s *Server) listQuarantined(w http.ResponseWriter, r *http.Request) {
	all, err := s.keys.Quarantined(r.Context())
	s.answer(w, quarantineBody{all[:min(len(all), MaxQuarantined)], len(all)}, err)
}

func (s *Server) actOnQuarantine(w http.ResponseWriter, r *http.Request) {
	_, author, err := readAction(r, "release")
	if err != nil {
		invalid(w, err)
		return
	}
	released, err := s.keys.ReleaseAgent(r.Context(), r.PathValue("agent"), author)
	s.answer(w, released, err)
}

func (s *Server) applyStatement(w http.ResponseWriter, r *http.Request) {
	var body statementBody
	err := readBody(r, &body, "statement")
	if err == nil && body.Statement == "" {
		err = fmt.Errorf("statement is missing")
	}
	author, checked := authorOf(r, body.Note, body.As)
	if err == nil {
		err = checked
	}
	if err != nil {
		invalid(w, err)
		return
	}
	applied, err := s.keys.ApplyStatement(r.Context(), body.Statement, author)
	s.answer(w, applied, err)
}
