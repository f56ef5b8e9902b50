package config

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/converge-agents/converge/discovery"
	"github.com/converge-agents/converge/pool"
)

// The stores. [StoreSQLite] may be followed by a file, as in "sqlite:tasks.db"; [StorePostgres] stands for a
// URL, as in "postgres://user@host/database".
const (
	StoreMemory   = "memory"   // lives and dies with the process
	StoreSQLite   = "sqlite"   // one file, for one process
	StorePostgres = "postgres" // a database that processes share
	StoreNATS     = "nats"     // a key-value bucket of the NATS servers, which processes share
)

// Postgres sets up the store postgres.
type Postgres struct {
	// Password is the database user's. Default none, which leaves it to PGPASSWORD and ~/.pgpass.
	Password Secret `key:"password"`
	// Schema is where the tables are. Default "converge".
	Schema string `key:"schema"`
}

// Bucket sets up the store nats.
type Bucket struct {
	// Name is the bucket's. Default "converge".
	Name string `key:"name"`
	// Replicas is on how many servers each entry is kept, 1 to 5. Default 3 in a cluster, else 1.
	Replicas int `key:"replicas"`
	// MaxBytes bounds all entries. Default 1GiB.
	MaxBytes Size `key:"max_bytes"`
}

// How agents of other processes are found.
const (
	DiscoveryStore    = "store"    // descriptors are kept in the store
	DiscoveryMessages = "messages" // agents tell each other, over the transport
)

// Discovery says how agents find each other.
type Discovery struct {
	// Via is store, or messages, by which the agents of processes that share no store tell each other.
	// Default store.
	Via string `key:"via"`
	// TTL is how long a descriptor is in force unless it is renewed, from 1s. Default 2m.
	TTL Duration `key:"ttl"`
	// Admit says whom peers may introduce, with Via messages: known, only the agents of this Config and its
	// peers, or any, whoever a peer has heard of. Default known.
	Admit string `key:"admit"`
	// Advertise is where others reach this process, as its agents' descriptors say: host:port with tcp, a URL
	// with websocket. Who is introduced and advertises an address is dialled there. Default "".
	Advertise string `key:"advertise"`
}

// Whom peers may introduce.
const (
	AdmitKnown = "known"
	AdmitAny   = "any"
)

// Whether bodies of direct messages are sealed for their recipients.
const (
	SealOff      = "off"
	SealAllowed  = "allowed"  // sealed ones are opened
	SealRequired = "required" // others are neither sent nor taken
)

// How agents get into a [Pool].
const (
	AdmissionOpen      = "open"
	AdmissionAllowlist = "allowlist"
	AdmissionToken     = "token"
)

// Pool describes a group of agents. Only its members see its tasks, and only they may publish to its topics.
type Pool struct {
	// Name is formed like a tool's name, of 64 characters at most; required, and once in a Config.
	Name string `key:"name"`
	// Owner is the agent of this process that makes the pool unless it exists. Default "", which leaves
	// that to another process.
	Owner string `key:"owner"`
	// Admission is open, allowlist or token. Default allowlist, which with no Members admits nobody but
	// the owner. Only with Owner.
	Admission string `key:"admission"`
	// Members are the agents and peers on the list.
	Members []string `key:"members"`
	// Token is what agents show to be let in, where admission is by token. Both those who let in and those
	// who join need it.
	Token Secret `key:"token"`
	// Topics are those that only members may publish to: dot-separated segments of letters, digits, '_' and
	// '-', which come after "pool.NAME.".
	Topics []string `key:"topics"`
	// MaxMembers bounds the pool. Default 0, which is the pool manager's.
	MaxMembers int `key:"max_members"`
}

func (p *Pool) setDefaults() { p.Admission = AdmissionAllowlist }

// StoreKind returns which of the stores it is, "" for one that there is not.
func (c *Config) StoreKind() string {
	name, _, _ := strings.Cut(c.Store, ":")
	switch name {
	case StoreMemory, StoreNATS:
		if name == c.Store {
			return name
		}
	case StoreSQLite:
		return name
	case StorePostgres, "postgresql":
		return StorePostgres
	}
	return ""
}

// StoreSurvives reports whether the store outlives the process.
func (c *Config) StoreSurvives() bool { return c.StoreKind() != StoreMemory }

// StoreShared reports whether other processes may use the store too.
func (c *Config) StoreShared() bool {
	return c.StoreKind() == StorePostgres || c.StoreKind() == StoreNATS
}

// StorePath returns the file of the store sqlite: the one that Store names, or converge.db in Data.
func (c *Config) StorePath() string {
	if _, path, named := strings.Cut(c.Store, ":"); named && path != "" {
		return c.origin.path("store", path)
	}
	return filepath.Join(c.Data, "converge.db")
}

var stores = []string{StoreMemory, StoreSQLite, StorePostgres, StoreNATS}

const storeHint = `it is memory, sqlite, sqlite:FILE, postgres://USER@HOST/DATABASE or nats`

// state checks what is kept, and where.
func (k checker) state() {
	kind := k.StoreKind()
	switch kind {
	case "":
		name, _, _ := strings.Cut(k.Store, ":")
		k.bad("store", suggest(name, "values", stores), "unknown value %q", clip(name)) // what follows may be a secret
	case StoreSQLite:
		k.sqlite()
	case StorePostgres:
		k.postgres()
	case StoreNATS:
		servers, _ := k.Servers()
		switch {
		case k.TransportKind() != TransportNATS:
			k.bad("store", "choose it with transport: nats, or another store", "only with the transport nats")
		case len(servers) == 0 && k.Data == "":
			k.bad("store", "name a folder that stays: data: FOLDER", "entries cannot be kept in a temporary folder")
		}
	}
	if k.Postgres != (Postgres{}) && kind != StorePostgres {
		k.bad("postgres", "leave it out", "only with a store postgres://…")
	}
	k.secret("postgres.password", k.Postgres.Password)
	if k.NATS.Store != (Bucket{}) && kind != StoreNATS {
		k.bad("nats.store", "leave it out", "only with store: nats")
	}
	k.bucket(k.NATS.Store)
	k.oneOf("discovery.via", k.Discovery.Via, DiscoveryStore, DiscoveryMessages)
	if ttl := time.Duration(k.Discovery.TTL); ttl != 0 && ttl < time.Second {
		k.bad("discovery.ttl", "", "want at least 1s, not %s", k.Discovery.TTL)
	}
	k.discovery()
	k.oneOf("seal", k.Seal, SealOff, SealAllowed, SealRequired)
	k.pools()
}

func (k checker) discovery() {
	d, kind := k.Discovery, k.TransportKind()
	switch byMessages := d.Via == DiscoveryMessages; {
	case byMessages && kind == TransportLocal:
		k.bad("discovery.via", "choose a transport that does, or leave this out", "the transport local reaches no other process")
	case byMessages && k.StoreShared():
		k.bad("discovery.via", "leave it out: descriptors in the store are seen by all", "not with a store that processes share")
	case !byMessages && d.Admit == AdmitAny:
		k.bad("discovery.admit", "choose via: messages, or leave this out", "only with via: messages")
	}
	k.oneOf("discovery.admit", d.Admit, AdmitKnown, AdmitAny)
	switch {
	case d.Advertise == "":
	case kind == TransportTCP && !isHostPort(d.Advertise):
		k.bad("discovery.advertise", `write it such as "10.0.0.1:7946"`, "want host:port, not %q", clip(d.Advertise))
	case kind == TransportWebSocket:
		if _, err := url.Parse(d.Advertise); err != nil || !strings.Contains(d.Advertise, "://") {
			k.bad("discovery.advertise", `write it such as "wss://10.0.0.1:7946"`, "want a URL, not %q", clip(d.Advertise))
		}
	case kind != TransportTCP:
		k.bad("discovery.advertise", "leave it out", "only with the transports tcp and websocket")
	}
}

func (k checker) sqlite() {
	switch _, path, named := strings.Cut(k.Store, ":"); {
	case named && path == "":
		k.bad("store", storeHint, "want a file after sqlite:")
	case !named && k.Data == "":
		k.bad("store", "give data a folder, or name a file: sqlite:FILE", "the file would be in a temporary folder, since data is empty")
	}
}

func (k checker) postgres() {
	u, err := url.Parse(k.Store)
	switch {
	case err != nil || u.Host == "" && !u.Query().Has("host"): // err repeats the URL
		k.bad("store", storeHint, "not the URL of a PostgreSQL database")
	case u.User != nil && hasPassword(u.User) || u.Query().Has("password"):
		k.bad("store", "leave it out, and use postgres.password", "no password in an address")
	}
}

func hasPassword(u *url.Userinfo) bool {
	_, has := u.Password()
	return has
}

func (k checker) bucket(b Bucket) {
	if b.Replicas < 0 || b.Replicas > 5 {
		k.bad("nats.store.replicas", "", "want 1 to 5, not %d", b.Replicas)
	}
	if b.MaxBytes < 0 {
		k.bad("nats.store.max_bytes", "", "want a size that is not negative")
	}
	if b.Name != "" && (!isName(b.Name) || strings.Contains(b.Name, ".")) {
		k.bad("nats.store.name", "use letters, digits, '_' and '-'", "not a bucket's name: %q", clip(b.Name))
	}
}

func (k checker) pools() {
	agents, known := map[string]bool{}, map[string]bool{}
	for _, a := range k.Agents {
		for _, name := range a.Names() {
			agents[name], known[name] = true, true
		}
	}
	for _, p := range k.Peers {
		known[p.Name] = true
	}
	names := map[string]bool{}
	for i, p := range k.Pools {
		key := item("pools", i)
		switch {
		case !isName(p.Name) || len(p.Name) > pool.MaxName:
			k.bad(child(key, "name"), "use 1 to 64 letters, digits, '_', '-' and '.'", "not a pool's name: %q", clip(p.Name))
		case names[p.Name]:
			k.bad(child(key, "name"), "", "%q is given twice", clip(p.Name))
		}
		names[p.Name] = true
		k.pool(key, p, agents, known)
	}
	for i, a := range k.Agents {
		for j, name := range a.Pools {
			k.knownPool(item(child(item("agents", i), "pools"), j), name)
		}
		for j, t := range a.Tasks {
			if t.Pool != "" {
				k.knownPool(child(item(child(item("agents", i), "tasks"), j), "pool"), t.Pool)
			}
		}
	}
}

func (k checker) pool(key string, p Pool, agents, known map[string]bool) {
	k.oneOf(child(key, "admission"), p.Admission, AdmissionOpen, AdmissionAllowlist, AdmissionToken)
	if p.Owner != "" && !agents[p.Owner] {
		k.bad(child(key, "owner"), "it is an agent of this file", "unknown agent %q", clip(p.Owner))
	}
	for _, name := range []string{"admission", "members", "topics", "max_members"} {
		if p.Owner == "" && k.origin.given(child(key, name)) {
			k.bad(child(key, name), "name the owner, or leave it to the process that has it", "only with an owner")
		}
	}
	for i, name := range p.Members {
		if !known[name] {
			k.bad(item(child(key, "members"), i), "it is an agent or a peer of this file", "unknown agent %q", clip(name))
		}
	}
	if len(p.Members) > 0 && p.Admission != AdmissionAllowlist {
		k.bad(child(key, "members"), "", "only with admission: allowlist")
	}
	byToken := p.Admission == AdmissionToken
	if p.Owner != "" && byToken != (p.Token != Secret{}) {
		k.bad(child(key, "token"), "", "required with admission: token, and only there")
	}
	k.secret(child(key, "token"), p.Token)
	k.atLeast(child(key, "max_members"), p.MaxMembers, 0)
}

func (k checker) knownPool(key, name string) {
	var names []string
	for _, p := range k.Pools {
		names = append(names, p.Name)
	}
	if !slices.Contains(names, name) {
		k.bad(key, suggest(name, "pools", names), "unknown pool %q", clip(name))
	}
}

func (d *Discovery) setDefaults() {
	d.Via, d.TTL, d.Admit = DiscoveryStore, Duration(discovery.DefaultTTL), AdmitKnown
}
