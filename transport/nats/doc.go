// Package nats moves frames over NATS: an embedded server by default, an external server or cluster by
// URL. Every agent has a connection of its own to the broker.
//
// # What is delivered
//
// In the core mode, which is the default, a frame is delivered at most once. The frames of one sender
// reach one recipient in the order in which they were sent, direct ones and topics together. Send returns
// [transport.ErrUnreachable] for an agent that is not there: before the first frame, and after some seconds
// of silence, it asks, which costs a round trip; in between, the broker tells if nobody listens for a
// frame, and the next Send knows. Send waits when a recipient does not take in what was sent
// (Config.WhenFull, Config.Window), and while the broker is away (Config.Grace). Lost is what was on its way
// when a connection broke, what was sent to a recipient after it left and before that was known
// (Stats.Lost), and what a recipient has no room for (Endpoint.Dropped, Stats.Refused["slow_consumer"]):
// topics and broadcasts do not wait for their recipients.
//
// In the durable mode (Config.Durable) frames go through a JetStream stream, one for a network, with a
// durable consumer for each agent. When Send returns nil, the frame is stored, synced to disk, and on a
// cluster by a majority. It is delivered until it is acknowledged ([transport.Frame.Done]), also to an
// agent that was away and comes back, so it may be delivered more than once: the replay window of
// message.Verifier refuses what was accepted before. Send returns ErrUnreachable for an agent that
// never was there, or whose consumer was removed ([Endpoint.Forget]).
//
// # Subjects
//
//	converge.NETWORK.agent.ID             frames for one agent; ID in 64 hex digits
//	converge.NETWORK.topic.SEGMENTS       frames for the subscribers of a topic, by its namespace
//	converge.NETWORK.all                  frames for all agents
//	converge.NETWORK.notice.NONCE.…       answers to one connection: nobody listens, mark reached
//	converge.NETWORK.inbox.…              answers of JetStream
//
// The dots of NETWORK are written as '_', which no network's name holds. Versions and attributes of
// topics are compared at the receiver, by the header Converge-Topics. A frame with several topics is
// published once under each namespace, and the receiver keeps the first copy. A broker's permissions for
// an agent are thus publish and subscribe on "converge.NETWORK.>", and for the durable mode publish on
// "$JS.API.>" and "$JS.ACK.>" besides.
//
// # What a hostile broker can do
//
// Authenticity never depends on the broker or on what is published to it: frames are signed, and what
// package message does not accept never reaches an agent. A hostile broker, and to a lesser degree
// whoever may publish to the subjects above, can drop frames, delay and reorder them, repeat them (the
// replay window refuses them), add rubbish (it is refused and counted), see who speaks to whom and when,
// read what is not sealed, say that nobody listens where somebody does, and say that a frame is stored
// that is not. It cannot forge or alter a message, nor have one accepted twice.
package nats
