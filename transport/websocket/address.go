package websocket

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/loopback"
	"github.com/converge-agents/converge/internal/mesh"
)

// byChallenge is the fragment that marks the address of a peer that is dialled with a challenge. What the
// mesh keeps of a peer is one text; fragments are never sent.
const byChallenge = "challenge"

// queryAgent is the parameter of a URL's query that names the agent that is called. With Certificate the
// server name of TLS does.
const queryAgent = "agent"

// mesh returns the peer as the mesh keeps it.
func (c Config) peer(p Peer) (mesh.Peer, error) {
	if err := checkProof(p.Proof); err != nil {
		return mesh.Peer{}, err
	}
	m := mesh.Peer{Name: p.Name, ID: p.ID, Address: p.Address}
	if p.Address == "" {
		return m, nil
	}
	u, err := c.parseURL(p.Address)
	if err != nil {
		return mesh.Peer{}, fault("Address: %w", err)
	}
	if p.Proof == Challenge || u.Scheme == "ws" {
		u.Fragment = byChallenge
	}
	m.Address = u.String()
	return m, nil
}

// parseURL checks the URL of a peer and completes it.
func (c Config) parseURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("not a URL of the form wss://host[:port][/path]") // the error would repeat the text, and a password in it
	case u.Scheme != "wss" && u.Scheme != "ws":
		return nil, fmt.Errorf("the URL's scheme is %.20q, not wss or ws", u.Scheme)
	case u.Hostname() == "" || len(u.Host) > maxHost:
		return nil, errors.New("the URL names no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, errors.New("the URL has more than a host and a path")
	case u.Scheme == "ws" && !c.InsecurePlaintext && !loopback.Is(u.Hostname()):
		return nil, fmt.Errorf("ws:// to %.100q would be open to the network: use wss://, or set InsecurePlaintext", u.Hostname())
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = c.Path
	}
	return u, nil
}

// target is where and how a peer is dialled.
type target struct {
	url     string // with the agent that is called
	address string // host:port
	name    string // of the host, that a certificate for the public is held against
	host    string // as the challenge signs it
	tls     bool
	proof   Proof
}

// targetOf takes apart what [Config.peer] has made.
func targetOf(p mesh.Peer) (target, error) {
	u, err := url.Parse(p.Address)
	if err != nil {
		return target{}, errors.New("not a URL")
	}
	t := target{name: u.Hostname(), host: plainHost(u.Host), tls: u.Scheme == "wss"}
	port := map[bool]string{true: "443", false: "80"}[t.tls]
	t.address = net.JoinHostPort(t.name, cmp.Or(u.Port(), port))
	if u.Fragment == byChallenge {
		t.proof = Challenge
		u.RawQuery = url.Values{queryAgent: {p.ID.String()}}.Encode()
	}
	u.Fragment = ""
	t.url = u.String()
	return t, nil
}

// plainHost returns a host in the form in which names are compared: lower case, without a default port.
func plainHost(host string) string {
	host = strings.ToLower(host)
	for _, port := range []string{":443", ":80"} {
		if name, ok := strings.CutSuffix(host, port); ok && name != "" {
			return name
		}
	}
	return host
}

// calledBy returns the agent that the query of a URL names.
func calledBy(query url.Values) (identity.ID, error) { return identity.ParseID(query.Get(queryAgent)) }
