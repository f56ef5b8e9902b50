//go:build !race

package role_test

// limitedTasks is how many tasks have to get through the default limits.
const limitedTasks = 1200
