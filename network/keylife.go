package network

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/converge-agents/converge"
	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/message"
)

// keyLife keeps what the root keys of agents have said: statements of the store and of a folder are in force from
// the start, and what comes up later is saved.
type keyLife struct {
	folder  *identity.Folder // nil without a folder
	dir     string           // of the folder
	handing sync.Mutex       // held while a statement is put there
	saver   *identity.Saver  // nil if the store does not survive
	changed chan struct{}    // holds a token when a key has changed
	stop    func()           // ends the notice of changes
}

// addKeys takes in the statements that are there, before anybody is heard.
func (n *Network) addKeys(ctx context.Context) error {
	n.keys = &keyLife{changed: make(chan struct{}, 1)}
	n.keys.stop = n.registry.OnChange(func(identity.Change) { n.keys.notice() })
	if n.config.StoreSurvives() {
		n.keys.saver = identity.NewSaver(n.registry, n.store)
		if err := n.registry.LoadStatements(ctx, n.store); err != nil {
			return fmt.Errorf("key statements of the store: %w", err)
		}
		remember := func(id identity.ID, root ed25519.PublicKey) { n.proofs.Remember(id, root) }
		if err := identity.EachSaved(ctx, n.store, remember); err != nil {
			return err
		}
	}
	dir := n.config.Statements
	if dir == "" && !n.removes {
		dir = filepath.Join(n.dir, "statements")
	}
	if dir == "" {
		return nil
	}
	var err error
	n.keys.dir = dir
	if n.keys.folder, err = identity.NewFolder(identity.FolderConfig{Dir: dir, Registry: n.registry, Logger: n.log}); err != nil {
		return err
	}
	n.metrics.Require("key statements", func() bool { return n.keys.folder.Err() == nil })
	return n.keys.folder.Load()
}

func (k *keyLife) notice() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// saveEvery is how long an agent that has come to be known waits to be saved.
const saveEvery = 2 * time.Second

// tendKeys applies what is put into the folder, and saves what becomes known, until ctx ends.
func (n *Network) tendKeys(ctx context.Context) {
	var tending sync.WaitGroup
	defer tending.Wait()
	if n.keys.folder != nil {
		tending.Go(func() {
			if err := n.keys.folder.Run(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("key statements are no longer read", "error", err)
			}
		})
	}
	if n.keys.saver == nil {
		return
	}
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.saveKeys(ctx)
		select {
		case <-tick.C:
		case <-n.keys.changed:
		case <-ctx.Done():
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(n.options.DrainTimeout, converge.DefaultDrainTimeout))
	defer cancel()
	n.saveKeys(last)
}

func (n *Network) saveKeys(ctx context.Context) {
	if err := n.keys.saver.Save(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("agents and their key statements are not saved; trying again", "error", err)
	}
}

// ledgerOf returns the file in which an agent's root key notes what it has stated, "" if nothing outlives the
// process. `converge keys rotate` has the same.
func (n *Network) ledgerOf(agent, file string) string {
	switch {
	case file != "":
		return file + identity.StatementSuffix
	case n.removes:
		return ""
	}
	return KeyPath(n.dir, agent) + identity.StatementSuffix
}

// addSealing gives an agent what it needs to seal and to open. seal gets the runtime once there is one.
func (n *Network) addSealing(c *converge.Config, agent, file string) (seal *sealer, err error) {
	if n.config.Seal == config.SealOff {
		c.Seal = message.SealOff
		return nil, nil
	}
	if c.Seal = message.SealAllow; n.config.Seal == config.SealRequired {
		c.Seal = message.SealRequired
	}
	if !c.Identity.IsRoot() {
		return nil, advice.On(
			errors.New("seal: its root key is not here, so it cannot state a sealing key"),
			"seal needs the root keys of agents; leave it off, or give the agent its root key")
	}
	s := identity.SealingKeysConfig{}
	if !n.removes {
		folder := filepath.Join(n.dir, "sealing")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		s.Path = filepath.Join(folder, agent+".keys")
	}
	if c.Sealing, err = identity.NewSealingKeys(s); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	seal = &sealer{registry: n.registry, root: c.Identity, ledger: n.ledgerOf(agent, file)}
	if raw, err := seal.recall(); err != nil && !n.standsAside(err, c.Identity.ID(), raw) {
		return nil, fmt.Errorf("seal: %w", err)
	}
	c.Recipients, c.PublishSealing = n.sealing(), seal.publish
	return seal, nil
}

// sealing returns the sealing keys of others, one source for all agents.
func (n *Network) sealing() message.SealingKeySource {
	if n.recipients == nil {
		n.recipients = n.registry.SealingSource()
	}
	return n.recipients
}

// sealer states the sealing keys of one agent.
type sealer struct {
	registry *identity.Registry
	root     *identity.Identity
	ledger   string // "" if nothing is kept
	runtime  *converge.Runtime
}

// recall applies what the agent's root key has stated before, and returns it: it must not contradict itself.
func (s *sealer) recall() (raw []byte, err error) {
	if s.ledger == "" {
		return nil, nil
	}
	raw, err = identity.ReadStatementFile(s.ledger)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		_, err = s.registry.Apply(raw)
	}
	if errors.Is(err, identity.ErrRolledBack) { // the store knows a later one
		return raw, nil
	}
	return raw, err
}

// publish states a sealing key: in the ledger first, then to this process and to the peers.
func (s *sealer) publish(_ context.Context, key identity.PublicSealingKey) error {
	raw, err := s.root.SignSealing(s.registry.Statement(s.root.ID()), key)
	if err != nil {
		return err
	}
	if s.ledger != "" {
		if _, err := identity.KeepStatement(s.ledger, raw); err != nil {
			return err
		}
	}
	id, err := s.root.WithStatement(raw)
	if err != nil {
		return err
	}
	return s.runtime.Rotate(id)
}
