package pool

import (
	"strings"

	"github.com/converge-agents/converge/message"
)

// space is the first segment of every topic that belongs to a pool.
const space = "pool"

// Topic returns the topic of a pool by its name among Spec.Topics: pool.NAME.TOPIC, where bytes of the
// pool's name other than letters, digits and '-' are written as '_' and two hexadecimal digits. It says
// nothing about whether there are such a pool and such a topic. Its errors are [ErrInvalid].
func Topic(pool, name string) (message.Topic, error) {
	if err := checkName("Name", pool); err != nil {
		return message.Topic{}, err
	}
	if name == "" || len(name) > MaxTopicName {
		return message.Topic{}, invalid("Topics: a name has %d bytes; it has 1 to %d", len(name), MaxTopicName)
	}
	t, err := message.NewTopic(space+"."+escape(pool)+"."+name, 0, nil)
	if err != nil {
		return message.Topic{}, invalid("Topics: %.80q: %v", name, err)
	}
	return t, nil
}

// Pattern returns what matches all topics of a pool.
func Pattern(pool string) (message.Pattern, error) {
	if err := checkName("Name", pool); err != nil {
		return message.Pattern{}, err
	}
	return message.ParsePattern(space + "." + escape(pool) + ".>")
}

// inSpace reports whether a topic is one that only pools can have.
func inSpace(namespace string) bool {
	return namespace == space || strings.HasPrefix(namespace, space+".")
}

// splitTopic takes apart the namespace of a pool's topic.
func splitTopic(namespace string) (pool, name string, ok bool) {
	rest, ok := strings.CutPrefix(namespace, space+".")
	if !ok {
		return "", "", false
	}
	escaped, name, ok := strings.Cut(rest, ".")
	if !ok {
		return "", "", false
	}
	pool, ok = unescape(escaped)
	return pool, name, ok
}

const hexDigits = "0123456789ABCDEF"

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-'
}

// escape makes one segment of a name.
func escape(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if isPlain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'_', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// unescape reads what escape writes, and nothing else.
func unescape(segment string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c == '_' && i+2 < len(segment) {
			high, low := strings.IndexByte(hexDigits, segment[i+1]), strings.IndexByte(hexDigits, segment[i+2])
			c = byte(max(high, 0)<<4 | max(low, 0))
			i += 2
		}
		b.WriteByte(c)
	}
	return b.String(), segment != "" && escape(b.String()) == segment
}
