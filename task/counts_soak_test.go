//go:build soak

package task_test

const propertyChecks = "100"
