package config

// NATS sets up the transport nats. Who may connect to the servers does not decide whom agents believe:
// that is a matter of the agents' keys.
type NATS struct {
	// Credentials is a .creds file of a user of the servers that Config.Transport names, NKey a file with
	// the seed of a user's nkey, User and Password a name and its password, Token a token. At most one of
	// these ways. Not for the server of this process, which knows its agents.
	Credentials string `key:"credentials"`
	NKey        string `key:"nkey"`
	User        string `key:"user"`
	Password    Secret `key:"password"`
	Token       Secret `key:"token"`
	// TLS is for the servers that Config.Transport names.
	TLS ClientTLS `key:"tls"`

	// WhenFull says what a sender meets whose recipient does not keep up: block or drop. Default block.
	WhenFull string `key:"when_full"`
	// Grace is how long messages wait for a server that is away before sending fails. Default 5s.
	Grace Duration `key:"grace"`

	// Durable has the servers keep messages, synced to disk, until they were taken in, also for agents
	// that are away. All processes of a network have to agree on it. Default false.
	Durable bool `key:"durable"`
	// Stream bounds what is kept. Only with Durable.
	Stream Stream `key:"stream"`

	// Store sets up the bucket of Config.Store nats. Only with that.
	Store Bucket `key:"store"`

	// Server sets up the server of this process, which there is if Config.Transport is "nats". Others
	// reach it at Config.Listen.
	Server Server `key:"server"`
}

// Secret says where a secret is, which never stands in a configuration: in a file, of which blanks at
// both ends do not count, or in an environment variable. At most one of them.
type Secret struct {
	File string `key:"file"`
	Env  string `key:"env"`
}

// isSecret has the decoder not repeat what stands in the place of one.
func (*Secret) isSecret() {}

// ClientTLS is how this process speaks TLS 1.3 with servers. All but ServerName are PEM files.
type ClientTLS struct {
	// CA are the authorities that sign for the servers. Default "", which is those that this machine
	// trusts.
	CA string `key:"ca"`
	// Certificate and Key are this process's, where servers want to see one.
	Certificate string `key:"certificate"`
	Key         string `key:"key"`
	// ServerName is what the servers' certificate has to be for. Default "", which is the host of the
	// address.
	ServerName string `key:"server_name"`
}

// ServerTLS is how the server of this process speaks TLS 1.3. All are PEM files.
type ServerTLS struct {
	// Certificate and Key are the server's. Default "", which is no TLS.
	Certificate string `key:"certificate"`
	Key         string `key:"key"`
	// ClientCA are the authorities that sign for those who connect, who then need a certificate.
	ClientCA string `key:"client_ca"`
}

// Stream bounds what is kept for agents that are away. Zero values are the transport's defaults.
type Stream struct {
	// Replicas is on how many servers each message is kept, 1 to 5. Default 3 in a cluster, else 1.
	Replicas int `key:"replicas"`
	// MaxAge is how long a message is kept, from 1s. Default 10m; messages live for 5m unless their
	// senders say otherwise.
	MaxAge Duration `key:"max_age"`
	// MaxBytes bounds all messages that are kept. Default 1GiB.
	MaxBytes Size `key:"max_bytes"`
	// Forget is how long an agent may be away before what waits for it is dropped, from 1s. Default 24h.
	Forget Duration `key:"forget"`
}

// Server sets up a NATS server in this process.
type Server struct {
	// Name is the server's, once in a cluster and the same over restarts; required in a cluster.
	Name string `key:"name"`
	// TLS is for Config.Listen.
	TLS ServerTLS `key:"tls"`
	// Users and NKeys (public ones, U…) may connect at Config.Listen. There or TLS.ClientCA, somebody has
	// to be named if that can be reached from other machines.
	Users []User   `key:"users"`
	NKeys []string `key:"nkeys"`
	// Cluster joins this server to those of other processes.
	Cluster Cluster `key:"cluster"`
}

// User may connect to a server.
type User struct {
	Name     string `key:"name"`
	Password Secret `key:"password"`
}

// Cluster joins servers.
type Cluster struct {
	// Name is the same on all servers. Default "converge".
	Name string `key:"name"`
	// Listen is the host:port at which the other servers connect. Default "", which is no cluster.
	Listen string `key:"listen"`
	// Routes are the host:port of the other servers.
	Routes []string `key:"routes"`
	// User and Password are what the servers show each other, the same on all of them. They or
	// TLS.ClientCA are required where Listen can be reached from other machines.
	User     string `key:"user"`
	Password Secret `key:"password"`
	// TLS is for the connections between the servers.
	TLS ServerTLS `key:"tls"`
}

// files returns the paths in the section, by their keys.
func (n *NATS) files() map[string]*string {
	files := map[string]*string{
		"nats.credentials":                  &n.Credentials,
		"nats.nkey":                         &n.NKey,
		"nats.password.file":                &n.Password.File,
		"nats.token.file":                   &n.Token.File,
		"nats.tls.ca":                       &n.TLS.CA,
		"nats.tls.certificate":              &n.TLS.Certificate,
		"nats.tls.key":                      &n.TLS.Key,
		"nats.server.cluster.password.file": &n.Server.Cluster.Password.File,
	}
	n.Server.TLS.files("nats.server.tls", files)
	n.Server.Cluster.TLS.files("nats.server.cluster.tls", files)
	for i := range n.Server.Users {
		files[item("nats.server.users", i)+".password.file"] = &n.Server.Users[i].Password.File
	}
	return files
}

func (t *ServerTLS) files(key string, files map[string]*string) {
	files[child(key, "certificate")] = &t.Certificate
	files[child(key, "key")] = &t.Key
	files[child(key, "client_ca")] = &t.ClientCA
}
