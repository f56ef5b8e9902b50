//go:build unix

package command_test

import "testing"

// BenchmarkRun starts a shell that does nothing, as tools are by default and without the sandbox.
func BenchmarkRun(b *testing.B) {
	for name, unsafe := range map[string]bool{"sandboxed": false, "unsafe": true} {
		b.Run(name, func(b *testing.B) {
			c := shell("exit 0")
			c.UnsafeNoSandbox = unsafe
			it := newTool(b, c)
			for b.Loop() {
				runTool(b, it, nil)
			}
		})
	}
}
