package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/audit"
)

const (
	maxTrace  = 2000 // receipts that are printed
	minPrefix = 6    // characters that an ID is told by

	defaultDepth = 12
)

func newAuditTrace(f *auditFlags) *cobra.Command {
	depth := 0
	cmd := &cobra.Command{
		Use:   "trace ID FILE…",
		Short: "Print what a message, task, call or receipt came from and led to",
		Long: fmt.Sprintf(`Trace prints the receipts that are about ID with all that they came from and led to, as a tree from the
first causes to the last effects; those about ID are marked with *. ID is the number of a receipt, or the ID of a
message, task or call; of a longer one, the first %d characters or more are enough. A receipt with several causes is
printed below the first of them, and elsewhere only named. Of large traces, the %d receipts nearest to ID are printed.`, minPrefix, maxTrace),
		Example: `  converge audit trace 4711 data/audit
  converge audit trace 9f2c81d0 data/audit`,
		Args: files("ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			if depth < 1 {
				return usageError(cmd, errors.New("--depth: want at least 1"))
			}
			err := traceReceipts(out, f, audit.Bounds{Receipts: maxTrace, Steps: depth}, given[0], given[1:])
			return errors.Join(out.Flush(), err)
		},
	}
	cmd.Flags().IntVar(&depth, "depth", defaultDepth, "how many `steps` away from ID to go")
	return cmd
}

// isOf returns what tells whether a receipt is meant by an ID.
func isOf(id string) func(*audit.Entry) bool {
	digits, onlyNumber := strings.CutPrefix(id, "#")
	seq, err := strconv.ParseUint(digits, 10, 64)
	isNumber := err == nil && seq > 0
	return func(e *audit.Entry) bool {
		if isNumber && e.Seq == seq {
			return true
		}
		return id != "" && !onlyNumber && (e.Subject == id || len(id) >= minPrefix && strings.HasPrefix(e.Subject, id))
	}
}

func traceReceipts(out io.Writer, f *auditFlags, b audit.Bounds, id string, names []string) error {
	known, is := agentNames{}, isOf(id)
	match := func(e *audit.Entry) bool {
		known.learn(e)
		return is(e)
	}
	nodes, more, err := audit.Trace(f.check(), match, b, names...)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return &exitError{exitFailed, fmt.Errorf("trace: no receipt is about %q", id), "give the number of a receipt, or the ID of a message, task or call, as \"converge audit show\" prints them"}
	}
	if f.output == "json" {
		return printTraceJSON(out, nodes, known)
	}
	t := &tree{out: out, names: known, nodes: map[uint64]*audit.Node{}, printed: map[uint64]bool{}}
	for i := range nodes {
		t.nodes[nodes[i].Seq] = &nodes[i]
	}
	for i := range nodes {
		if len(nodes[i].Causes) == 0 {
			t.print(nodes[i].Seq, "", "")
		}
	}
	for i := range nodes { // there is nothing left, unless what implies what goes in a circle
		if !t.printed[nodes[i].Seq] {
			t.print(nodes[i].Seq, "", "")
		}
	}
	if more > 0 {
		fmt.Fprintf(out, "and %d more, further away from %s (--depth)\n", more, plain(id))
	}
	return t.err
}

func printTraceJSON(out io.Writer, nodes []audit.Node, known agentNames) error {
	encoder := json.NewEncoder(out)
	for i := range nodes {
		r := receiptOf(&nodes[i].Entry, known)
		r.Causes, r.Match = nodes[i].Causes, nodes[i].Match
		if err := encoder.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// tree prints receipts as a tree.
type tree struct {
	out     io.Writer
	names   agentNames
	nodes   map[uint64]*audit.Node
	printed map[uint64]bool
	err     error
}

// print prints a receipt and what it led to. lead stands before its own line, and rest before the lines below it.
func (t *tree) print(seq uint64, lead, rest string) {
	n := t.nodes[seq]
	if t.printed[seq] {
		t.line("%s%d (above)", lead, seq)
		return
	}
	t.printed[seq] = true
	mark := ""
	if n.Match {
		mark = "* "
	}
	e := n.Entry
	e.Receipt.Causes = nil // the tree shows them
	t.line("%s%s%s", lead, mark, describe(&e, t.names))
	for i, effect := range n.Effects {
		switch {
		case len(n.Effects) == 1: // a chain goes straight down
			t.print(effect, rest+"→ ", rest)
		case i == len(n.Effects)-1:
			t.print(effect, rest+"└ ", rest+"  ")
		default:
			t.print(effect, rest+"├ ", rest+"│ ")
		}
	}
}

func (t *tree) line(format string, args ...any) {
	if _, err := fmt.Fprintf(t.out, format+"\n", args...); err != nil && t.err == nil {
		t.err = err
	}
}
