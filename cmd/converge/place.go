package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/control"
)

// place says which network a command is for, by its configuration or its state directory.
type place struct {
	configFlags
	data string
}

func (p *place) add(flags *pflag.FlagSet) {
	p.configFlags.add(flags)
	flags.Lookup("config").Usage += ", of the network"
	flags.StringVar(&p.data, "data", "", "state `folder` of the network; no configuration is read then")
}

// named reports whether the command line says which network is meant.
func (p *place) named(cmd *cobra.Command) bool { return p.data != "" || cmd.Flags().Changed("config") }

// find returns the state directory, "" if it is a temporary one, and the configuration, nil if none was read.
func (p *place) find(cmd *cobra.Command) (dir string, c *config.Config, err error) {
	if p.data != "" && cmd.Flags().Changed("config") {
		return "", nil, usageError(cmd, errors.New("--data and --config: give one of them"))
	}
	if p.data != "" {
		return p.data, nil, nil
	}
	if c, err = p.load(); err != nil {
		return "", nil, err
	}
	return c.Data, c, nil
}

// ask does something with the network that runs there.
func (p *place) ask(cmd *cobra.Command, do func(*control.Client) error) error {
	dir, _, err := p.find(cmd)
	if err != nil {
		return err
	}
	if dir == "" {
		return p.unreachable()
	}
	client := control.NewClient(dir)
	defer client.Close()
	err = do(client)
	if errors.Is(err, control.ErrNotRunning) {
		return &exitError{exitFailed, err, "start it with `converge run`; --data or -c says which network it is"}
	}
	return explainPlace(err)
}

func (p *place) unreachable() error {
	return &exitError{
		exitFailed, fmt.Errorf("%s: nobody can reach this network: its state directory is a temporary one", p.file),
		"name a folder that stays, as in data: data, and start the network again",
	}
}

// explainPlace says what to do if the network cannot be asked.
func explainPlace(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &exitError{exitFailed, err, "the user who runs the network decides, and root"}
	case errors.Is(err, control.ErrTooLong):
		return &exitError{exitFailed, err, "type the command in a folder above the state directory, so that its path is short"}
	case errors.Is(err, control.ErrOther):
		return &exitError{exitFailed, err, "use the version that runs there, or start the network again with this one"}
	}
	return err
}

// authorFlags say who does something, and why, for the records.
type authorFlags struct{ note, as string }

func (f *authorFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.note, "note", "", "`text` for the records")
	flags.StringVar(&f.as, "as", "", "`name` of who does it, for the records, beside the user's")
}

func (f *authorFlags) author(cmd *cobra.Command) (control.Author, error) {
	if len(f.note) > approval.MaxNote || len(f.as) > approval.MaxBy {
		return control.Author{}, usageError(cmd, fmt.Errorf("--note has at most %d bytes, and --as %d", approval.MaxNote, approval.MaxBy))
	}
	return control.Author{Claimed: f.as, Note: f.note}, nil
}
