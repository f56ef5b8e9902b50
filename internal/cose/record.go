package cose

import (
	"errors"
	"time"
)

// ErrNewer says that a record has a version that this program does not know.
var ErrNewer = errors.New("it was written by a newer version of the program")

// Record reads a map as Fields does that holds a version under key 1. The version comes first, so that what
// follows has a meaning; field reads the values of all other keys.
func (r *Reader) Record(version uint64, field func(key int64)) {
	versioned := false
	r.Fields(func(key int64) {
		switch {
		case key == 1:
			versioned = true
			r.version(version)
		case !versioned:
			r.Fail(ErrUnexpected)
		default:
			field(key)
		}
	})
	if !versioned {
		r.Fail(ErrUnexpected)
	}
}

func (r *Reader) version(known uint64) {
	switch v := r.Uint(); {
	case v > known:
		r.Fail(ErrNewer)
	case v != known:
		r.Fail(ErrUnexpected)
	}
}

// List reads an array of up to most items, each by item.
func List[T any](r *Reader, most int, item func() T) []T {
	n := r.Array()
	if n > most {
		r.Fail(ErrUnexpected)
		return nil
	}
	all := make([]T, 0, n)
	for i := 0; i < n && r.Err() == nil; i++ {
		all = append(all, item())
	}
	return all
}

// Flag appends 1 if is.
func (w *MapWriter) Flag(k byte, is bool) {
	if is {
		w.Uint(k, 1)
	}
}

// FromTime returns an instant as most records have it: nanoseconds since 1970, and 0 for the zero time.
func FromTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// ToTime returns the instant that FromTime was given, in UTC.
func ToTime(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}
