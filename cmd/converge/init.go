package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/network"
)

func newInit() *cobra.Command {
	var name, passphraseFile string
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a commented converge.yaml, and the keys of its agents",
		Long: `Init writes DIR/converge.yaml (DIR is the current directory unless given) with a small
network that runs as it is, and makes the keys of its agents under DIR/data/keys. It overwrites
nothing: an existing converge.yaml is an error, existing keys are kept.

CONVERGE_PASSPHRASE or --passphrase-file seals the keys.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			dir := "."
			if len(given) > 0 {
				dir = given[0]
			}
			return initNetwork(cmd, dir, name, passphraseFile)
		},
	}
	cmd.Flags().StringVar(&name, "network", "demo", "`name` of the network")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase of the keys")
	return cmd
}

func initNetwork(cmd *cobra.Command, dir, name, passphraseFile string) error {
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "converge.yaml")
	text := config.Template(name)
	c, err := config.Parse(path, text, config.Options{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := writeNew(path, text); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintln(out, "wrote", path)
	for _, a := range c.Agents {
		for _, agent := range a.Names() {
			key := network.KeyPath(c.Data, agent)
			id, err := network.EnsureKey(key, passphrase)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "key   %s  %s\n", key, id.ID())
		}
	}
	fmt.Fprintf(out, "\nRun it with:\n  converge run -c %s --exit-when-done\n", path)
	return nil
}

// writeNew writes a file that must not exist.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("init: %s exists; remove it or choose another folder", path)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
