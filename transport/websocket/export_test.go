package websocket

import (
	"context"

	"github.com/coder/websocket"

	"github.com/converge-agents/converge/identity"
)

// ProveClient runs the client's side of a challenge on a connection without TLS.
func ProveClient(ctx context.Context, ws *websocket.Conn, me *identity.Identity, server identity.ID, host string) error {
	_, err := caller{me: me, server: server, host: host}.prove(ctx, ws)
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
