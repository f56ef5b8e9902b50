// Package keywork holds what it costs to try a passphrase on a key file.
//
// It is a package of its own for the tests of whole commands: with the race detector, a process takes many seconds and
// more than a gigabyte to seal one key.
package keywork

import "sync/atomic"

// Standard is log2 of scrypt's cost (RFC 7914) for the files that are written: about a second and 256 MiB.
const Standard = 18

var work atomic.Int32

func init() { work.Store(Standard) }

// Log2 returns log2 of the cost of the files that are written from now on. It is [Standard] in every program.
func Log2() int { return int(work.Load()) }

// UnsafeLower has this process write files whose passphrases are guessed quickly. Only tests call it, of keys that
// guard nothing.
func UnsafeLower(log2 int) { work.Store(int32(log2)) }
