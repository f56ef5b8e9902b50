package config

import (
	"net"
	"strings"
	"time"

	"github.com/converge-agents/converge/internal/loopback"
)

// nats checks what only the transport nats has.
func (k checker) nats() {
	n := k.NATS
	servers, _ := k.Servers()
	isExternal := len(servers) > 0
	k.login(isExternal)
	if n.WhenFull != "" {
		k.oneOf("nats.when_full", n.WhenFull, WhenFullBlock, WhenFullDrop)
	}
	k.notNegative("nats.grace", n.Grace)
	k.stream()
	switch {
	case isExternal:
		k.ownPair("nats.tls", n.TLS.Certificate, n.TLS.Key)
		k.without("nats.server", n.Server.isZero(), "the servers are elsewhere, says transport")
	default:
		k.without("nats.tls", n.TLS == ClientTLS{}, "the agents of this process reach its server without a wire; see nats.server.tls")
		k.server(n.Server)
	}
}

// without refuses a part of the section that would be without effect.
func (k checker) without(key string, isZero bool, why string) {
	if !isZero {
		k.bad(key, "leave it out", "%s", why)
	}
}

func (s Server) isZero() bool {
	return s.Name == "" && s.TLS == ServerTLS{} && len(s.Users)+len(s.NKeys) == 0 && s.Cluster.isZero()
}

func (c Cluster) isZero() bool {
	return c.Name == "" && c.Listen == "" && len(c.Routes) == 0 && c.User == "" && c.Password == Secret{} && c.TLS == ServerTLS{}
}

func (k checker) login(isExternal bool) {
	n := k.NATS
	var ways []string
	for _, way := range []struct {
		key string
		set bool
	}{{"credentials", n.Credentials != ""}, {"nkey", n.NKey != ""}, {"user", n.User != ""}, {"token", n.Token != Secret{}}} {
		if way.set {
			ways = append(ways, way.key)
		}
	}
	switch {
	case len(ways) > 0 && !isExternal:
		k.bad(child("nats", ways[0]), "name servers with transport: nats://HOST:PORT, or see nats.server.users", "the server of this process knows its agents")
	case len(ways) > 1:
		k.bad(child("nats", ways[1]), "give one of them", "not together with %s", ways[0])
	}
	k.password("nats", n.User, n.Password)
	k.secret("nats.token", n.Token)
}

// password checks that a name and a password go together.
func (k checker) password(key, user string, s Secret) {
	switch {
	case user != "" && s == Secret{}:
		k.bad(child(key, "password"), "say where it is: {file: PATH} or {env: VARIABLE}", "required with user")
	case user == "" && s != Secret{}:
		k.bad(child(key, "user"), "", "required with password")
	}
	k.secret(child(key, "password"), s)
}

func (k checker) secret(key string, s Secret) {
	if s.File != "" && s.Env != "" {
		k.bad(child(key, "env"), "", "not together with file")
	}
}

// ownPair checks that a certificate comes with its key.
func (k checker) ownPair(key, certificate, private string) {
	if certificate != "" && private == "" {
		k.bad(child(key, "key"), "", "required with certificate")
	} else if certificate == "" && private != "" {
		k.bad(child(key, "certificate"), "", "required with key")
	}
}

func (k checker) stream() {
	n, s := k.NATS, k.NATS.Stream
	k.without("nats.stream", n.Durable || s == Stream{}, "only with durable: true")
	if s.Replicas < 0 || s.Replicas > 5 {
		k.bad("nats.stream.replicas", "", "want 1 to 5, not %d", s.Replicas)
	}
	k.atLeastASecond("nats.stream.max_age", s.MaxAge)
	k.atLeastASecond("nats.stream.forget", s.Forget)
	if s.MaxBytes < 0 {
		k.bad("nats.stream.max_bytes", "", "want a size that is not negative, not %s", s.MaxBytes)
	}
	if servers, _ := k.Servers(); n.Durable && len(servers) == 0 && k.Data == "" {
		k.bad("nats.durable", "name a folder that stays: data: FOLDER", "messages cannot be kept in a temporary folder")
	}
}

func (k checker) atLeastASecond(key string, d Duration) {
	if d != 0 && time.Duration(d) < time.Second {
		k.bad(key, "", "want 1s at least, not %s", d)
	}
}

func (k checker) server(s Server) {
	k.serverTLS("nats.server.tls", s.TLS)
	names := map[string]bool{}
	for i, u := range s.Users {
		key := item("nats.server.users", i)
		if u.Name == "" {
			k.bad(child(key, "name"), "", "required")
		} else if names[u.Name] {
			k.bad(child(key, "name"), "", "%q is given twice", clip(u.Name))
		}
		names[u.Name] = true
		k.password(key, "-", u.Password)
	}
	for i, nkey := range s.NKeys {
		if !strings.HasPrefix(nkey, "U") || len(nkey) != 56 {
			k.bad(item("nats.server.nkeys", i), "a user's public nkey has 56 characters, of which the first is U; never give the seed", "not a public nkey of a user")
		}
	}
	isNamed := len(s.Users)+len(s.NKeys) > 0 || s.TLS.ClientCA != ""
	switch {
	case k.Listen == "" && (isNamed || s.TLS != ServerTLS{}):
		k.bad("listen", "give it, such as 10.0.0.1:4222, or leave out what nats.server says about those who connect", "required with users, nkeys and tls of nats.server")
	case k.isOpen(k.Listen) && !isNamed:
		k.bad("listen", "name who may connect: users, nkeys or tls.client_ca in nats.server; or listen on this machine only, or set unsafe.open_broker", "anybody could connect to %q", clip(k.Listen))
	}
	k.cluster(s)
}

// isOpen reports whether an address can be reached from other machines, and nothing allows that.
func (k checker) isOpen(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && !loopback.Is(host) && !k.Unsafe.OpenBroker
}

func (k checker) serverTLS(key string, t ServerTLS) {
	k.ownPair(key, t.Certificate, t.Key)
	if t.ClientCA != "" && t.Certificate == "" {
		k.bad(child(key, "certificate"), "", "required with client_ca")
	}
}

func (k checker) cluster(s Server) {
	const key = "nats.server.cluster"
	c := s.Cluster
	if c.isZero() {
		return
	}
	if k.Listen == "" {
		k.bad("listen", `give it; "127.0.0.1:0" is enough if all agents are at servers of the cluster`, "required in a cluster")
	}
	switch {
	case c.Listen == "":
		k.bad(child(key, "listen"), "give the address at which the other servers connect, such as 10.0.0.1:6222", "required in a cluster")
	case !isHostPort(c.Listen):
		k.bad(child(key, "listen"), `write it such as "10.0.0.1:6222"`, "want host:port, not %q", clip(c.Listen))
	case k.isOpen(c.Listen) && c.User == "" && c.TLS.ClientCA == "":
		k.bad(child(key, "listen"), "say what servers show each other: user and password, or tls.client_ca; or listen on this machine only", "any server could join at %q", clip(c.Listen))
	}
	if s.Name == "" {
		k.bad("nats.server.name", "give each server of the cluster a name of its own", "required in a cluster")
	}
	for i, route := range c.Routes {
		if !isDialable(route) {
			k.bad(item(child(key, "routes"), i), `write it such as "10.0.0.2:6222"`, "want host:port, not %q", clip(route))
		}
	}
	k.password(key, c.User, c.Password)
	k.serverTLS(child(key, "tls"), c.TLS)
}
