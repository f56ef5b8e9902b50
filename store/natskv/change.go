package natskv

import (
	"errors"
	"strconv"
	"strings"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
)

// Headers of a change.
const (
	headerOperation = "KV-Operation" // as in every bucket: absent for a put
	headerMark      = "Converge-Mark"
	headerReason    = "Nats-Marker-Reason" // of a server that removed a key by itself
)

// change is one message of the stream: an entry as it was written, or the deletion of one. It is never
// altered.
type change struct {
	key      string
	value    []byte
	sequence uint64
	deleted  bool

	linked   bool   // the message says what it replaced:
	previous uint64 // the sequence of the key's message before, 0 if there was none
	mark     string // of the publication
}

var errForeign = errors.New("its subject is not that of a key")

// exchange turns keys into the tail of subjects, where '.' separates, and back.
func exchange(text string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, text)
}

func (c Config) prefix() string            { return "$KV." + c.Bucket + "." }
func (c Config) all() string               { return c.prefix() + ">" }
func (c Config) subject(key string) string { return c.prefix() + exchange(key) }

// decode reads a stored message.
func (c Config) decode(subject string, header client.Header, data []byte, sequence uint64) (*change, error) {
	tail, ours := strings.CutPrefix(subject, c.prefix())
	key := exchange(tail)
	if !ours || store.CheckKey(key) != nil {
		return nil, errForeign
	}
	d := &change{key: key, sequence: sequence, mark: header.Get(headerMark)}
	if previous, err := strconv.ParseUint(header.Get(jetstream.ExpectedLastSubjSeqHeader), 10, 64); err == nil && previous < sequence {
		d.linked, d.previous = true, previous
	}
	switch operation := header.Get(headerOperation); {
	case operation == "DEL", operation == "PURGE", header.Get(headerReason) != "":
		d.deleted = true
	default:
		d.value = data
	}
	return d, nil
}

// message is the publication of a change that replaces the message expect; 0 means that there is none.
func (c Config) message(d *change, expect uint64) *client.Msg {
	m := &client.Msg{Subject: c.subject(d.key), Data: d.value, Header: client.Header{
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(expect, 10)},
		headerMark:                          {d.mark},
	}}
	if d.deleted {
		m.Header[headerOperation] = []string{"DEL"}
	}
	return m
}

func (d *change) revision() store.Revision { return store.Revision(d.sequence) }

// isEntry reports whether d, which may be nil, is an entry that exists while d is its key's last message.
func (d *change) isEntry() bool { return d != nil && !d.deleted }

// entry returns a copy that its receiver may change.
func (d *change) entry() store.Entry {
	e := store.Entry{Key: d.key, Revision: d.revision()}
	if !d.deleted {
		e.Value = append(make([]byte, 0, len(d.value)), d.value...)
	}
	return e
}

func (d *change) size() int { return len(d.key) + len(d.value) }
