package discovery_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/store"
)

func names(t *testing.T, s *discovery.Service, q discovery.Query) string {
	t.Helper()
	found, err := s.Query(t.Context(), q)
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	var all []string
	for _, d := range found {
		all = append(all, d.Name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestQueryByVersionTextAndTrust(t *testing.T) {
	memory := newStore(t)
	trusted := map[identity.ID]float64{}
	c := discovery.Config{Trust: func(id identity.ID) float64 { return trusted[id] }}
	listing, following := newService(t, memory, c), newService(t, memory, c)
	stop, err := following.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	for i, d := range []discovery.Descriptor{
		{Name: "Ann", Capabilities: []discovery.Capability{{Name: "ocr", Version: "1.4.2", Description: "reads SCANS"}}},
		{Name: "Ben", Capabilities: []discovery.Capability{{Name: "ocr", Version: "v2"}, {Name: "scan/flat"}}},
		{Name: "Cem", Capabilities: []discovery.Capability{{Name: "ocr", Version: "newest"}, {Name: "fly", Version: "1.0.0"}}},
		{Name: "Dee", Capabilities: []discovery.Capability{{Name: "ocr"}}},
	} {
		id := agent(byte(20 + i))
		trusted[id.ID()] = []float64{0.5, 1, math.NaN(), 0.2}[i]
		register(t, listing, id, d)
	}
	again, err := following.Follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
	again() // and the first one goes on
	wait(t, func() bool { return len(must(following.Query(t.Context(), discovery.Query{}))) == 4 })
	for _, c := range []struct {
		query discovery.Query
		want  string
	}{
		{discovery.Query{Capabilities: []string{"ocr"}}, "Ann Ben Cem Dee"},
		{discovery.Query{Capabilities: []string{"ocr@^1.2"}}, "Ann"},
		{discovery.Query{Capabilities: []string{"ocr@>=1.4, <3"}}, "Ann Ben"},
		{discovery.Query{Capabilities: []string{"ocr@~2", "scan/flat"}}, "Ben"},
		{discovery.Query{Capabilities: []string{"ocr@^1.2", "fly@1.0.0"}}, ""},
		{discovery.Query{Capabilities: []string{"fly@1.0.0"}}, "Cem"},
		{discovery.Query{Text: "scan"}, "Ann Ben"},
		{discovery.Query{Text: " Scans  READS "}, "Ann"},
		{discovery.Query{Text: "ben"}, "Ben"},
		{discovery.Query{Text: "scan", Capabilities: []string{"ocr@2"}}, "Ben"},
		{discovery.Query{MinTrust: 0.5}, "Ann Ben"},
		{discovery.Query{MinTrust: 1}, "Ben"},
		{discovery.Query{MinTrust: 0.1}, "Ann Ben Dee"},
	} {
		for how, s := range map[string]*discovery.Service{"listing": listing, "following": following} {
			if got := names(t, s, c.query); got != c.want {
				t.Errorf("%s: %+v finds %q; want %q", how, c.query, got, c.want)
			}
		}
	}
}

// wait waits for what another goroutine does at once.
func wait(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if t.Context().Err() != nil {
			t.Fatal("waited in vain")
		}
		runtime.Gosched()
	}
}

func TestQueryThatCannotBeIsRefused(t *testing.T) {
	trusting := newService(t, newStore(t), discovery.Config{Trust: func(identity.ID) float64 { return 1 }})
	plain := newService(t, newStore(t), discovery.Config{})
	for name, c := range map[string]struct {
		s     *discovery.Service
		q     discovery.Query
		names string
	}{
		"trust NaN":         {trusting, discovery.Query{MinTrust: math.NaN()}, "MinTrust"},
		"trust above one":   {trusting, discovery.Query{MinTrust: 1.1}, "MinTrust"},
		"trust below zero":  {trusting, discovery.Query{MinTrust: -1}, "MinTrust"},
		"nobody to ask":     {plain, discovery.Query{MinTrust: 0.5}, "Trust is not set"},
		"no name":           {plain, discovery.Query{Capabilities: []string{"ok", "@1"}}, "Capabilities[1]"},
		"no constraint":     {plain, discovery.Query{Capabilities: []string{"a@"}}, "Capabilities[0]"},
		"no version":        {plain, discovery.Query{Capabilities: []string{"a@new"}}, "Capabilities[0]"},
		"endless":           {plain, discovery.Query{Capabilities: []string{"a@" + strings.Repeat("1 ", 200)}}, "256"},
		"not a name either": {plain, discovery.Query{Capabilities: []string{"a b"}}, "Capabilities[0]"},
	} {
		if _, err := c.s.Query(t.Context(), c.q); !errors.Is(err, discovery.ErrQuery) || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIndexFollowsTheStore: what it finds by topic and capability is what the latest descriptors say.
func TestIndexFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		rogue := &failing{Store: s, list: func() error { return errors.New("listed") }, get: func() error { return errors.New("read") }}
		agents, f := on(t, s), on(t, rogue)
		stop, err := f.Follow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		finds := func(what string, q discovery.Query, want string) {
			t.Helper()
			synctest.Wait()
			if got := names(t, f, q); got != want {
				t.Errorf("%s: found %q; want %q", what, got, want)
			}
		}
		orders := discovery.Query{Topics: []message.Topic{message.MustTopic("orders.eu"), message.MustTopic("orders.us")}}
		reads := discovery.Query{Capabilities: []string{"read"}}
		both := discovery.Query{Topics: orders.Topics, Capabilities: reads.Capabilities}
		listens := []message.Pattern{message.MustPattern("orders.*"), message.MustPattern("orders.>")}
		can := []discovery.Capability{{Name: "read"}, {Name: "read", Version: "2"}}
		register(t, agents, alice, discovery.Descriptor{Name: "a", Topics: listens, Capabilities: can})
		register(t, agents, bob, discovery.Descriptor{Name: "b", Topics: listens})
		finds("by topic", orders, "a b")
		finds("by capability", reads, "a")
		finds("by both", both, "a")
		register(t, agents, alice, discovery.Descriptor{Name: "a", Capabilities: can})
		register(t, agents, bob, discovery.Descriptor{Name: "b", Topics: listens[:1], Capabilities: can})
		finds("topics changed", orders, "b")
		finds("capabilities changed", reads, "a b")
		finds("both changed", both, "b")
		withdraw(t, agents, bob)
		finds("withdrawn", orders, "")
		lose(t, s, alice)
		finds("vanished", reads, "")
		time.Sleep(time.Second)
		register(t, agents, alice, discovery.Descriptor{Name: "a", Topics: listens, Capabilities: can})
		finds("back", both, "a")
		time.Sleep(time.Minute)
		finds("expired", both, "")
		time.Sleep(time.Minute)
		if known := f.Stats().Known; known != 0 {
			t.Errorf("%d agents are known when everything has run out", known)
		}
		stop()
		if _, err := f.Query(t.Context(), both); err == nil {
			t.Error("nobody follows any more, and the store was not asked")
		}
	})
}

// TestFloodDoesNotEvictAnybody: at the bound new agents are refused and counted, and those that are known stay
// and renew.
func TestFloodDoesNotEvictAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents := on(t, s)
		bounded := newService(t, s, discovery.Config{MaxDescriptors: 3})
		registry := identity.NewRegistry(0)
		register(t, agents, alice, discovery.Descriptor{})
		p := must(bounded.Populate(t.Context(), registry))
		defer p.Close()
		for i := range 50 {
			register(t, agents, agent(byte(100+i)), discovery.Descriptor{})
		}
		synctest.Wait()
		if got := bounded.Stats(); got.Known != 3 || got.Refused != 48 {
			t.Errorf("%+v", got)
		}
		time.Sleep(30 * time.Second)
		register(t, agents, alice, discovery.Descriptor{})
		time.Sleep(40 * time.Second)
		register(t, agents, bob, discovery.Descriptor{})
		synctest.Wait()
		for _, id := range []*identity.Identity{alice, bob} {
			if _, err := registry.Lookup(id.ID()); err != nil {
				t.Errorf("after the flood: %v", err)
			}
		}
	})
}

func TestOnlyWhoIsAdmittedCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		agents := on(t, s)
		service := newService(t, s, discovery.Config{Admit: func(d discovery.Descriptor) bool { return d.ID == alice.ID() }})
		registry := identity.NewRegistry(0)
		register(t, agents, mallory, discovery.Descriptor{})
		p := must(service.Populate(t.Context(), registry))
		register(t, agents, alice, discovery.Descriptor{})
		register(t, agents, mallory, discovery.Descriptor{})
		synctest.Wait()
		if _, err := registry.Lookup(alice.ID()); err != nil || registry.Len() != 1 {
			t.Errorf("%d agents are in; Alice: %v", registry.Len(), err)
		}
		expectNotFound(t, service, mallory, "not admitted")
		p.Close()
		expectNotFound(t, service, mallory, "not admitted, to who lists")
	})
}

// TestServiceFindsAtOnceWhatItHasPublished does not wait for the watch.
func TestServiceFindsAtOnceWhatItHasPublished(t *testing.T) {
	s := newService(t, newStore(t), discovery.Config{})
	registry := identity.NewRegistry(0)
	p := must(s.Populate(t.Context(), registry))
	defer p.Close()
	for range 100 {
		register(t, s, alice, discovery.Descriptor{Name: "a"})
		if d, err := s.Lookup(t.Context(), alice.ID()); err != nil || d.Name != "a" {
			t.Fatalf("registered: %+v, %v", d, err)
		}
		if _, err := registry.Lookup(alice.ID()); err != nil {
			t.Fatal(err)
		}
		withdraw(t, s, alice)
		if d, err := s.Lookup(t.Context(), alice.ID()); !errors.Is(err, discovery.ErrNotFound) {
			t.Fatalf("withdrawn: %+v, %v", d, err)
		}
	}
	register(t, s, alice, discovery.Descriptor{})
	if err := s.PublishStatement(t.Context(), must(alice.Revoke(nil))); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Lookup(alice.ID()); !errors.Is(err, identity.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
}

func TestFollowAgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk on fire")
		fails := true
		s := on(t, &failing{Store: newStore(t), watch: func() error {
			if fails {
				return broken
			}
			return nil
		}})
		if _, err := s.Follow(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Follow: %v", err)
		}
		fails = false
		stop, err := s.Follow(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stop()
	})
}

// crowd fills a store with the descriptors of n agents, of which each is one of a hundred that listen to a
// topic and one of a hundred that have a capability.
func crowd(t testing.TB, s store.Store, n int) {
	agents := newService(t, s, discovery.Config{TTL: time.Hour})
	for i := range n {
		seed := make([]byte, 32)
		binary.BigEndian.PutUint32(seed, uint32(i+1))
		register(t, agents, must(identity.FromSeed(seed)), discovery.Descriptor{
			Name:         fmt.Sprintf("agent %d", i),
			Topics:       []message.Pattern{message.MustPattern(fmt.Sprintf("orders.t%d.*", i*100/n)), message.MustPattern("news.>")},
			Capabilities: []discovery.Capability{{Name: fmt.Sprintf("work/c%d", i%(n/100)), Version: "1.2.3", Description: "does what it is told"}, {Name: "common"}},
		})
	}
}

func BenchmarkQuery100k(b *testing.B) {
	s := newStore(b)
	crowd(b, s, 100_000)
	service := newService(b, s, discovery.Config{TTL: time.Hour})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	stop, err := service.Follow(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	followed := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	for name, q := range map[string]discovery.Query{
		"topic+capability": {Topics: []message.Topic{message.MustTopic("orders.t7.eu")}, Capabilities: []string{"work/c71"}},
		"+version":         {Topics: []message.Topic{message.MustTopic("orders.t7.eu")}, Capabilities: []string{"work/c71@^1.2"}},
		"common":           {Topics: []message.Topic{message.MustTopic("news.today")}, Capabilities: []string{"work/c71", "common"}},
		"text":             {Text: "agent 4711 told"},
	} {
		b.Run(name, func(b *testing.B) {
			found := 0
			for b.Loop() {
				found = len(must(service.Query(b.Context(), q)))
			}
			if found == 0 {
				b.Fatal("nothing was found")
			}
			b.ReportMetric(float64(found), "found")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "B/agent")
			b.ReportMetric(followed.Seconds(), "s-to-follow")
		})
	}
}
