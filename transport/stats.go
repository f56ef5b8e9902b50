package transport

// Stats counts what happened on the connections of a network. Counters never go down.
type Stats struct {
	Connections         int // open now
	Opened, Closed      uint64
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
	// Lost counts frames that were accepted for sending and then dropped: their peer stayed away.
	Lost uint64
	// Refused counts connections and frames that were turned away, by a fixed word for the reason.
	Refused map[string]uint64
}

// Reporter is a network that keeps [Stats]. It is safe for concurrent use.
type Reporter interface{ Stats() Stats }
