// Package ratelimit limits how often things happen: messages in all, of one sender, and under one
// topic. [Limiter] decides, and [Hook] puts it into a transport's way in; [Bucket] is a single limit
// for anything else, such as a connection.
//
// # What is guaranteed
//
// Each scope has token buckets: one global bucket, one for each sender and one for each topic. A
// bucket starts full, with Burst tokens, and gains Rate tokens a second. A message takes one token
// from every bucket that applies to it, or none from any. So the admissions of each scope never
// exceed
//
//	Burst + Rate × (latest time − time of the first message)
//
// and that holds
//
//   - under concurrency: two messages never take the same token;
//   - when the clock is set back, which never adds a token;
//   - when an identity is dropped from memory: a bucket is dropped only when it is full, so whoever
//     churns through identities never wins back a burst that was used;
//   - for limits that are not whole numbers: rates are rounded down to a whole number of nanoseconds
//     for each token, never up.
//
// The zero [Limit] denies, so a scope that was forgotten is noticed at once. What must not be limited
// has to be called [Unlimited].
//
// # Who is limited
//
// A sender is whom a verified message names. The buckets must not be shown unverified messages: else a
// forger drains the bucket of the agent whose name is used. Unverified traffic is limited by
// connection, with a [Bucket], before a signature is looked at.
//
// # Memory
//
// A limiter that is not used takes about a kilobyte. A bucket takes 16 bytes, twice that with the room
// that its table keeps free, and there are at most Config.MaxSenders and Config.MaxTopics of them,
// whoever comes. A scope that is at its bound drops the buckets that are full. While there are none,
// all further senders (or topics) share one bucket with the same limit: whoever is in the middle of a
// burst keeps a bucket, and a crowd of newcomers together gets what one sender gets. Senders and
// topics are told apart by a hash of 64 bits with a random seed, so nobody can choose an identity
// that shares another's bucket.
//
// The buckets are kept as the generic cell rate algorithm does (ITU-T I.371): one number each, the
// time at which the bucket is full again.
package ratelimit
