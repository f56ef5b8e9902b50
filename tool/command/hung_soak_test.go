//go:build soak

package command_test

const hungPrograms = 1000
