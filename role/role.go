// Package role has agents that need no code: a [Worker] claims tasks and runs tools for them, a
// [Coordinator] submits tasks and collects the results. Both are ordinary converge.Agents; `converge
// run` makes them from a configuration file.
//
// The runtime signs how a worker ends its tasks, and the coordinator verifies that, so that its account rests
// on what the worker's key vouched for, whatever else the task record says and whoever keeps it.
package role
