package config_test

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/config"
)

func ExampleParse() {
	file := []byte(`
network: quickstart
vars: {seconds: "5"}
tools:
  lines:
    command: [wc, -l, --, "{file}"]
    timeout: ${seconds}s
`)
	c, err := config.Parse("converge.yaml", file, config.Options{
		Vars:    map[string]string{"seconds": "20"},
		Environ: []string{"CONVERGE_LOG_LEVEL=debug"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Tools["lines"].Timeout, c.Log.Level)
	// Output: 20s debug
}

func ExampleError() {
	_, err := config.Parse("converge.yaml", []byte("network: n\nagents:\n  - name: worker\n    capabilites: {}\n"), config.Options{})
	if e, ok := errors.AsType[*config.Error](err); ok {
		fmt.Println("converge:", e)
		fmt.Println("hint:", e.Hint)
	}
	// Output:
	// converge: converge.yaml:4:5: agents[0].capabilites: unknown key
	// hint: did you mean "capabilities"?
}
