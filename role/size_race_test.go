//go:build race

package role_test

// limitedTasks is smaller with the race detector, under which each signature takes many times as long.
const limitedTasks = 150
