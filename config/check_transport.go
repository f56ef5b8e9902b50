package config

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/converge-agents/converge/identity"
)

// kinds are those of agents.
var kinds = []string{KindWorker, KindCoordinator, KindHost, KindLLM}

const keysHint = "`converge keys show FILE` prints it"

// transport checks how agents reach each other.
func (k checker) transport() {
	kind := k.TransportKind()
	k.transportName(kind)
	k.oneOf("signature", k.Signature, SignatureBatch, SignatureSingle)
	k.listen(kind)
	k.only("tcp", k.TCP, kind == TransportTCP, TransportTCP)
	k.only("websocket", k.WebSocket, kind == TransportWebSocket, TransportWebSocket)
	k.only("nats", k.NATS, kind == TransportNATS, TransportNATS)
	k.links("tcp", k.TCP.Links)
	k.links("websocket", k.WebSocket.Links)
	k.webSocket(kind)
	if kind == TransportNATS {
		k.nats()
	}
	k.peers(kind)
	k.taskPlace()
}

func (k checker) transportName(kind string) {
	_, err := k.Servers()
	switch {
	case strings.Contains(k.Transport, "@"): // whose value is not repeated
		k.bad("transport", "leave them out, and use the keys of the section nats", "no user and no password in an address")
	case err != nil:
		k.bad("transport", `write it such as "nats://a.example:4222,b.example:4222"`, "%s", err)
	case kind == "":
		k.oneOf("transport", k.Transport, TransportLocal, TransportTCP, TransportWebSocket, TransportNATS, "nats://HOST:PORT")
	}
}

// only refuses a section that would be without effect.
func (k checker) only(key string, section any, chosen bool, transport string) {
	if given := k.origin.given(key) || !reflect.ValueOf(section).IsZero(); given && !chosen {
		k.bad(key, "choose it with transport: "+transport+", or leave this out", "only with the transport %s", transport)
	}
}

func (k checker) listen(kind string) {
	servers, _ := k.Servers()
	switch {
	case k.Listen == "":
	case kind == TransportLocal:
		k.bad("listen", "choose one with transport: tcp, websocket or nats", "the transport local has no address")
	case len(servers) > 0:
		k.bad("listen", "leave it out; transport: nats alone runs a server here", "the NATS servers are elsewhere")
	case !isHostPort(k.Listen):
		k.bad("listen", `write it such as "10.0.0.1:7946" or ":7946"`, "want host:port, not %q", clip(k.Listen))
	}
}

// Servers returns the URLs of the NATS servers that the transport names; none if it names none. The
// error says what is wrong with one.
func (c *Config) Servers() ([]string, error) {
	scheme, list, found := strings.Cut(c.Transport, "://")
	if !found || scheme != TransportNATS && scheme != "tls" {
		return nil, nil
	}
	var servers []string
	for server := range strings.SplitSeq(list, ",") {
		server = strings.TrimPrefix(strings.TrimSpace(server), scheme+"://")
		u, err := url.Parse(scheme + "://" + server)
		if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("not the address of a NATS server: %q", clip(server))
		}
		servers = append(servers, u.String())
	}
	return servers, nil
}

// links checks bounds; 0 is the transport's default everywhere.
func (k checker) links(key string, l Links) {
	if q := l.Queue; q != 0 && (q < 64<<10 || q > 1<<30) {
		k.bad(child(key, "queue"), "", "want 64KiB to 1GiB, not %s", q)
	} else if q != 0 && q < k.Limits.MessageSize {
		k.bad(child(key, "queue"), "raise it, or lower limits.message_size", "%s have no room for one message of %s", q, k.Limits.MessageSize)
	}
	if l.WhenFull != "" {
		k.oneOf(child(key, "when_full"), l.WhenFull, WhenFullBlock, WhenFullDrop)
	}
	k.notNegative(child(key, "grace"), l.Grace)
	k.notNegative(child(key, "handshake_timeout"), l.HandshakeTimeout)
	k.notNegative(child(key, "idle_timeout"), l.IdleTimeout)
	k.atLeast(child(key, "max_connections"), l.MaxConnections, 0)
	k.atLeast(child(key, "max_per_address"), l.MaxPerAddress, 0)
	k.atLeast(child(key, "frame_rate"), l.FrameRate, 0)
	if l.ByteRate < 0 || l.ByteRate > 1<<30 {
		k.bad(child(key, "byte_rate"), "", "want at most 1GiB, not %s", l.ByteRate)
	}
}

// peers checks who else there is.
func (k checker) peers(kind string) {
	switch {
	case len(k.Peers) == 0:
		return
	case kind == TransportLocal:
		k.bad("peers", "choose one with transport: tcp, websocket or nats", "the transport local reaches no other process")
		return
	case len(k.Peers) > MaxPeers:
		k.bad("peers", "", "more than %d", MaxPeers)
		return
	}
	names, ids := k.agentNames(), map[string]string{}
	for i, p := range k.Peers {
		key := item("peers", i)
		k.peerName(key, p.Name, names)
		k.peerID(key, p.ID, ids)
		k.peerKey(key, p, kind)
		k.peerAddress(key, p, kind)
		k.peerProof(key, p, kind)
	}
}

// agentNames returns which entry has each agent's name.
func (k checker) agentNames() map[string]string {
	names, total := map[string]string{}, 0
	for i, a := range k.Agents {
		if total += max(0, a.Count); total > MaxAgents { // which is told elsewhere
			break
		}
		for _, name := range a.Names() {
			names[name] = item("agents", i)
		}
	}
	return names
}

func (k checker) peerName(key, name string, names map[string]string) {
	at, other := child(key, "name"), names[name]
	switch {
	case name == "":
		k.bad(at, "", "required")
	case !isAgentName(name):
		k.bad(at, agentNameHint, "not a peer's name: %q", clip(name))
	case other != "":
		k.bad(at, "give each agent and each peer a name of its own", "%q is also a name of %s", name, other)
	}
	names[name] = key
}

func (k checker) peerID(key, id string, ids map[string]string) {
	at, other := child(key, "id"), ids[id]
	_, err := identity.ParseID(id)
	switch {
	case id == "":
		k.bad(at, keysHint, "required")
	case err != nil:
		k.bad(at, keysHint, "want 64 hexadecimal digits in lower case, not %q", clip(id))
	case other != "":
		k.bad(at, "name each peer once", "also the ID of %s", other)
	}
	ids[id] = key
}

func (k checker) peerKey(key string, p Peer, kind string) {
	at := child(key, "key")
	id, err := identity.ParseID(p.ID)
	switch {
	case p.Key == "" && kind == TransportNATS:
		k.bad(at, "give the peer's public key; "+keysHint, "required with nats")
	case p.Key == "" || err != nil: // which is told already
	default:
		if _, err := p.PublicKey(); err != nil {
			k.bad(at, keysHint, "want a public key of 64 hexadecimal digits, not %q", clip(p.Key))
		} else if err := checkKey(id, p); err != nil {
			k.bad(at, "`converge keys show FILE` prints ID and key, which belong together", "%s", err)
		}
	}
}

// PublicKey returns the peer's key, nil if none is given. The error says that Key is none; whether it
// hashes to ID is [Config.Validate]'s to check.
func (p Peer) PublicKey() (ed25519.PublicKey, error) {
	if p.Key == "" {
		return nil, nil
	}
	key, err := hex.DecodeString(p.Key)
	if err == nil && len(key) != ed25519.PublicKeySize {
		err = errors.New("not the length of a key")
	}
	return key, err
}

func checkKey(id identity.ID, p Peer) error {
	key, err := p.PublicKey()
	if err != nil {
		return err
	}
	return identity.CheckKey(id, key)
}

func (k checker) peerAddress(key string, p Peer, kind string) {
	at := child(key, "address")
	switch {
	case kind == TransportNATS && p.Address != "":
		k.bad(at, "leave it out", "with nats, peers meet at the servers")
	case kind == TransportNATS:
	case p.Address == "" && k.Listen == "":
		k.bad(at, "give the peer's address, or let the peer dial this process: listen: HOST:PORT", "required, since this process does not listen")
	case p.Address == "":
	case kind == TransportTCP && !isDialable(p.Address):
		k.bad(at, `write it such as "10.0.0.1:7946"`, "want host:port, not %q", clip(p.Address))
	case kind == TransportWebSocket:
		k.webSocketURL(at, p.Address)
	}
}

// isDialable reports whether s names a host and a port.
func isDialable(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && host != "" && port != "0" && isHostPort(s)
}

// taskPlace checks that the tasks are at one place.
func (k checker) taskPlace() {
	if k.Tasks.Host != "" {
		k.knownPeer("tasks.host", k.Tasks.Host)
	}
	if size := k.Limits.MessageSize; k.sendsTasks() && 1<<10 <= size && size < 64<<10 {
		k.bad("limits.message_size", "tasks go between processes as messages", "want at least 64KiB with tasks.host and with a host, not %s", size)
	}
}

func (k checker) knownPeer(key, name string) {
	var names []string
	for _, p := range k.Peers {
		names = append(names, p.Name)
	}
	if !slices.Contains(names, name) {
		k.bad(key, suggest(name, "peers", names), "unknown peer %q", clip(name))
	}
}

// host checks an agent that keeps this process's tasks.
func (k checker) host(key string, a Agent) {
	at := child(key, "kind")
	switch {
	case k.TransportKind() == TransportLocal:
		k.bad(at, "choose one with transport: tcp, websocket or nats", "the transport local reaches nobody that a host could serve")
	case k.Tasks.Host != "":
		k.bad(at, "a process either keeps its tasks or names who does", "the tasks are at %q, says tasks.host", clip(k.Tasks.Host))
	case a.Count > 1 || k.firstHost() != key:
		k.bad(at, "a process has one host at most", "a second host")
	case len(a.Workers)+len(a.Submitters) == 0:
		k.bad(child(key, "workers"), "name the peers that may work on this process's tasks, or those that may submit some: submitters", "required: a host serves nobody else")
	}
	k.served(child(key, "workers"), a.Workers)
	k.served(child(key, "submitters"), a.Submitters)
}

// served checks a host's list of peers.
func (k checker) served(key string, names []string) {
	for i, name := range names {
		k.knownPeer(item(key, i), name)
		if slices.Contains(names[:i], name) {
			k.bad(item(key, i), "", "%q is given twice", clip(name))
		}
	}
}

// firstHost returns the key of the first host.
func (k checker) firstHost() string {
	i := slices.IndexFunc(k.Agents, func(a Agent) bool { return a.Kind == KindHost })
	return item("agents", i)
}

// hasWorkersElsewhere reports whether other processes' workers can see the tasks.
func (k checker) hasWorkersElsewhere() bool { return k.StoreShared() || k.sendsTasks() }

// sendsTasks reports whether tasks go between processes as messages.
func (k checker) sendsTasks() bool {
	return k.Tasks.Host != "" || slices.ContainsFunc(k.Agents, func(a Agent) bool { return a.Kind == KindHost })
}
