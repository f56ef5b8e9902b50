package network

import (
	"fmt"
	"net/netip"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/tool/http"
)

func (n *Network) newCall(name string, t config.Tool) (described, error) {
	c := http.Config{
		Name:        name,
		Description: t.Description,
		Method:      t.HTTP.Method,
		URL:         t.HTTP.URL,
		Headers:     t.HTTP.Headers,
		Secrets:     map[string]http.Secret{},
		Body:        t.HTTP.Body,
		Hosts:       t.HTTP.Hosts,
		UnsafeHTTP:  t.HTTP.UnsafeHTTP,
	}
	if t.HTTP.JSON != nil {
		c.JSON = t.HTTP.JSON
	}
	for header, s := range t.HTTP.SecretHeaders {
		c.Secrets[header] = http.Secret{Env: s.Env, File: s.File, Prefix: s.Prefix}
	}
	for _, text := range t.HTTP.PrivateAddresses { // which have been checked
		if addr, err := netip.ParseAddr(text); err == nil {
			c.PrivateAddresses = append(c.PrivateAddresses, netip.PrefixFrom(addr, addr.BitLen()))
		} else if prefix, err := netip.ParsePrefix(text); err == nil {
			c.PrivateAddresses = append(c.PrivateAddresses, prefix)
		}
	}
	made, err := http.New(c)
	if err != nil {
		return nil, fmt.Errorf("tools.%s: %w", name, err)
	}
	if c.UnsafeHTTP {
		n.log.Warn("UNSAFE: calls of a tool may go without TLS: who is on the way reads and alters them", "tool", name)
	}
	n.params[name] = made.InputSchema().Required
	return made, nil
}
