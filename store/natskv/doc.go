// Package natskv is a [store.Store] on a bucket of NATS JetStream that any number of processes share, with
// one server or with a cluster of them.
//
// # What decides
//
// The bucket is a stream whose messages are the changes: one subject a key, and the sequence of a message
// is the [store.Revision] of its change. A Put or Delete is one publication that the stream takes only if the
// key's last message is the one that is expected (Nats-Expected-Last-Subject-Sequence), so of several
// writers one wins, wherever they are. A deletion leaves a marker; a Put at revision 0 expects there either no
// message at all or that very marker.
//
// A publication without an answer is in doubt. It is sent again with the same expectation, which can succeed
// once at most, and each carries a mark of its own by which the store finds in the stream whether an earlier
// attempt was taken. If the answer stays away for longer than [Config.Patience], or the context ends, the error
// says that the change may have happened; it is never reported as done.
//
// # What is read
//
// Get asks the stream's leader. List and Watch rest on a copy of the bucket that the process holds in memory
// from the first of them on, values included: one subscription, however many watchers there are. Before
// a List and before the snapshot of a Watch, the leader is asked for its last sequence, and the copy has to
// have reached it; so both show every change that was acknowledged before. Sequences without a gap prove that the
// copy and the watchers missed nothing. Where there is a gap, since the stream no longer holds a change, the
// watcher gets [store.ErrCompacted].
//
// A leader that a network failure has cut off from the others keeps answering reads for some seconds, until it
// notices that it leads no more. It cannot acknowledge changes in that time.
//
// # What is kept
//
// The stream keeps the latest [Config.History] changes of each key, and the marker of a deleted key for
// [Config.MaxLog] further changes and two minutes at least; the store that deleted removes it, or the next one
// that starts to watch. At the [Config.MaxBytes] of the bucket Put returns [store.ErrFull].
//
// Durability is the server's: with sync_interval: always (SyncAlways of an embedded server) what was
// acknowledged survives a crash of all servers at once; without it, a server may lose the last two minutes when
// its machine fails, and then only the other replicas have them. A client cannot see that setting. What it
// can see it insists on: [Open] refuses a bucket whose stream is in memory, drops old entries, is read from stale
// replicas, or is otherwise not what is described here, and names the setting.
//
// Keys are those of nats kv tools, with '/' and '.' exchanged. Whoever may write to the bucket with other tools
// can change entries; what is no entry is passed over and logged.
package natskv
