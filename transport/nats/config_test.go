package nats_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/transport/nats"
)

func TestZeroConfigIsAnEmbeddedServer(t *testing.T) {
	n := newNetwork(t, nats.Config{})
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.Addr() != nil || n.ClusterAddr() != nil {
		t.Errorf("it listens at %v and %v though nobody asked for that", n.Addr(), n.ClusterAddr())
	}
}

func TestNewNamesTheFieldAtFault(t *testing.T) {
	secret := nats.Secret{Env: "X"}
	for field, c := range map[string]nats.Config{
		"Network":        {Network: "No Network"},
		"MaxFrame":       {MaxFrame: -1},
		"Pending":        {Pending: -1},
		"PendingBytes":   {PendingBytes: -1},
		"Window":         {Window: -1},
		"ConnectTimeout": {ConnectTimeout: -1},
		"ReadyTimeout":   {ReadyTimeout: -1},
		"WriteTimeout":   {WriteTimeout: -1},
		"IdleTimeout":    {IdleTimeout: -1},
		"Grace":          {Grace: -1},
		"BackoffMin":     {BackoffMin: -1},
		"BackoffMax":     {BackoffMin: time.Second, BackoffMax: time.Millisecond},
		"URL":            {URL: "http://127.0.0.1:4222"},
		"Credentials":    {URL: "nats://a", Seed: "x", Credentials: "y"},
		"Password":       {URL: "nats://a", Username: "x"},
		"Token":          {URL: "nats://a", Token: nats.Secret{File: "x", Env: "Y"}},
		"TLS":            {URL: "tls://a", TLS: nats.TLS{Key: "x"}},
		"Server":         {URL: "nats://a", Server: nats.Server{Listen: "127.0.0.1:0"}},

		"Server.StoreDir":             {Durable: nats.Durable{Enabled: true}},
		"Server.Listen":               {Server: nats.Server{Listen: "4222"}},
		"Server.TLS":                  {Server: nats.Server{Listen: "127.0.0.1:0", TLS: nats.ServerTLS{Key: "x"}}},
		"Server.Users":                {Server: nats.Server{Listen: "127.0.0.1:0", Users: []nats.User{{Name: "x"}}}},
		"Server.Nkeys":                {Server: nats.Server{Listen: "127.0.0.1:0", Nkeys: []string{"x"}}},
		"Server.Name":                 {Server: nats.Server{Cluster: nats.Cluster{Listen: "127.0.0.1:0"}}},
		"Server.Cluster.Listen":       {Server: nats.Server{Cluster: nats.Cluster{Routes: []string{"a:1"}}}},
		"Server.Cluster.Routes":       {Server: nats.Server{Name: "a", Cluster: nats.Cluster{Listen: "127.0.0.1:0", Routes: []string{"x"}}}},
		"Server.Cluster.Password":     {Server: nats.Server{Name: "a", Cluster: nats.Cluster{Listen: "127.0.0.1:0", Password: secret}}},
		"Server.Cluster.TLS":          {Server: nats.Server{Name: "a", Cluster: nats.Cluster{Listen: "127.0.0.1:0", TLS: nats.ServerTLS{ClientCA: "x"}}}},
		"Durable.Replicas":            {Durable: nats.Durable{Replicas: -1}},
		"Durable.MaxAge":              {Durable: nats.Durable{MaxAge: -1}},
		"Durable.InFlight":            {Durable: nats.Durable{InFlight: -1}},
		"Durable.AckWait":             {Durable: nats.Durable{AckWait: -1}},
		"Durable.PublishTimeout":      {Durable: nats.Durable{PublishTimeout: -1}},
		"Server.MaxConnections":       {Server: nats.Server{MaxConnections: -1}},
		"Durable.MaxConsumers":        {Durable: nats.Durable{MaxConsumers: -1}},
		"Durable.Publishing":          {Durable: nats.Durable{Publishing: -1}},
		"Server.Cluster.Listen: 0.0.": {Server: nats.Server{Name: "a", Cluster: nats.Cluster{Listen: "0.0.0.0:0"}}},
	} {
		if field != "Network" {
			c.Network = "test"
		}
		if _, err := nats.New(c); err == nil || !strings.Contains(err.Error(), "nats.Config."+field) {
			t.Errorf("New(%+v): %v, want an error that names %s", c, err, field)
		}
	}
}

func TestNewWantsALoginBeyondLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:4222", "broker.example:4222"} {
		if _, err := nats.New(nats.Config{Network: "test", Server: nats.Server{Listen: address}}); err == nil || !strings.Contains(err.Error(), "other machines") {
			t.Errorf("New with Server.Listen %q and no login: %v", address, err)
		}
		if _, err := nats.New(nats.Config{Network: "test", Server: nats.Server{Listen: address, OpenUnsafe: true}}); err != nil {
			t.Errorf("New with Server.Listen %q and OpenUnsafe: %v", address, err)
		}
	}
}

func TestCredentialsInTheURLAreRefused(t *testing.T) {
	_, err := nats.New(nats.Config{Network: "test", URL: "nats://a:4222,user:hunter2@b:4222"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("New: %v, want an error without the password", err)
	}
}

func TestSecretsAreReadWhenTheyAreNeeded(t *testing.T) {
	missing := nats.Secret{File: filepath.Join(t.TempDir(), "missing")}
	empty := nats.Secret{File: filepath.Join(t.TempDir(), "empty")}
	if err := os.WriteFile(empty.File, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, password := range []nats.Secret{missing, empty, {Env: "CONVERGE_TEST_NO_SUCH_VARIABLE"}} {
		n := newNetwork(t, nats.Config{URL: "nats://127.0.0.1:1", Username: "x", Password: password})
		err := n.Endpoint(newIdentity(t)).Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), password.File+password.Env) {
			t.Errorf("Start with the password in %+v: %v, want an error that names the place", password, err)
		}
	}
}

func TestOneAgentTwiceInOneNetworkIsRefused(t *testing.T) {
	n, id := newNetwork(t, nats.Config{}), newIdentity(t)
	first, second := n.Endpoint(id), n.Endpoint(id)
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); !errors.Is(err, nats.ErrAttached) {
		t.Errorf("Start of a second endpoint of one agent: %v, want ErrAttached", err)
	}
	first.Close()
	if err := second.Start(t.Context()); err != nil {
		t.Errorf("Start once the first is closed: %v", err)
	}
}

func newIdentity(t testing.TB) *identity.Identity {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newUser returns the public nkey of a user, and a file with the seed.
func newUser(t *testing.T) (public, seedFile string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ = pair.PublicKey()
	seed, _ := pair.Seed()
	seedFile = filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	return public, seedFile
}
