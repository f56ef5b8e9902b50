package message

// Mode is how a [Signer] signs. Receivers accept Batch and Single alike, whatever they send themselves.
type Mode uint8

// The modes.
const (
	// Batch lets messages that are signed at the same time share one signature, made over the root of a
	// Merkle tree of them; a message alone gets its own. It is the default. docs/wire.md has the format.
	Batch Mode = iota
	// Single makes one signature for each message.
	Single
	// UnsignedUnsafe makes NO signatures: verifiers refuse such messages, and only receivers that are
	// configured to receive unverified messages take them. It is for measuring what signatures cost.
	UnsignedUnsafe
)

// String returns "batch", "single" or "unsigned".
func (m Mode) String() string {
	names := [...]string{"batch", "single", "unsigned"}
	if int(m) < len(names) {
		return names[m]
	}
	return "unknown"
}
