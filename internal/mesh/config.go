package mesh

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport"
)

// Peer is an agent elsewhere that may connect, and that is dialled if it has an Address.
type Peer struct {
	Name    string      // for logs; may be empty
	ID      identity.ID // required
	Address string      // where it is dialled, in the form of the transport; "" means that it dials us
}

// Config configures a [Network]. The zero value is usable, and lets nobody in: there are no peers. Each transport has a
// Config of its own with these fields, which says what they mean; what their zeros mean stands in withDefaults.
type Config struct {
	Listen   string
	Peers    []Peer
	MaxPeers int
	OnKey    func(identity.ID, ed25519.PublicKey)
	Keys     *identity.Registry

	Queue        int // bytes
	WhenFull     transport.WhenFull
	Receive      int
	ReceiveBytes int
	MaxFrame     int // bytes

	MaxConnections          int
	MaxPerAddress           int
	MaxHandshakes           int
	MaxHandshakesPerAddress int

	HandshakeTimeout time.Duration
	IdleTimeout      time.Duration
	ProgressTimeout  time.Duration
	MinRate          int // bytes a second
	FrameRate        int // a second
	ByteRate         int // a second
	Grace            time.Duration
	MinBackoff       time.Duration
	MaxBackoff       time.Duration
	Linger           time.Duration

	Logger *slog.Logger
	Now    func() time.Time
}

// withDefaults checks the configuration and fills in the defaults; the error names the field.
func (c Config) withDefaults() (Config, error) {
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.WhenFull != transport.Block && c.WhenFull != transport.DropNewest {
		return c, fmt.Errorf("WhenFull: %d is no policy", c.WhenFull)
	}
	var errs []error
	for _, f := range []struct {
		name    string
		value   *int
		initial int
	}{
		{"MaxPeers", &c.MaxPeers, 16384},
		{"Queue", &c.Queue, 4 << 20},
		{"Receive", &c.Receive, 1024},
		{"ReceiveBytes", &c.ReceiveBytes, 16 << 20},
		{"MaxFrame", &c.MaxFrame, 1<<20 + 64<<10},
		{"MaxConnections", &c.MaxConnections, 16384},
		{"MaxPerAddress", &c.MaxPerAddress, 2048},
		{"MaxHandshakes", &c.MaxHandshakes, 1024},
		{"MaxHandshakesPerAddress", &c.MaxHandshakesPerAddress, 256},
		{"MinRate", &c.MinRate, 8 << 10},
		{"FrameRate", &c.FrameRate, 500_000},
		{"ByteRate", &c.ByteRate, 512 << 20},
	} {
		errs = append(errs, fill(f.name, f.value, f.initial, 1, math.MaxInt32))
	}
	for _, f := range []struct {
		name    string
		value   *time.Duration
		initial time.Duration
	}{
		{"HandshakeTimeout", &c.HandshakeTimeout, 5 * time.Second},
		{"IdleTimeout", &c.IdleTimeout, 45 * time.Second},
		{"ProgressTimeout", &c.ProgressTimeout, 15 * time.Second},
		{"Grace", &c.Grace, 5 * time.Second},
		{"MinBackoff", &c.MinBackoff, 100 * time.Millisecond},
		{"MaxBackoff", &c.MaxBackoff, 10 * time.Second},
		{"Linger", &c.Linger, 3 * time.Second},
	} {
		errs = append(errs, fill(f.name, f.value, f.initial, time.Millisecond, 24*time.Hour))
	}
	c.MaxBackoff = max(c.MaxBackoff, c.MinBackoff)
	return c, errors.Join(errs...)
}

func fill[T cmp.Ordered](name string, value *T, initial, least, most T) error {
	*value = cmp.Or(*value, initial)
	if *value < least || *value > most {
		return fmt.Errorf("%s: %v is not between %v and %v", name, *value, least, most)
	}
	return nil
}
