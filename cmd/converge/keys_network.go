package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/control"
)

// errNobody says that there is no network to hand a statement to, and that none was named.
var errNobody = errors.New("no network is named")

// isNowhere reports whether the command line names no network, and there is no configuration in this folder either.
func (p *place) isNowhere(cmd *cobra.Command) bool {
	_, err := os.Stat(p.file)
	return !p.named(cmd) && errors.Is(err, fs.ErrNotExist)
}

// handOver gives a signed statement to the network that runs at a place, and nothing secret. Its error is errNobody if
// there is none, and wraps control.ErrNotRunning if it does not run.
func (p *place) handOver(cmd *cobra.Command, raw []byte, a control.Author) (applied control.Applied, c *config.Config, err error) {
	if p.isNowhere(cmd) {
		return applied, nil, errNobody
	}
	dir, c, err := p.find(cmd)
	if err != nil {
		return applied, nil, err
	}
	if dir == "" {
		return applied, c, p.unreachable()
	}
	client := control.NewClient(dir)
	defer client.Close()
	if applied, err = client.ApplyStatement(cmd.Context(), raw, a); err == nil && applied.Untold != "" {
		err = &exitError{exitFailed, fmt.Errorf("the statement is in force in the network that runs in %s, but: %s", dir, applied.Untold),
			"hand it over again when that is mended, with `converge keys import`"}
	}
	return applied, c, explainPlace(err)
}

// statementsOf returns the folder in which a network looks for statements.
func statementsOf(c *config.Config) string {
	return cmp.Or(c.Statements, filepath.Join(c.Data, "statements"))
}

// tellApplied says where a statement is in force, and who will hear of it.
func tellApplied(w io.Writer, a control.Applied) {
	who := "agent " + a.ID
	if a.Agent != "" {
		who = fmt.Sprintf("agent %s (%s)", visible(a.Agent), a.ID)
	}
	what := fmt.Sprintf("the key of epoch %d of %s is in force", a.Epoch, who)
	if a.Revoked {
		what = who + " is revoked"
	}
	others := "others are not told by it: import the statement where they run"
	switch a.Told {
	case control.ToldByStore:
		others = "those that share its store are told"
	case control.ToldByMessages:
		others = "its peers are told"
	}
	fmt.Fprintf(w, "converge: %s in the network that runs; %s\n", what, others)
}

// tellNotHanded says what to do with a statement that no network has taken.
func tellNotHanded(w io.Writer, err error, c *config.Config, what string) {
	dir := "DIR"
	if c != nil && c.Data != "" {
		dir = statementsOf(c)
	}
	if errors.Is(err, errNobody) {
		err = errors.New("no network was told")
	}
	fmt.Fprintf(w, "converge: %v\nhint: %s is in force where it is imported: converge keys import FILE %s\n", err, what, dir)
}
