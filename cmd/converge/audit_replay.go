package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/network"
	"github.com/converge-agents/converge/replay"
)

func newAuditReplay(f *auditFlags) *cobra.Command {
	var from configFlags
	var agent string
	cmd := &cobra.Command{
		Use:   "replay FILE…",
		Short: "Have an agent decide again on what was recorded",
		Long: `Replay makes an agent of the configuration anew, shows it the turns that the log has recorded of it, with
the results of tools and the answers of models as they were, and compares what it decides with what it decided then.
Nothing is carried out: no network is used, no tool runs and no model is asked. At the first difference it prints what
was recorded and what came now, and the exit status is 1.

Only logs can be replayed that were written with audit.record: true. Workers, coordinators and agents with models can
be; a coordinator's tasks are those of the configuration, so the files that they are for have to be there as they were.
Hosts cannot.`,
		Example: `  converge audit replay data/audit -c converge.yaml --agent worker-1`,
		Args:    files(),
		RunE: func(cmd *cobra.Command, given []string) error {
			if agent == "" {
				return usageError(cmd, fmt.Errorf("--agent is missing"))
			}
			c, err := from.load()
			if err != nil {
				return err
			}
			sum, err := network.Replay(cmd.Context(), c, agent, replay.Config{Check: f.check()}, given...)
			if err != nil {
				return err
			}
			return printReplay(cmd.OutOrStdout(), sum, f.output)
		},
	}
	flags := cmd.Flags()
	from.add(flags)
	flags.StringVar(&agent, "agent", "", "`name` of the agent")
	return cmd
}

// replayJSON is the JSON form of a replay's summary.
type replayJSON struct {
	Starts     int             `json:"starts"`
	Turns      int             `json:"turns"`
	Decisions  int             `json:"decisions"`
	Difference *differenceJSON `json:"difference"`
}

type differenceJSON struct {
	Turn     uint64 `json:"turn"`
	Decision int    `json:"decision"`
	Recorded string `json:"recorded"`
	Now      string `json:"now"`
}

func printReplay(w io.Writer, s replay.Summary, f format) (err error) {
	d := s.Difference
	switch {
	case f == "json":
		r := replayJSON{s.Starts, s.Turns, s.Decisions, nil}
		if d != nil {
			r.Difference = &differenceJSON{d.Turn, d.Number, d.Recorded, d.Got}
		}
		err = json.NewEncoder(w).Encode(r)
	case d == nil:
		_, err = fmt.Fprintf(w, "%s, %s, %s: the same as recorded\n", count(s.Starts, "start"), count(s.Turns, "turn"), count(s.Decisions, "decision"))
	default:
		_, err = fmt.Fprintf(w, "the same up to turn %d; then:\n%s\n", s.Turns-1, d)
	}
	if err == nil && d != nil {
		return &exitError{code: exitFailed}
	}
	return err
}
