// Package llm has language models decide as agents of a network.
//
// A [Provider] is a model behind somebody's interface; packages openai and anthropic implement it. An [Agent] is a
// converge.Agent that asks one. The model sees the tools on the agent's allowlist, the peers that it may write to and
// the capabilities that it may submit tasks for, as functions. What it calls becomes decisions; the runtime stamps
// sender, signature and authority, and the guard stands before each tool. What an agent with a model promises:
//
//   - A model can do what the configuration grants, and nothing else, whatever it is talked into. An unknown function,
//     argument, recipient or capability is refused, counted, and told to the model; there is no argument for a sender,
//     a key, a pool or another task.
//   - What peers and tools have said stands between fences that it cannot foresee, with the name of its source, and with
//     all that does not show made visible. The system prompt says that it is data. That makes it harder to talk a model
//     into something; it is not what the first promise rests on.
//   - Each conversation carries the labels (package taint) of all that the model was shown in it, and so does each tool
//     call.
//   - A model that does not answer holds up nobody. Calls, tasks and days have their bounds in time, tokens, calls and
//     cost; at a bound, the task fails and says which. What a day has used survives a restart, where the runtime has
//     checkpoints.
//   - Keys show in no error, log or record.
package llm
