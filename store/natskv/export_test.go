package natskv

import "time"

// PruneSoon lets markers of deletions go at once when they are out of the log.
func (s *Store) PruneSoon() { s.purge.age, s.purge.every = 0, 10*time.Millisecond }

// Decode reads a stored message of bucket "b" as stores do; ok means that it is a change of a key.
func Decode(subject string, header map[string][]string, data []byte, sequence uint64) (key, back string, ok bool) {
	c := Config{Bucket: "b"}
	d, err := c.decode(subject, header, data, sequence)
	if err != nil {
		return "", "", false
	}
	return d.key, c.subject(d.key), true
}

// Subject returns the subject of a key in bucket "b".
func Subject(key string) string { return Config{Bucket: "b"}.subject(key) }
