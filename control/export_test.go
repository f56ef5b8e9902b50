package control

import "net/url"

// ParseTaskQuery is parseTaskQuery for tests.
func ParseTaskQuery(v url.Values) (TaskQuery, error) { return parseTaskQuery(v) }

// Values is values for tests.
func (q TaskQuery) Values() url.Values { return q.values() }
