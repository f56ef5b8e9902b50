package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/peertls"
)

// proved takes in what a peer has proved about its key, before any of its frames arrive, and returns the epoch.
// The error is why the key does not count.
func (n *Network) proved(s Stream) (epoch uint64, err error) {
	if n.c.Keys != nil {
		if epoch, err = n.c.Keys.Prove(s.Peer, s.Key, s.Statement); err != nil {
			return 0, keyRefusal(err)
		}
	}
	if n.c.OnKey != nil {
		n.c.OnKey(s.Peer, s.Key)
	}
	return epoch, nil
}

func keyRefusal(err error) error {
	reason := peertls.WrongKey
	if errors.Is(err, identity.ErrRevoked) || errors.Is(err, identity.ErrQuarantined) {
		reason = peertls.Revoked
	}
	return &peertls.Refusal{Reason: reason, Err: err}
}

// watchKeys has connections end as soon as the key does not count that they were proved with.
func (n *Network) watchKeys() (stop func()) {
	if n.c.Keys == nil {
		return func() {}
	}
	return n.c.Keys.OnChange(func(c identity.Change) {
		for _, e := range n.started() {
			if p := e.peer(c.ID); p != nil {
				p.recheck()
			}
		}
	})
}

func (n *Network) started() []*Endpoint {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Collect(maps.Values(n.endpoints))
}

// recheck ends the peer's links if their keys were taken back, and has those look again who wait for the peer.
func (p *peer) recheck() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range []*link{p.last, p.greeting, p.draining} {
		if l == nil {
			continue
		}
		if err := l.keyFault(); err != nil {
			l.kill(keyRefusal(err))
		}
	}
	p.broadcast()
}

// keyFault returns why the key does not count any more that the other end has proved.
func (l *link) keyFault() error {
	keys := l.p.e.n.c.Keys
	if keys == nil {
		return nil
	}
	if err := keys.Recheck(l.p.id, l.epoch.Load()); err != nil {
		return fmt.Errorf("the key of agent %s: %w", l.p.id, err)
	}
	return nil
}

// refused reports whether the peer's keys were taken back, so that there is no use in dialling it.
func (p *peer) refused() bool {
	keys := p.e.n.c.Keys
	if keys == nil {
		return false
	}
	_, err := keys.Lookup(p.id)
	return errors.Is(err, identity.ErrRevoked) || errors.Is(err, identity.ErrQuarantined)
}

// Rotate implements [transport.Rotator]. Peers that are connected are told on their connections, in order with
// the frames; others learn of it when they connect.
func (e *Endpoint) Rotate(id *identity.Identity) error {
	if err := e.credential.Rotate(id); err != nil {
		return err
	}
	for _, p := range e.allPeers() {
		p.tellKeys()
	}
	return nil
}

func (p *peer) tellKeys() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil {
		p.link.pushKeys()
	}
}

// pushKeys has the statement about the agent's key written before any data that is queued from now on. The key
// itself signs that it is meant for this link: a statement is public, so that whoever holds an older key only could
// show it too.
func (l *link) pushKeys() {
	id := l.p.e.credential.Identity()
	raw := id.Statement()
	if raw == nil {
		return
	}
	self := id.ID()
	proof := cose.SignStatement(id, self[:], cose.DomainHandshake, keysType, l.keysClaim(self, l.p.id))
	payload := cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 2), raw), proof)
	l.push(append(appendHeader(nil, typeKeys, len(payload)), payload...))
}

// keysType is the typ of what a key signs for a link.
const keysType = "application/converge-link"

// keysClaim is what the key of one end signs for the other end of the link.
func (l *link) keysClaim(of, to identity.ID) []byte {
	b := cose.AppendBytes(cose.AppendBytes(cose.AppendArray(nil, 3), of[:]), to[:])
	return cose.AppendUint(b, l.number)
}

// maxKeys is the size of the largest payload of a statement and its proof.
const maxKeys = identity.MaxStatement + 512

const (
	// freeStatements and statementEvery bound what a peer's statements can cost: each takes two signatures to check.
	freeStatements = 8
	statementEvery = time.Second
)

var errStatements = errors.New("key statements come faster than keys can change")

// handleKeys takes in a statement about the key of the other end.
func (l *link) handleKeys(payload []byte) error {
	if l.statement != "" && string(payload) == l.statement {
		return nil
	}
	if now := time.Now(); l.statements < freeStatements {
		l.statements++
	} else if now.Before(l.nextStatement) {
		return refusalOf(fmt.Errorf("%w: %w", errMalformed, errStatements))
	} else {
		l.nextStatement = now.Add(statementEvery)
	}
	raw, proof, err := parseKeys(payload)
	if err != nil {
		return refusalOf(fmt.Errorf("%w: %w", errMalformed, err))
	}
	s, err := l.openKeys(raw, proof)
	if err != nil {
		return keyRefusal(err)
	}
	l.statement = string(payload)
	return l.learn(s, raw)
}

func parseKeys(payload []byte) (raw, proof []byte, err error) {
	r := cose.NewReader(payload)
	if r.Array() != 2 {
		r.Fail(cose.ErrUnexpected)
	}
	raw, proof = r.Bytes(), r.Bytes()
	return raw, proof, r.End()
}

// openKeys returns the statement if it is about the other end, and the key that it is about has signed for this link.
func (l *link) openKeys(raw, proof []byte) (s identity.KeyStatement, err error) {
	if s, err = identity.OpenKeys(raw); err != nil {
		return s, err
	}
	if s.ID != l.p.id {
		return s, fmt.Errorf("%w: a statement of agent %s", identity.ErrKeyMismatch, s.ID)
	}
	signed, err := cose.Parse(proof)
	if err != nil {
		return s, err
	}
	if !bytes.Equal(signed.Payload, l.keysClaim(s.ID, l.p.e.id)) {
		return s, fmt.Errorf("%w: its proof is for another connection", identity.ErrKeyMismatch)
	}
	return s, signed.VerifyStatement(s.Operational, s.ID[:], cose.DomainHandshake, keysType)
}

// learn applies a statement. One that is older than what is known is nothing new: the other end may have been told
// later than we were.
func (l *link) learn(s identity.KeyStatement, raw []byte) error {
	keys := l.p.e.n.c.Keys
	if keys == nil {
		return nil
	}
	if s.Epoch > l.epoch.Load() {
		l.epoch.Store(s.Epoch) // first: an overlap may end with it
	}
	if _, err := keys.Apply(raw); err != nil && !errors.Is(err, identity.ErrRolledBack) {
		return keyRefusal(err)
	}
	return l.keyFaultRefusal()
}

func (l *link) keyFaultRefusal() error {
	if err := l.keyFault(); err != nil {
		return keyRefusal(err)
	}
	return nil
}
