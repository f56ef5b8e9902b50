package natskv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/natskv"
)

func TestOpenNamesTheFieldAtFault(t *testing.T) {
	t.Parallel()
	js := startBroker(t, server.Options{}).connect(t)
	for field, c := range map[string]natskv.Config{
		"JetStream": {Bucket: "b"},
		"Bucket":    {JetStream: js, Bucket: "b.*"},
		"Replicas":  {JetStream: js, Bucket: "b", Replicas: 6},
		"MaxBytes":  {JetStream: js, Bucket: "b", MaxBytes: -1},
		"History":   {JetStream: js, Bucket: "b", History: 1},
		"MaxLog":    {JetStream: js, Bucket: "b", MaxLog: -1},
		"Patience":  {JetStream: js, Bucket: "b", Patience: time.Hour},
	} {
		if _, err := natskv.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "natskv.Config."+field) {
			t.Errorf("Open with a bad %s gives %v", field, err)
		}
	}
	for _, bucket := range []string{"", ">", "a b", "a.b", "é", strings.Repeat("b", 65)} {
		if _, err := natskv.Open(t.Context(), natskv.Config{JetStream: js, Bucket: bucket}); err == nil || !strings.Contains(err.Error(), "Bucket") {
			t.Errorf("Open of bucket %q gives %v", bucket, err)
		}
	}
}

func TestBucketWithOtherSettingsIsRefused(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	js := b.connect(t)
	for setting, alter := range map[string]func(*jetstream.StreamConfig){
		"subjects":                func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "more."+c.Name) },
		"storage":                 func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"retention":               func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
		"discard":                 func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"discard_new_per_subject": func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = true },
		"max_age":                 func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"max_msgs":                func(c *jetstream.StreamConfig) { c.MaxMsgs = 1000 },
		"max_msgs_per_subject":    func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 },
		"max_msg_size":            func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1 << 16 },
		"no_ack":                  func(c *jetstream.StreamConfig) { c.NoAck = true },
		"allow_direct":            func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		"allow_msg_ttl":           func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
		"allow_rollup_hdrs":       func(c *jetstream.StreamConfig) { c.AllowRollup = true },
		"persist_mode":            func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
		"deny_purge":              func(c *jetstream.StreamConfig) { c.DenyPurge = true },
		"sealed":                  func(c *jetstream.StreamConfig) { c.Sealed = true },
	} {
		bucket := newBucket()
		b.open(t, natskv.Config{Bucket: bucket, MaxBytes: 1 << 20}).Close()
		s, err := js.Stream(t.Context(), "KV_"+bucket)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		alter(&c)
		if setting == "sealed" {
			_, err = js.UpdateStream(t.Context(), c)
		} else {
			if err = js.DeleteStream(t.Context(), c.Name); err == nil {
				err = recreate(t, js, c)
			}
		}
		if err != nil {
			t.Fatalf("bucket with another %s: %v", setting, err)
		}
		_, err = natskv.Open(t.Context(), natskv.Config{JetStream: js, Bucket: bucket})
		if err == nil || !strings.Contains(err.Error(), "its "+setting+" is ") {
			t.Errorf("Open of a bucket with another %s gives %v", setting, err)
		}
		hint(t, err, "nats stream edit")
	}
	bucket := newBucket()
	b.open(t, natskv.Config{Bucket: bucket}).Close()
	_, err := natskv.Open(t.Context(), natskv.Config{JetStream: js, Bucket: bucket, Replicas: 3})
	if err == nil || !strings.Contains(err.Error(), "its num_replicas is 1, want 3") {
		t.Errorf("Open of a bucket with too few replicas gives %v", err)
	}
}

func TestOpenWithoutJetStreamSaysSo(t *testing.T) {
	t.Parallel()
	o := server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}
	plain, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	plain.Start()
	t.Cleanup(func() { plain.Shutdown(); plain.WaitForShutdown() })
	if !plain.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	_, err = natskv.Open(t.Context(), natskv.Config{JetStream: connect(t, plain.ClientURL()), Bucket: "b", Patience: time.Second})
	if err == nil || !strings.Contains(err.Error(), `open bucket "b"`) {
		t.Fatalf("Open without JetStream gives %v", err)
	}
	hint(t, err, "enable JetStream")
}

func TestOpenWithoutPermissionSaysSo(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{Users: []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}}}})
	_, err := natskv.Open(t.Context(), natskv.Config{JetStream: b.connect(t, client.UserInfo("u", "p")), Bucket: "b", Patience: time.Second})
	if !errors.Is(err, client.ErrPermissionViolation) {
		t.Fatalf("Open without permission gives %v", err)
	}
	hint(t, err, "$JS.API.>")
}

func TestSmallPayloadNamesTheServersLimit(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{MaxPayload: 64 << 10})
	var log logbook
	s := b.open(t, natskv.Config{Logger: log.logger()})
	if !log.has("max_payload=65536") {
		t.Error("no warning of the small max_payload")
	}
	_, err := s.Put(t.Context(), "a", make([]byte, 100<<10), 0)
	if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "max_payload is 65536") {
		t.Errorf("Put of what the server does not take gives %v", err)
	}
	mustPut(t, s, "a", strings.Repeat("v", 60<<10), 0)
}

func TestNowIsTheServers(t *testing.T) {
	t.Parallel()
	s := startBroker(t, server.Options{}).open(t, natskv.Config{})
	before := time.Now()
	now, err := s.Now(t.Context())
	if err != nil || now.Before(before.Add(-time.Millisecond)) || now.After(time.Now().Add(time.Millisecond)) {
		t.Errorf("Now is %v, %v, asked from %v on", now, err, before)
	}
}

// TestGarbageInBucketIsPassedOver has somebody write to the bucket who knows nothing of stores.
func TestGarbageInBucketIsPassedOver(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	var log logbook
	s := b.open(t, natskv.Config{Bucket: bucket, Logger: log.logger()})
	next, stop := iter.Pull2(s.Watch(t.Context(), "", 0))
	defer stop()
	next() // synced
	rev := mustPut(t, s, "a", "1", 0)
	next()

	js := b.connect(t)
	for subject, header := range map[string]client.Header{
		"no key!":  nil,
		"a..b":     nil,
		"..":       nil,
		"é":        nil,
		"dots.//":  {"Nats-Expected-Last-Subject-Sequence": {"0"}, "Converge-Mark": {"x"}},
		"!":        {"KV-Operation": {"DEL"}},
		"long.key": nil,
	} {
		subject = strings.ReplaceAll(subject, " ", "\u00a0")
		if subject == "long.key" {
			subject = strings.Repeat("k", store.MaxKey+1)
		}
		js.Conn().PublishMsg(&client.Msg{Subject: "$KV." + bucket + "." + subject, Header: header, Data: []byte("garbage")}) // some are refused
	}
	js.PublishMsg(t.Context(), &client.Msg{Subject: "$KV." + bucket + ".a", Header: client.Header{"KV-Operation": {"PURGE"}, "Converge-Mark": {"", "x"}}})
	js.Publish(t.Context(), "$KV."+bucket+".b", []byte("by hand"))

	for _, want := range []string{"delete a ", "put b by hand"} {
		if ev, err, _ := next(); err != nil || fmt.Sprintf("%s %s %s", ev.Op, ev.Entry.Key, ev.Entry.Value) != want {
			t.Fatalf("Watch gives %v, %v, want %s", ev, err, want)
		}
	}
	if _, err := s.Put(t.Context(), "a", nil, rev); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Put of what somebody deleted by hand gives %v", err)
	}
	e, err := s.Get(t.Context(), "b")
	if err != nil || string(e.Value) != "by hand" {
		t.Errorf("Get of what somebody wrote by hand gives %q, %v", e.Value, err)
	}
	mustPut(t, s, "b", "by rule", e.Revision)
	mustPut(t, s, "a", "2", 0)
	if keys := list(t, s); keys != "a=2 b=by rule" {
		t.Errorf("List gives %s", keys)
	}
	if !log.has("passed over") {
		t.Error("nothing is logged about garbage")
	}
}

func list(t *testing.T, s store.Store) string {
	t.Helper()
	var all []string
	for e, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e.Key+"="+string(e.Value))
	}
	return strings.Join(all, " ")
}

func TestDeletingMakesRoomInFullBucket(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	s := b.open(t, natskv.Config{MaxBytes: 2 << 20})
	value := bytes.Repeat([]byte("v"), 100<<10)
	var revisions []store.Revision
	for i := 0; ; i++ {
		rev, err := s.Put(t.Context(), fmt.Sprint("key/", i), value, 0)
		if errors.Is(err, store.ErrFull) {
			hint(t, err, "delete entries")
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		revisions = append(revisions, rev)
	}
	if n := len(revisions); n < 12 || n > 20 {
		t.Fatalf("a bucket of 2 MiB takes %d entries of 100 KiB", n)
	}
	for i, rev := range revisions[:3] {
		if err := s.Delete(t.Context(), fmt.Sprint("key/", i), rev); err != nil {
			t.Fatalf("Delete in a full bucket: %v", err)
		}
	}
	mustPut(t, s, "key/new", string(value), 0)
}

func TestHistoryGoesWhereRoomIsNeeded(t *testing.T) {
	t.Parallel()
	s := startBroker(t, server.Options{}).open(t, natskv.Config{MaxBytes: 2 << 20})
	rev := store.Revision(0)
	for range 40 { // 64 changes of the key would take 6.4 MiB
		rev = mustPut(t, s, "a", strings.Repeat("v", 100<<10), rev)
	}
}

func TestMarkersOfDeletionsGo(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	c := natskv.Config{Bucket: bucket, MaxLog: 8}
	gone := b.open(t, c) // deletes and leaves
	mustDelete(t, gone, "left", mustPut(t, gone, "left", "1", 0))
	gone.Close()
	s := b.open(t, c)
	s.PruneSoon()
	if keys := list(t, s); keys != "" {
		t.Fatalf("List gives %s", keys)
	}
	for i := range 10 {
		key := fmt.Sprint("a/", i)
		mustDelete(t, s, key, mustPut(t, s, key, "1", 0))
	}
	again := mustPut(t, s, "a/5", "again", 0) // on the marker
	rev := mustPut(t, s, "b", "", 0)
	for range 9 {
		rev = mustPut(t, s, "b", "", rev)
	}
	stream, err := b.connect(t).Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "only the entries' changes are left", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.NumSubjects == 2 && info.State.Msgs == 11
	})
	if e, err := s.Get(t.Context(), "a/5"); err != nil || e.Revision != again {
		t.Errorf("the entry on a marker is at %d, %v", e.Revision, err)
	}
	mustPut(t, s, "a/1", "2", 0)
	if keys := list(t, s); keys != "a/1=2 a/5=again b=" {
		t.Errorf("List gives %s", keys)
	}
}

func mustDelete(t *testing.T, s store.Store, key string, rev store.Revision) {
	t.Helper()
	if err := s.Delete(t.Context(), key, rev); err != nil {
		t.Fatal(err)
	}
}

// TestWatchersShareOneConsumer has many watchers of one store: the server knows of one.
func TestWatchersShareOneConsumer(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	s := b.open(t, natskv.Config{Bucket: bucket})
	stream, err := b.connect(t).Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var synced, heard sync.WaitGroup
	for i := range 200 {
		synced.Add(1)
		heard.Go(func() { hearOne(ctx, t, s, fmt.Sprint("w/", i), &synced) })
	}
	synced.Wait()
	if info, err := stream.Info(t.Context()); err != nil || info.State.Consumers != 1 {
		t.Errorf("200 watchers have %d consumers, %v", info.State.Consumers, err)
	}
	for i := range 200 {
		mustPut(t, s, fmt.Sprint("w/", i), "", 0)
	}
	heard.Wait()
	s.Close()
	if info, err := stream.Info(t.Context()); err != nil || info.State.Consumers != 0 {
		t.Errorf("a store that is closed has %d consumers, %v", info.State.Consumers, err)
	}
}

// hearOne watches until the first change of a key.
func hearOne(ctx context.Context, t *testing.T, s store.Store, key string, synced *sync.WaitGroup) {
	for ev, err := range s.Watch(ctx, key, 0) {
		switch {
		case err != nil:
			t.Errorf("Watch of %s: %v", key, err)
			return
		case ev.Op == store.OpSynced:
			synced.Done()
		case ev.Entry.Key == key:
			return
		}
	}
}

// TestBucketMadeAnewIsNotTakenForTheOld deletes the bucket under a store that watches.
func TestBucketMadeAnewIsNotTakenForTheOld(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	s := b.open(t, natskv.Config{Bucket: bucket})
	old := mustPut(t, s, "old", "", 0)
	next, stop := iter.Pull2(s.Watch(t.Context(), "", 0))
	defer stop()
	next() // old
	next() // synced
	js := b.connect(t)
	if err := js.DeleteStream(t.Context(), "KV_"+bucket); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "old"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get from a bucket that was deleted gives %v", err)
	}
	anew := b.open(t, natskv.Config{Bucket: bucket})
	rev := mustPut(t, anew, "new", "", 0)
	if rev <= old {
		t.Errorf("the bucket made anew gives revision %d, the old one gave %d", rev, old)
	}
	if ev, err, _ := next(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("the watch of the old bucket gives %v, %v", ev, err)
	}
	if keys := list(t, s); keys != "new=" {
		t.Errorf("List gives %s", keys)
	}
	for _, err := range anew.Watch(t.Context(), "", old) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("a watch from a revision of the old bucket gives %v", err)
		}
		break
	}
}

func TestRevisionsSurviveRestartOfEmptyBucket(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{SyncAlways: true})
	s := b.open(t, natskv.Config{})
	if keys := list(t, s); keys != "" {
		t.Fatalf("List gives %s", keys)
	}
	before := store.Revision(time.Now().Add(-time.Minute).UnixMilli()) << 9
	for i := range 2 {
		b.stop()
		b.start(t)
		rev := mustPut(t, s, "a", "1", 0)
		if rev <= before {
			t.Fatalf("in life %d the revision is %d, and was %d or more", i, rev, before)
		}
		before = rev
		if keys := list(t, s); keys != "a=1" {
			t.Errorf("List gives %s", keys)
		}
		mustDelete(t, s, "a", rev)
	}
}

// TestChangesRemovedByHandAreMissed has an administrator remove changes that a watcher is due.
func TestChangesRemovedByHandAreMissed(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	bucket := newBucket()
	s := b.open(t, natskv.Config{Bucket: bucket})
	var revisions []store.Revision
	for i := range 5 {
		revisions = append(revisions, mustPut(t, s, fmt.Sprint(i), "", 0))
	}
	stream, err := b.connect(t).Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, removed := range []int{2, 4} { // one amid others, and the last
		if err := stream.DeleteMsg(t.Context(), uint64(revisions[removed])); err != nil {
			t.Fatal(err)
		}
	}
	if keys := list(t, s); keys != "0= 1= 3=" {
		t.Errorf("List gives %s", keys)
	}
	for i, rev := range revisions[:4] {
		var got []string
		for ev, err := range s.Watch(t.Context(), "", rev) {
			if err != nil {
				got = append(got, fmt.Sprint(errors.Is(err, store.ErrCompacted)))
				break
			}
			got = append(got, ev.Entry.Key)
		}
		if end := got[len(got)-1]; end != "true" || i == 0 && got[0] != "1" {
			t.Errorf("the watch from change %d gives %v", i, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, stop := iter.Pull2(s.Watch(ctx, "", revisions[4]))
	defer stop()
	mustPut(t, s, "5", "", 0)
	if ev, err, _ := next(); err != nil || ev.Entry.Key != "5" {
		t.Errorf("the watch from the last change gives %v, %v", ev, err)
	}
}

// recreate makes a stream of a name that was just deleted: the server may still be removing the files of the old one.
func recreate(t *testing.T, js jetstream.JetStream, c jetstream.StreamConfig) (err error) {
	t.Helper()
	const storeFailed = 10049
	until(t, "the old stream is gone", func() bool {
		_, err = js.CreateStream(t.Context(), c)
		var api *jetstream.APIError
		return !errors.As(err, &api) || api.ErrorCode != storeFailed
	})
	return err
}

// TestProcessesThatStartTogetherMakeOneBucket has the bucket made by all at once, as the servers of a cluster do
// that starts for the first time. Buckets that were made at different moments have different settings.
func TestProcessesThatStartTogetherMakeOneBucket(t *testing.T) {
	t.Parallel()
	b := startBroker(t, server.Options{})
	for range 20 {
		bucket := newBucket()
		var opening sync.WaitGroup
		for range 5 {
			opening.Go(func() {
				s, err := natskv.Open(t.Context(), natskv.Config{JetStream: b.connect(t), Bucket: bucket, MaxBytes: 1 << 20})
				if err != nil {
					t.Errorf("Open: %v", err)
					return
				}
				s.Close()
			})
		}
		opening.Wait()
	}
}

// TestBucketThatWasHalfMadeKeepsWhatIsWritten has a server that was killed while it made the bucket: the settings of the
// stream are there, and their checksum is not.
func TestBucketThatWasHalfMadeKeepsWhatIsWritten(t *testing.T) {
	t.Parallel()
	dir, config := t.TempDir(), natskv.Config{Bucket: "half"}
	b := startBrokerIn(t, dir, server.Options{SyncAlways: true})
	b.open(t, config).Close()
	b.stop()
	sums, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", server.JetStreamMetaFileSum))
	if err != nil || len(sums) != 1 {
		t.Fatalf("checksums: %v, %v", sums, err)
	}
	if err := os.Remove(sums[0]); err != nil {
		t.Fatal(err)
	}

	b.start(t)
	s := b.open(t, config)
	mustPut(t, s, "a", "acknowledged", 0)
	s.Close()
	b.stop()

	b.start(t)
	s = b.open(t, config)
	defer s.Close()
	if e, err := s.Get(t.Context(), "a"); err != nil || string(e.Value) != "acknowledged" {
		t.Errorf("after another restart: %q, %v", e.Value, err)
	}
}
