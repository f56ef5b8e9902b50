//go:build !soak

package command_test

const hungPrograms = 100 // 1,000 with the tag soak

const quickRuns = 100 // 1,000 with the tag soak
