package peertls

import (
	"fmt"
	"strings"

	"github.com/converge-agents/converge/identity"
)

// nameSuffix ends the server names of agents. It is nobody's domain: the names are never looked up.
const nameSuffix = ".converge"

// labelSize is how many digits of an ID go into one label of a server name; a label has room for 63
// characters (RFC 1035), an ID has 64 digits.
const labelSize = 32

// ServerName returns the name that an agent is called by in SNI (RFC 6066): two labels of 32 digits
// and "converge".
func ServerName(id identity.ID) string {
	text := id.String()
	return text[:labelSize] + "." + text[labelSize:] + nameSuffix
}

// ParseServerName returns the ID of the agent that is called by name.
func ParseServerName(name string) (identity.ID, error) {
	first, second, _ := strings.Cut(strings.TrimSuffix(name, nameSuffix), ".")
	id, err := identity.ParseID(first + second)
	if err != nil || ServerName(id) != name {
		return identity.ID{}, fmt.Errorf("server name %.100q is not an agent's", name)
	}
	return id, nil
}
