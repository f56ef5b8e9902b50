//go:build soak

package command_test

const hungPrograms = 1000

const quickRuns = 1000
