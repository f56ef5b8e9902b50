package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is an error of whoever typed the command.
func usageError(cmd *cobra.Command, err error) error {
	return &exitError{exitUsage, err, "see " + cmd.CommandPath() + " --help"}
}

// strict makes errors of what cobra lets pass: a subcommand or a help topic that does not exist.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
	switch {
	case cmd.HasSubCommands():
		cmd.Args = noSubcommand
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		// A command that only has subcommands does nothing with flags.
		cmd.SetUsageTemplate(strings.Replace(cmd.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	case cmd.Name() == "help":
		cmd.Args = helpTopic
	case cmd.Args != nil:
		cmd.Args = args(cmd.Args)
	}
}

// noSubcommand refuses what is left of the command line of a command that has subcommands.
func noSubcommand(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	e := &exitError{exitUsage, fmt.Errorf("unknown command %q", cmd.CommandPath()+" "+given[0]), "see " + cmd.CommandPath() + " --help"}
	if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
		e.hint = fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return e
}

func helpTopic(cmd *cobra.Command, given []string) error {
	topic, rest, err := cmd.Root().Find(given)
	if err != nil {
		return usageError(cmd.Root(), err)
	}
	if len(rest) > 0 {
		return noSubcommand(topic, rest)
	}
	return nil
}

// args makes usage errors of those of a check of arguments.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		err := check(cmd, given)
		if e := (*exitError)(nil); err == nil || errors.As(err, &e) {
			return err
		}
		return usageError(cmd, err)
	}
}

// words checks that there is an argument for each name; those of names in brackets may be missing.
func words(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) > len(names) {
			return fmt.Errorf("unexpected argument %q", given[len(names)])
		}
		for _, name := range names[len(given):] {
			if !strings.HasPrefix(name, "[") {
				return fmt.Errorf("%s is missing", name)
			}
		}
		return nil
	}
}

// format is a flag that chooses between text and json.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return errors.New("use text or json")
	}
	*f = format(s)
	return nil
}

// variables is a flag that may be repeated, each time with a name=value.
type variables map[string]string

func (v variables) String() string { return "" }
func (v variables) Type() string   { return "name=value" }

func (v variables) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("write name=value")
	}
	v[name] = value
	return nil
}

func addFormat(cmd *cobra.Command, f *format, usage string) {
	*f = "text"
	cmd.PersistentFlags().VarP(f, "output", "o", "`format` "+usage+": text or json")
	complete(cmd, "output", "text", "json")
}

// complete has shells complete the values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag
	}
}
