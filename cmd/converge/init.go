package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/message"
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

If there is a passphrase, the keys are sealed with it: what CONVERGE_PASSPHRASE holds, or the first
line of the file that --passphrase-file names. Whoever runs the network then has to give it too.`,
		Example: `  converge init
  converge init demo --network orders`,
		Args: words("[DIR]"),
		RunE: func(cmd *cobra.Command, given []string) error {
			dir := "."
			if len(given) > 0 {
				dir = given[0]
			}
			if err := message.CheckNetwork(name); err != nil {
				return usageError(cmd, fmt.Errorf("--network: %w", err))
			}
			return initNetwork(cmd.OutOrStdout(), dir, name, passphraseFile)
		},
	}
	cmd.Flags().StringVar(&name, "network", "demo", "`name` of the network; it is part of every signature")
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase of the keys (instead of CONVERGE_PASSPHRASE)")
	return cmd
}

// initNetwork writes the keys first, so that a configuration that is there is one that runs.
func initNetwork(out io.Writer, dir, name, passphraseFile string) error {
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "converge.yaml")
	if _, err := os.Lstat(path); err == nil {
		return errExists(path)
	}
	text := config.Template(name)
	c, err := config.Parse(path, text, config.Options{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := makeKeys(out, c, passphrase); err != nil {
		return err
	}
	if err := writeNew(path, text); err != nil {
		return err
	}
	fmt.Fprintln(out, "wrote", path)
	_, err = fmt.Fprintf(out, "\nRun it with:\n  converge run%s --exit-when-done\n", configFlag(path))
	return err
}

// makeKeys makes the keys that are missing, and prints whose they are.
func makeKeys(out io.Writer, c *config.Config, passphrase []byte) error {
	for _, a := range c.Agents {
		for _, agent := range a.Names() {
			path := network.KeyPath(c.Data, agent)
			id, _, err := network.EnsureKey(path, passphrase)
			if err != nil {
				return fmt.Errorf("init: agent %q: %w", agent, err)
			}
			fmt.Fprintln(out, "key  ", path, " ID", id.ID())
		}
	}
	return nil
}

// configFlag returns what the command line has to say of a configuration file.
func configFlag(path string) string {
	if path == defaultConfig {
		return ""
	}
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") != "" {
		path = "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return " -c " + path
}

func errExists(path string) error {
	return &exitError{exitFailed, fmt.Errorf("init: %s exists", path), "remove it, or name another folder: converge init DIR"}
}

// writeNew writes a file that must not exist.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return errExists(path)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("init: %w", err), os.Remove(path))
	}
	return nil
}
