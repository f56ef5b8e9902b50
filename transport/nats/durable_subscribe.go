package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// inherit finds the agent's consumer, or makes it. An existing one keeps its filters until the first
// Receive, so that what waits for it is not lost before the agent has subscribed again.
func (d *durable) inherit(ctx context.Context) error {
	return d.persist(ctx, func(ctx context.Context) error {
		c, err := d.js.Consumer(ctx, d.stream, agentConsumer(d.endpoint.id))
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = d.apply(ctx, d.filters())
			return err
		}
		if err != nil {
			return err
		}
		is := c.CachedInfo().Config
		for _, filter := range append(is.FilterSubjects, is.FilterSubject) {
			if ns, isTopic := d.subjects.namespace(filter); isTopic {
				d.inherited = append(d.inherited, ns)
			}
		}
		return nil
	})
}

// filters returns the subjects that the agent's consumer should have.
func (d *durable) filters() []string {
	namespaces := slices.Clone(d.inherited)
	for _, p := range *d.endpoint.patterns.Load() {
		namespaces = append(namespaces, p.Namespace())
	}
	filters := []string{d.subjects.agent(d.endpoint.id), d.subjects.all()}
	for _, ns := range cover(namespaces) {
		filters = append(filters, d.subjects.topic(ns))
	}
	return filters
}

// apply makes the agent's consumer, or changes its filters.
func (d *durable) apply(ctx context.Context, filters []string) (jetstream.Consumer, error) {
	c, err := d.js.CreateOrUpdateConsumer(ctx, d.stream, d.consumerConfig(agentConsumer(d.endpoint.id), filters))
	if err == nil {
		d.applied = filters
	}
	return c, err
}

func (d *durable) consumerConfig(name string, filters []string) jetstream.ConsumerConfig {
	c := d.config()
	return jetstream.ConsumerConfig{
		Durable:           name,
		FilterSubjects:    filters,
		DeliverPolicy:     jetstream.DeliverNewPolicy,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           c.AckWait,
		MaxAckPending:     c.InFlight,
		MaxDeliver:        -1,
		InactiveThreshold: c.Forget,
	}
}

// subscribe implements carrier.
func (d *durable) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.config().PublishTimeout)
	defer cancel()
	err := d.persist(ctx, func(ctx context.Context) error {
		filters := d.filters()
		if slices.Equal(filters, d.applied) {
			return nil
		}
		_, err := d.apply(ctx, filters)
		return err
	})
	if err != nil {
		return fmt.Errorf("change consumer of %s: %w", d.endpoint.id, err)
	}
	wanted := *d.endpoint.groups.Load()
	for _, g := range wanted {
		err := d.persist(ctx, func(ctx context.Context) error { _, err := d.createGroup(ctx, g); return err })
		if err != nil {
			return fmt.Errorf("make consumer of group %s: %w", g.name, err)
		}
		if d.begun.Load() {
			d.consume(groupConsumer(g), &g)
		}
	}
	d.stopGroupsBut(wanted)
	return nil
}

func (d *durable) createGroup(ctx context.Context, g group) (jetstream.Consumer, error) {
	filters := []string{d.subjects.topic(g.pattern.Namespace())}
	return d.js.CreateOrUpdateConsumer(ctx, d.stream, d.consumerConfig(groupConsumer(g), filters))
}

// receiving implements carrier: from the first Receive on, frames come in.
func (d *durable) receiving() {
	if d.begun.Load() || !d.begun.CompareAndSwap(false, true) {
		return
	}
	d.consume(agentConsumer(d.endpoint.id), nil)
	for _, g := range *d.endpoint.groups.Load() {
		d.consume(groupConsumer(g), &g)
	}
}

// consume begins to receive from a consumer, unless that is done already.
func (d *durable) consume(name string, g *group) {
	c := d.newConsumption(name, g)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.consuming[name] != nil {
		return
	}
	d.consuming[name] = c
	d.running.Go(c.run)
}

// halt ends the receiving from one consumer.
func (d *durable) halt(name string) {
	d.mu.Lock()
	c := d.consuming[name]
	delete(d.consuming, name)
	d.mu.Unlock()
	if c != nil {
		close(c.stop)
		<-c.stopped
	}
}

func (d *durable) stopGroupsBut(wanted []group) {
	d.mu.Lock()
	var unwanted []string
	for name, c := range d.consuming {
		if c.group != nil && !slices.ContainsFunc(wanted, sameGroup(c.group.pattern, c.group.name)) {
			unwanted = append(unwanted, name)
		}
	}
	d.mu.Unlock()
	for _, name := range unwanted {
		d.halt(name)
	}
}

func (d *durable) stopAll() {
	d.mu.Lock()
	d.ended = true
	for name, c := range d.consuming {
		close(c.stop)
		delete(d.consuming, name)
	}
	d.mu.Unlock()
	d.running.Wait()
}
