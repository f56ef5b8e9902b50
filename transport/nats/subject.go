package nats

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
)

// The headers of frames for topics, and in the durable mode of all frames.
const (
	headerTopics = "Converge-Topics" // the topics in their text form, separated by commas
	headerFrame  = "Converge-Frame"  // what the copies of one frame have in common
	headerFrom   = "Converge-From"   // the agent that sent it, so that it can leave out its own; nothing else relies on it
)

const (
	maxHeaderTopics = message.MaxTopics * (message.MaxTopicText + 1)
	maxFrameName    = 64
	// headerRoom is what headers take of a broker's largest payload, at most.
	headerRoom = 16 << 10
)

// subjects names the subjects of one network.
type subjects struct{ prefix string }

func newSubjects(network string) subjects {
	return subjects{"converge." + networkToken(network) + "."}
}

// networkToken returns the name as one token. No name of a network holds a '_'.
func networkToken(network string) string { return strings.ReplaceAll(network, ".", "_") }

func (s subjects) agent(id identity.ID) string   { return s.prefix + "agent." + id.String() }
func (s subjects) topic(namespace string) string { return s.prefix + "topic." + namespace }
func (s subjects) all() string                   { return s.prefix + "all" }
func (s subjects) notices(nonce string) string   { return s.prefix + "notice." + nonce + "." }
func (s subjects) inbox() string                 { return s.prefix + "inbox" }
func (s subjects) agents() string                { return s.prefix + "agent.*" }
func (s subjects) topics() string                { return s.prefix + "topic.>" }
func (s subjects) isNotice(subject string) bool {
	return strings.HasPrefix(subject, s.prefix+"notice.")
}
func (s subjects) isBroadcast(subject string) bool { return subject == s.all() }
func (s subjects) isAgent(subject string) bool     { return strings.HasPrefix(subject, s.prefix+"agent.") }

// namespace returns the namespace of a topic's subject.
func (s subjects) namespace(subject string) (string, bool) {
	return strings.CutPrefix(subject, s.prefix+"topic.")
}

var tokens = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	nonceLength = 26 // 16 random bytes
	tokenLength = 16 // 10 random bytes
)

func newNonce() string { return randomToken(16) }
func newToken() string { return randomToken(10) }

func randomToken(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return tokens.EncodeToString(b)
}

func isToken(s string, length int) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return len(s) == length
}

// notice is what the last tokens of a notice's subject say:
//
//	TOKEN        a frame
//	TOKEN.7      a frame, and the 7th mark
//	TOKEN.p7     no frame, just the 7th mark
//	TOKEN.p7.a   an answer to that: not all up to the mark was taken in yet, but the endpoint is there
type notice struct {
	token string // whom the frame was for
	mark  uint64 // 0 if there is none
	bare  bool   // there was no frame
	alive bool   // it is a sign of life
}

// aliveSuffix makes a sign of life of the subject of a bare mark.
const aliveSuffix = ".a"

func (n notice) String() string {
	if n.mark == 0 {
		return n.token
	}
	text := strconv.FormatUint(n.mark, 10)
	if n.bare {
		text = "p" + text
	}
	if n.alive {
		text += aliveSuffix
	}
	return n.token + "." + text
}

// parseNotice reads what follows the nonce. It accepts only what notice.String returns.
func parseNotice(text string) (notice, bool) {
	var n notice
	token, mark, marked := strings.Cut(text, ".")
	if !isToken(token, tokenLength) {
		return n, false
	}
	n.token = token
	if !marked {
		return n, true
	}
	mark, n.alive = strings.CutSuffix(mark, aliveSuffix)
	mark, n.bare = strings.CutPrefix(mark, "p")
	number, err := strconv.ParseUint(mark, 10, 64)
	if err != nil || number == 0 || mark[0] == '0' || mark[0] == '+' || n.alive && !n.bare {
		return notice{}, false
	}
	n.mark = number
	return n, true
}

// returnTo is what the reply subject of a frame says.
type returnTo struct {
	sender string // the nonce of the endpoint that claims to have sent the frame; "" if none does
	mark   string // where its mark is to be answered; "" if it has none
	bare   bool   // there is a mark, but no frame
}

// parseReply reads a reply subject. What strangers write there must not make the agent publish elsewhere
// than to a notice.
func (s subjects) parseReply(reply string) returnTo {
	rest, isNotice := strings.CutPrefix(reply, s.prefix+"notice.")
	if !isNotice {
		return returnTo{}
	}
	nonce, rest, _ := strings.Cut(rest, ".")
	n, valid := parseNotice(rest)
	if !valid || n.alive || !isToken(nonce, nonceLength) {
		return returnTo{}
	}
	r := returnTo{sender: nonce, bare: n.bare}
	if n.mark > 0 {
		r.mark = reply
	}
	return r
}

// label is what the headers of a frame say.
type label struct {
	topics []message.Topic
	frame  string
	from   string
}

func (l label) header() client.Header {
	h := client.Header{headerFrame: {l.frame}}
	if len(l.topics) > 0 {
		h[headerTopics] = []string{joinTopics(l.topics)}
	}
	if l.from != "" {
		h[headerFrom] = []string{l.from}
	}
	return h
}

func joinTopics(topics []message.Topic) string {
	if len(topics) == 1 {
		return topics[0].String()
	}
	var b strings.Builder
	for i, t := range topics {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(t.String())
	}
	return b.String()
}

var errLabel = errors.New("malformed headers")

// parseLabel reads the headers of a frame that was published to a topic with this namespace.
func parseLabel(h client.Header, namespace string) (label, error) {
	text, err := single(h, headerTopics, maxHeaderTopics)
	if err != nil {
		return label{}, err
	}
	frame, err := single(h, headerFrame, maxFrameName)
	if err != nil {
		return label{}, err
	}
	topics, err := parseTopics(text)
	if err != nil {
		return label{}, err
	}
	in := func(t message.Topic) bool { return t.Namespace() == namespace }
	if !slices.ContainsFunc(topics, in) {
		return label{}, fmt.Errorf("%w: none of the topics has the namespace that the frame was published to", errLabel)
	}
	return label{topics: topics, frame: frame, from: sender(h)}, nil
}

// sender returns the agent that a frame claims to come from; "" if it claims none.
func sender(h client.Header) string {
	from, err := single(h, headerFrom, 2*len(identity.ID{}))
	if err != nil {
		return ""
	}
	return from
}

func single(h client.Header, key string, limit int) (string, error) {
	values := h[key]
	if len(values) != 1 || values[0] == "" || len(values[0]) > limit {
		return "", fmt.Errorf("%w: %s has to be there once, with 1 to %d bytes", errLabel, key, limit)
	}
	return values[0], nil
}

func parseTopics(text string) ([]message.Topic, error) {
	if strings.Count(text, ",") >= message.MaxTopics {
		return nil, fmt.Errorf("%w: more than %d topics", errLabel, message.MaxTopics)
	}
	var topics []message.Topic
	for part := range strings.SplitSeq(text, ",") {
		t, err := message.ParseTopic(part)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLabel, err)
		}
		if slices.Contains(topics, t) {
			return nil, fmt.Errorf("%w: a topic is named twice", errLabel)
		}
		topics = append(topics, t)
	}
	return topics, nil
}

// namespaces returns the namespaces of topics, each once, in their order.
func namespaces(topics []message.Topic) []string {
	var found []string
	for _, t := range topics {
		if ns := t.Namespace(); !slices.Contains(found, ns) {
			found = append(found, ns)
		}
	}
	return found
}

// cover returns the namespaces that no other one includes: a durable consumer takes no filter that is a
// part of another.
func cover(namespaces []string) []string {
	namespaces = slices.Compact(slices.Sorted(slices.Values(namespaces)))
	var kept []string
	for _, ns := range namespaces {
		wider := func(other string) bool { return other != ns && includes(other, ns) }
		if !slices.ContainsFunc(namespaces, wider) {
			kept = append(kept, ns)
		}
	}
	return kept
}

// includes reports whether every namespace that the pattern inner matches is matched by outer too.
func includes(outer, inner string) bool {
	for {
		o, restO, moreO := strings.Cut(outer, ".")
		i, restI, moreI := strings.Cut(inner, ".")
		switch {
		case o == ">":
			return true
		case i == ">", o != "*" && o != i, moreO != moreI:
			return false
		case !moreO:
			return true
		}
		outer, inner = restO, restI
	}
}
