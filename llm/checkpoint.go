package llm

import (
	"errors"
	"fmt"

	"github.com/converge-agents/converge/internal/cose"
)

// The state of an agent is an array in deterministic CBOR (RFC 8949, section 4.2.1): [1, day, use of the day, [key, use]
// for each conversation, one after the other], where a use is four numbers: calls, tokens, tool calls, millionths of the
// currency.
const (
	stateVersion = 1
	stateFields  = 4
	useFields    = 4
)

func appendUse(b []byte, u Use) []byte {
	b = cose.AppendArray(b, useFields)
	for _, n := range []int64{int64(u.Calls), int64(u.Tokens), int64(u.ToolCalls), u.Cost} {
		b = cose.AppendUint(b, uint64(max(n, 0)))
	}
	return b
}

// encode returns the state if it has changed since the last time, and nil otherwise.
func (l *ledger) encode() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turnPage()
	if !l.changed {
		return nil
	}
	l.changed = false
	b := cose.AppendUint(cose.AppendArray(nil, stateFields), stateVersion)
	b = appendUse(cose.AppendUint(b, uint64(l.today)), l.used)
	b = cose.AppendArray(b, len(l.order))
	for _, key := range l.order {
		b = appendUse(cose.AppendText(cose.AppendArray(b, 2), key), *l.accounts[key])
	}
	return b
}

var errNotState = errors.New("it is not the state of an agent with a model")

const maxCount = 1 << 53

func readUse(r *cose.Reader) (u Use, ok bool) {
	if r.Array() != useFields {
		return u, false
	}
	var n [useFields]uint64
	for i := range n {
		if n[i] = r.Uint(); n[i] > maxCount {
			return u, false
		}
	}
	return Use{Calls: int(n[0]), Tokens: int(n[1]), ToolCalls: int(n[2]), Cost: int64(n[3])}, r.Err() == nil
}

// decode takes in the state of an earlier run.
func (l *ledger) decode(state []byte) error {
	r := cose.NewReader(state)
	fields, version := r.Array(), r.Uint()
	if r.Err() == nil && version > stateVersion {
		return fmt.Errorf("state of version %d, newer than %d, the newest that this program knows", version, stateVersion)
	}
	day := r.Uint()
	used, ok := readUse(&r)
	count := r.Array()
	if !ok || r.Err() != nil || fields != stateFields || version != stateVersion || day > maxCount || count > maxAccounts {
		return errNotState
	}
	accounts, order := map[string]*Use{}, []string(nil)
	for range count {
		pair, key := r.Array(), string(r.Text())
		u, ok := readUse(&r)
		if !ok || pair != 2 || key == "" || accounts[key] != nil {
			return errNotState
		}
		accounts[key], order = &u, append(order, key)
	}
	if r.End() != nil {
		return errNotState
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.today, l.used, l.accounts, l.order = int64(day), used, accounts, order
	l.changed = false
	return nil
}
