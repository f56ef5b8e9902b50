package converge_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/store/memory"
)

// discovering returns a service on a store of its own, and a registry of another process that it keeps current.
func discovering(t *testing.T, ttl time.Duration) (*discovery.Service, *identity.Registry) {
	t.Helper()
	entries := must(memory.New(memory.Config{}))
	t.Cleanup(func() { entries.Close() })
	service := must(discovery.New(discovery.Config{Store: entries, Network: "test", TTL: ttl, Logger: quiet}))
	registry := identity.NewRegistryWith(identity.RegistryConfig{Logger: quiet})
	population := must(service.Populate(t.Context(), registry))
	t.Cleanup(population.Close)
	return service, registry
}

// TestDescriptorCarriesTheKeyThatTheAgentHas: others know of another key as soon as the agent uses it.
func TestDescriptorCarriesTheKeyThatTheAgentHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		service, far := discovering(t, time.Minute)
		c := w.config(&script{})
		c.Discovery = service
		r := w.run(c)
		time.Sleep(time.Second)
		next := must(c.Identity.Rotate(identity.Rotation{}))
		if err := r.Rotate(next); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if key, err := far.Lookup(r.ID()); err != nil || !key.Public.Equal(next.PublicKey()) || key.Epoch != 1 {
			t.Errorf("another process has %+v, %v", key, err)
		}
		time.Sleep(10 * time.Minute)
		if d, err := service.Lookup(t.Context(), r.ID()); err != nil || string(d.Statement) != string(next.Statement()) {
			t.Errorf("renewed as %+v, %v", d, err)
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := service.Lookup(t.Context(), r.ID()); err == nil {
			t.Error("the agent did not withdraw with its second key")
		}
	})
}

// TestSealingKeyIsPublishedWithTheDescriptor: others know of it as soon as its agent has stated it.
func TestSealingKeyIsPublishedWithTheDescriptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		service, far := discovering(t, 6*time.Hour)
		c := w.config(&script{})
		c.Discovery = service
		c.Sealing = must(identity.NewSealingKeys(identity.SealingKeysConfig{Suite: identity.X25519}))
		running := make(chan *agent, 1)
		c.PublishSealing = func(_ context.Context, key identity.PublicSealingKey) error {
			r := <-running
			running <- r
			raw, err := c.Identity.SignSealing(w.registry.Statement(r.ID()), key)
			if err != nil {
				return err
			}
			return r.Rotate(must(c.Identity.WithStatement(raw)))
		}
		r := w.run(c)
		running <- r
		source := far.SealingSource()
		for day := range 4 {
			time.Sleep(time.Second)
			got, err := source.SealingKey(r.ID())
			if err != nil || got.ID() != c.Sealing.Current().ID() {
				t.Errorf("day %d: others have the sealing key %v, %v; the current one is %v", day, got, err, c.Sealing.Current())
			}
			time.Sleep(24 * time.Hour)
		}
		if key, err := far.Lookup(r.ID()); err != nil || key.Epoch != 0 || !key.Public.Equal(c.Identity.PublicKey()) {
			t.Errorf("the agent's key is %+v, %v", key, err)
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
	})
}
