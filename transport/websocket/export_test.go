package websocket

import (
	"context"
	"time"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/mesh"
)

// Mesh returns what the mesh gets.
func (c Config) Mesh() mesh.Config { return c.mesh() }

// ProveClient runs the client's side of a challenge on a connection without TLS.
func ProveClient(ctx context.Context, ws *websocket.Conn, me *identity.Identity, server identity.ID, host string) error {
	_, err := caller{me: me, server: server, host: host, now: time.Now}.prove(ctx, ws)
	return err
}

// GreetingTo returns a greeting with the server that it names exchanged.
func GreetingTo(data []byte, server identity.ID) []byte {
	g, err := parseGreeting(data)
	if err != nil {
		panic(err)
	}
	g.server = server
	return g.append(nil)
}

// Greeting returns what a client that calls itself by another agent's ID, with a key of its own choice, says first.
func Greeting(id identity.ID, key *identity.Identity, server identity.ID, host string) []byte {
	return greeting{client: party{id, key.PublicKey()}, server: server, nonce: newNonce(), host: host}.append(nil)
}

// Answer returns the client's proof to the server's, as if the agent me had been greeted.
func Answer(proof []byte, me *identity.Identity) []byte { return answerTo(proof, me, nil) }

func answerTo(proof []byte, me *identity.Identity, binding []byte) []byte {
	signed, err := cose.Parse(proof)
	if err != nil {
		panic(err)
	}
	s, err := parseStatement(signed.Payload)
	if err != nil {
		panic(err)
	}
	s.role, s.binding = roleClient, binding
	id := s.client.id
	return cose.SignStatement(me, id[:], cose.DomainHandshake, proofType, s.append(nil))
}

// Unbound is Answer of a client whose TLS connection is another one than the server's.
func Unbound(proof []byte, me *identity.Identity) []byte {
	return answerTo(proof, me, make([]byte, bindingSize))
}
