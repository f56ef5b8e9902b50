package natskv

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
)

// Defaults of a [Config].
const (
	DefaultMaxBytes = 1 << 30
	DefaultHistory  = 64
	DefaultMaxLog   = 64 << 10
	DefaultPatience = 10 * time.Second
)

// Config says where a store is and how it keeps what it holds. MaxBytes, History and Replicas are those
// of a bucket that does not exist yet; one that does keeps its own.
type Config struct {
	// JetStream reaches the bucket; required. The store does not close its connection, which should reconnect
	// for ever (nats.MaxReconnects(-1)).
	JetStream jetstream.JetStream
	// Bucket names the bucket: 1 to 64 letters, digits, '-' and '_'. Required. Open makes it unless it exists.
	Bucket string
	// Replicas is how many servers of a cluster hold the bucket; 0 means 3 on a cluster and 1 elsewhere. A
	// bucket that has fewer than a number given here is refused.
	Replicas int
	// MaxBytes bounds what the bucket takes on disk, history included; 0 means DefaultMaxBytes. One eighth
	// of it is for deletions: at seven eighths Put returns store.ErrFull. At least 1 MiB.
	MaxBytes int64
	// History is how many changes the bucket keeps of one key, from 2; 0 means DefaultHistory. A watcher that is
	// further behind than that on any key gets store.ErrCompacted.
	History int
	// MaxLog is how many changes, of all keys, a watcher can be behind before it gets store.ErrCompacted,
	// and how many changes the mark of a deletion outlives; 0 means DefaultMaxLog.
	MaxLog int
	// Patience is how long a call goes on trying while no server answers; 0 means DefaultPatience. At most one
	// minute. Its context ends it sooner.
	Patience time.Duration
	// Logger hears of lost connections and of messages that are no entries; nil means slog.Default().
	Logger *slog.Logger
}

// Room that a message takes besides its value: headers, and the subject in some of its forms.
const headerRoom = 4 << 10

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, DefaultMaxBytes)
	c.History = cmp.Or(c.History, DefaultHistory)
	c.MaxLog = cmp.Or(c.MaxLog, DefaultMaxLog)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// check names the fields at fault.
func (c Config) check() error {
	var wrong []error
	complain := func(bad bool, field, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf("natskv.Config.%s: "+format, append([]any{field}, args...)...))
		}
	}
	complain(c.JetStream == nil, "JetStream", "required")
	complain(!isBucket(c.Bucket), "Bucket", "%.80q is not 1 to 64 letters, digits, '-' and '_'", c.Bucket)
	complain(c.Replicas < 0 || c.Replicas > 5, "Replicas", "%d is not from 0 to 5", c.Replicas)
	complain(c.MaxBytes < 1<<20, "MaxBytes", "%d is less than 1 MiB", c.MaxBytes)
	complain(c.History < 2 || c.History > math.MaxInt32, "History", "%d is less than 2", c.History)
	complain(c.MaxLog < 1, "MaxLog", "%d is negative", c.MaxLog)
	complain(c.Patience < 0 || c.Patience > time.Minute, "Patience", "%v is not from 0 to one minute", c.Patience)
	return errors.Join(wrong...)
}

func isBucket(name string) bool {
	for _, c := range []byte(name) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return 1 <= len(name) && len(name) <= 64
}

func (c Config) stream() string { return "KV_" + c.Bucket }

// settings are the stream's when the store makes it.
func (c Config) settings(replicas int, now time.Time) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              c.stream(),
		Description:       "Converge store " + c.Bucket,
		Subjects:          []string{c.all()},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxBytes:          c.MaxBytes,
		MaxMsgsPerSubject: int64(c.History),
		MaxMsgSize:        store.MaxValue + headerRoom,
		Discard:           jetstream.DiscardNew,
		FirstSeq:          firstSequence(now),
	}
}

// firstSequence is above all that an earlier bucket of the name has given out, unless that had more than 512
// changes in each millisecond of its life: who comes with a revision from before is told that it is
// unknown. It leaves room below 2^53, which JSON tools need.
func firstSequence(now time.Time) uint64 { return uint64(now.UnixMilli()) << 9 }

// errSettings is the cause of refusing a bucket that somebody else has made.
var errSettings = errors.New("the bucket does not keep what a store promises")

// checkSettings checks what the stream of an existing bucket promises.
func (c Config) checkSettings(is jetstream.StreamConfig) error {
	for _, s := range []struct {
		name      string
		bad       bool
		got, want any
	}{
		{"subjects", len(is.Subjects) != 1 || is.Subjects[0] != c.all(), is.Subjects, c.all()},
		{"storage", is.Storage != jetstream.FileStorage, is.Storage, jetstream.FileStorage},
		{"retention", is.Retention != jetstream.LimitsPolicy, is.Retention, jetstream.LimitsPolicy},
		{"discard", is.Discard != jetstream.DiscardNew, is.Discard, jetstream.DiscardNew},
		{"discard_new_per_subject", is.DiscardNewPerSubject, true, false},
		{"max_age", is.MaxAge != 0, is.MaxAge, "none"},
		{"max_msgs", is.MaxMsgs > 0, is.MaxMsgs, "none"},
		{"max_msgs_per_subject", is.MaxMsgsPerSubject == 1, is.MaxMsgsPerSubject, "2 or more"},
		{"max_msg_size", is.MaxMsgSize > 0 && is.MaxMsgSize < store.MaxValue+headerRoom, is.MaxMsgSize, store.MaxValue + headerRoom},
		{"num_replicas", is.Replicas < c.Replicas, is.Replicas, c.Replicas},
		{"no_ack", is.NoAck, true, false},
		{"allow_direct", is.AllowDirect, true, false},
		{"allow_msg_ttl", is.AllowMsgTTL, true, false},
		{"allow_msg_counter", is.AllowMsgCounter, true, false},
		{"allow_rollup_hdrs", is.AllowRollup, true, false},
		{"subject_delete_marker_ttl", is.SubjectDeleteMarkerTTL != 0, is.SubjectDeleteMarkerTTL, "none"},
		{"persist_mode", is.PersistMode != jetstream.DefaultPersistMode, is.PersistMode, jetstream.DefaultPersistMode},
		{"sealed", is.Sealed, true, false},
		{"deny_purge", is.DenyPurge, true, false},
		{"mirror", is.Mirror != nil, "set", "none"},
		{"sources", len(is.Sources) > 0, "set", "none"},
		{"subject_transform", is.SubjectTransform != nil, "set", "none"},
	} {
		if s.bad {
			return fmt.Errorf("%w: its %s is %v, want %v", errSettings, s.name, s.got, s.want)
		}
	}
	return nil
}
