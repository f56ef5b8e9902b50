package cose

// MapWriter appends a map in core deterministic encoding (RFC 8949, section 4.2.1). The keys, which are
// less than 24 as is their number, must come in ascending order. A zero value is left out.
type MapWriter struct {
	buf  []byte
	head int // where the head of the map is
}

// NewMapWriter returns a writer that appends to buf.
func NewMapWriter(buf []byte) MapWriter {
	return MapWriter{append(buf, majorMap<<5), len(buf)}
}

// End returns the buffer.
func (w *MapWriter) End() []byte { return w.buf }

func (w *MapWriter) key(k byte) {
	w.buf[w.head]++
	w.buf = append(w.buf, majorUint<<5|k)
}

// Uint appends an unsigned integer.
func (w *MapWriter) Uint(k byte, n uint64) {
	if n != 0 {
		w.key(k)
		w.buf = appendHead(w.buf, majorUint, n)
	}
}

// Int appends an integer.
func (w *MapWriter) Int(k byte, n int64) {
	if n != 0 {
		w.key(k)
		w.buf = AppendInt(w.buf, n)
	}
}

// Bytes appends a byte string.
func (w *MapWriter) Bytes(k byte, b []byte) {
	if len(b) != 0 {
		w.key(k)
		w.buf = AppendBytes(w.buf, b)
	}
}

// Text appends a text string, which has to be valid UTF-8.
func (w *MapWriter) Text(k byte, s string) {
	if s != "" {
		w.key(k)
		w.buf = AppendText(w.buf, s)
	}
}

// Texts appends an array of text strings.
func (w *MapWriter) Texts(k byte, all []string) {
	w.Array(k, len(all), func(buf []byte, i int) []byte { return AppendText(buf, all[i]) })
}

// Array appends an array of n items, each of which item appends.
func (w *MapWriter) Array(k byte, n int, item func(buf []byte, i int) []byte) {
	if n == 0 {
		return
	}
	w.key(k)
	w.buf = AppendArray(w.buf, n)
	for i := range n {
		w.buf = item(w.buf, i)
	}
}

// Item appends whatever one item write appends, zero or not.
func (w *MapWriter) Item(k byte, write func(buf []byte) []byte) {
	w.key(k)
	w.buf = write(w.buf)
}

// Fields reads a map whose keys are integers; field reads the value of each. What it leaves unread
// fails the reader sooner or later, so for a key that it does not know it calls Fail.
func (r *Reader) Fields(field func(key int64)) {
	var keys Keys
	for n := r.Map(); n > 0 && r.err == nil; n-- {
		key, known := keys.Label(r)
		if r.err == nil && !known {
			r.Fail(ErrUnexpected)
		}
		if r.err == nil {
			field(key)
		}
	}
}
