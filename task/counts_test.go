//go:build !soak

package task_test

const propertyChecks = "20" // histories that properties are held against; 100 with the tag soak
