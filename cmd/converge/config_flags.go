package main

import (
	"os"

	"github.com/spf13/pflag"

	"github.com/converge-agents/converge/config"
)

// configFlags say which configuration a command reads.
type configFlags struct {
	file string
	vars variables
}

func (f *configFlags) add(flags *pflag.FlagSet) {
	f.vars = variables{}
	flags.StringVarP(&f.file, "config", "c", defaultConfig, "configuration `file`, YAML or TOML")
	flags.Var(f.vars, "var", "set a variable of the file to a value, as `name=value`; may be repeated")
}

// load reads and checks the configuration, with what the environment sets in it.
func (f *configFlags) load() (*config.Config, error) {
	return config.Load(f.file, config.Options{Vars: f.vars, Environ: os.Environ()})
}
