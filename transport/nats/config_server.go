package nats

import (
	"cmp"
	"net"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/converge-agents/converge/internal/loopback"
)

// Defaults of a [Server] and a [Cluster].
const (
	DefaultMaxConnections = 64 << 10
	DefaultServerPending  = 64 << 20
	DefaultMaxStore       = 8 << 30
	DefaultClusterName    = "converge"
)

// Server configures the embedded server. The agents of this process reach it within the process. The
// zero value opens no port.
type Server struct {
	// Name tells the servers of a cluster apart, and has to stay the same over restarts in the durable
	// mode; required in a cluster. Empty means a random one.
	Name string
	// Listen is the address (host:port; port 0 means any) at which agents of other processes connect; empty
	// means none. Beyond loopback it requires Users, Nkeys or TLS.ClientCA.
	Listen string
	// TLS is for Listen.
	TLS ServerTLS
	// Users and Nkeys (public ones, "U…") may connect to Listen. If both are empty, everybody may who
	// can reach it and has a certificate if TLS.ClientCA asks for one. Whoever connects can publish
	// anything to anybody and change the stream of the durable mode; message authenticity does not depend
	// on them.
	Users []User
	Nkeys []string
	// OpenUnsafe allows EVERYBODY who reaches Listen or Cluster.Listen to connect without login; the log
	// warns when it is used.
	OpenUnsafe bool

	// Cluster joins the embedded servers of several processes into one.
	Cluster Cluster

	// StoreDir is the directory for streams; required in the durable mode.
	StoreDir string
	// MaxStore bounds what all streams take on disk, in bytes; 0 means DefaultMaxStore.
	MaxStore int64

	// MaxConnections bounds the connections, those of this process included; 0 means
	// DefaultMaxConnections. Further ones are refused.
	MaxConnections int
	// MaxPending bounds the bytes that wait in the server for one connection that does not read. When
	// three quarters are full, those who publish to it are slowed down; beyond it the connection is closed
	// and what waited is lost (core mode). 0 means DefaultServerPending.
	MaxPending int64
}

// User may log in to the embedded server.
type User struct {
	Name     string
	Password Secret
}

// ServerTLS is a server's side of TLS 1.3.
type ServerTLS struct {
	Certificate string // file with the server's certificate; "" means no TLS
	Key         string // file with the certificate's key
	ClientCA    string // file with the authorities of clients' certificates, which are then required; "" means none
}

// Cluster joins embedded servers of several processes into one. The durable mode wants three servers.
type Cluster struct {
	// Name has to be the same on all servers; empty means DefaultClusterName.
	Name string
	// Listen is the address (host:port; port 0 means any) at which the other servers connect; empty means
	// no cluster. Beyond loopback it requires Username and Password, or TLS.ClientCA.
	Listen string
	// Routes are the addresses (host:port) of the other servers' Cluster.Listen. All servers list all;
	// a server's own address among them is fine.
	Routes []string
	// Username and Password log servers in with each other; the same on all of them.
	Username string
	Password Secret
	// TLS is for the connections between the servers. With ClientCA it is mutual: the certificates of all
	// servers come from that authority.
	TLS ServerTLS
}

// Durable configures frames that are stored until they are acknowledged.
type Durable struct {
	// Enabled switches the durable mode on. All agents of a network should agree on it.
	Enabled bool
	// Replicas is how many servers of a cluster store each frame; 0 means 3 on a cluster and 1 elsewhere.
	Replicas int
	// MaxAge is after what time frames are dropped that were not acknowledged; 0 means 10 minutes. More
	// is of use only if the messages' own expiry and message.VerifierConfig.MaxAge allow it.
	MaxAge time.Duration
	// MaxBytes bounds the stream; 0 means 1 GiB. See Config.WhenFull.
	MaxBytes int64
	// MaxPending bounds the frames that wait for one agent, or under one topic, or for all; 0 means 65,536.
	// See Config.WhenFull. A subscriber that is away keeps the frames of its topics waiting until MaxAge or
	// Forget.
	MaxPending int
	// MaxConsumers bounds the agents and groups of the network; 0 means 65,536. Further agents do not start.
	MaxConsumers int
	// InFlight bounds the frames of one agent that were delivered and not acknowledged; further ones wait
	// in the stream. 0 means 1,024.
	InFlight int
	// AckWait is after what time without an acknowledgement a frame is delivered again, unless the agent still
	// has it; 0 means 10 s.
	AckWait time.Duration
	// Forget is after what time an agent that is away is forgotten, and what waits for it dropped; 0 means
	// 24 hours.
	Forget time.Duration
	// PublishTimeout is how long Send waits for the stream's answer before it reports that it does not
	// know whether the frame was stored; 0 means 10 s.
	PublishTimeout time.Duration
	// Publishing bounds the frames of one agent that wait for the stream's answer; further Sends wait.
	// 0 means 256.
	Publishing int
}

func (s Server) withDefaults() Server {
	s.MaxConnections = cmp.Or(s.MaxConnections, DefaultMaxConnections)
	s.MaxPending = cmp.Or(s.MaxPending, DefaultServerPending)
	s.MaxStore = cmp.Or(s.MaxStore, DefaultMaxStore)
	s.Cluster.Name = cmp.Or(s.Cluster.Name, DefaultClusterName)
	return s
}

// isZero reports whether nothing but defaults is set.
func (s Server) isZero() bool {
	d := Server{}.withDefaults()
	return s.Name == "" && s.Listen == "" && s.TLS == ServerTLS{} && len(s.Users) == 0 && len(s.Nkeys) == 0 && !s.OpenUnsafe &&
		s.Cluster.isZero() && s.StoreDir == "" &&
		s.MaxStore == d.MaxStore && s.MaxConnections == d.MaxConnections && s.MaxPending == d.MaxPending
}

func (c Cluster) isZero() bool {
	return c.Listen == "" && len(c.Routes) == 0 && c.Username == "" && c.Password.isZero() && c.TLS == ServerTLS{}
}

// restricted reports whether clients have to prove something.
func (s Server) restricted() bool {
	return len(s.Users) > 0 || len(s.Nkeys) > 0 || s.TLS.ClientCA != ""
}

func (s Server) check(durable bool, wrong complain) {
	if durable && s.StoreDir == "" {
		wrong("Server.StoreDir", "required in the durable mode")
	}
	if s.MaxStore < 1 {
		wrong("Server.MaxStore", "%d is negative", s.MaxStore)
	}
	if s.MaxConnections < 1 {
		wrong("Server.MaxConnections", "%d is negative", s.MaxConnections)
	}
	if s.MaxPending < 1 {
		wrong("Server.MaxPending", "%d is negative", s.MaxPending)
	}
	s.TLS.check("Server.TLS", wrong)
	s.checkUsers(wrong)
	if s.Listen == "" {
		if s.restricted() || s.TLS != (ServerTLS{}) {
			wrong("Server.Listen", "required with Users, Nkeys and TLS")
		}
	} else {
		s.checkListen("Server.Listen", s.Listen, s.restricted(), "Users, Nkeys or TLS.ClientCA", wrong)
	}
	s.checkCluster(wrong)
}

func (s Server) checkUsers(wrong complain) {
	names := map[string]bool{}
	for i, u := range s.Users {
		if u.Name == "" || u.Password.isZero() || names[u.Name] {
			wrong("Server.Users", "user %d needs a name of its own and a password", i)
		}
		names[u.Name] = true
		u.Password.check("Server.Users", wrong)
	}
	for _, key := range s.Nkeys {
		if !nkeys.IsValidPublicUserKey(key) {
			wrong("Server.Nkeys", "%.80q is no public nkey of a user", key)
		}
	}
}

func (s Server) checkListen(field, address string, restricted bool, remedy string, wrong complain) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		wrong(field, "%.80q is not host:port", address)
		return
	}
	if !loopback.Is(host) && !restricted && !s.OpenUnsafe {
		wrong(field, "%s can be reached from other machines: set %s, or use a loopback address", address, remedy)
	}
}

func (s Server) checkCluster(wrong complain) {
	c := s.Cluster
	if c.Listen == "" {
		if !c.isZero() {
			wrong("Server.Cluster.Listen", "required with the other fields of Cluster")
		}
		return
	}
	if s.Name == "" {
		wrong("Server.Name", "required in a cluster")
	}
	if (c.Username == "") != c.Password.isZero() {
		wrong("Server.Cluster.Password", "Username and Password go together")
	}
	c.Password.check("Server.Cluster.Password", wrong)
	c.TLS.check("Server.Cluster.TLS", wrong)
	for _, route := range c.Routes {
		if _, port, err := net.SplitHostPort(route); err != nil || port == "" {
			wrong("Server.Cluster.Routes", "%.80q is not host:port", route)
		}
	}
	s.checkListen("Server.Cluster.Listen", c.Listen, c.Username != "" || c.TLS.ClientCA != "", "Cluster.Password or Cluster.TLS.ClientCA", wrong)
}

func (t ServerTLS) check(field string, wrong complain) {
	if (t.Certificate == "") != (t.Key == "") {
		wrong(field, "Certificate and Key go together")
	}
	if t.ClientCA != "" && t.Certificate == "" {
		wrong(field, "ClientCA requires Certificate and Key")
	}
}

func (d Durable) withDefaults() Durable {
	d.MaxAge = cmp.Or(d.MaxAge, 10*time.Minute)
	d.MaxBytes = cmp.Or(d.MaxBytes, 1<<30)
	d.MaxPending = cmp.Or(d.MaxPending, 64<<10)
	d.MaxConsumers = cmp.Or(d.MaxConsumers, 64<<10)
	d.InFlight = cmp.Or(d.InFlight, 1024)
	d.AckWait = cmp.Or(d.AckWait, 10*time.Second)
	d.Forget = cmp.Or(d.Forget, 24*time.Hour)
	d.PublishTimeout = cmp.Or(d.PublishTimeout, 10*time.Second)
	d.Publishing = cmp.Or(d.Publishing, 256)
	return d
}

func (d Durable) check(wrong complain) {
	for _, limit := range []struct {
		field string
		ok    bool
	}{
		{"Replicas", d.Replicas >= 0 && d.Replicas <= 5},
		{"MaxAge", d.MaxAge >= time.Second},
		{"MaxBytes", d.MaxBytes > 0},
		{"MaxPending", d.MaxPending > 0},
		{"MaxConsumers", d.MaxConsumers > 0},
		{"InFlight", d.InFlight > 0 && d.InFlight <= 1<<16},
		{"AckWait", d.AckWait >= 100*time.Millisecond},
		{"Forget", d.Forget >= time.Second},
		{"PublishTimeout", d.PublishTimeout > 0},
		{"Publishing", d.Publishing > 0 && d.Publishing <= 1<<16},
	} {
		if !limit.ok {
			wrong("Durable."+limit.field, "out of range")
		}
	}
}
