package message

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of a [Topic], so that a topic fits into one header field and one broker subject.
const (
	MaxTopicText       = 512 // bytes of a topic's or pattern's text form
	MaxTopicSegments   = 16  // segments of a namespace
	MaxTopicAttributes = 16  // attributes of a topic
)

// ErrTopic is the cause of every refusal of a topic's or a pattern's text.
var ErrTopic = errors.New("invalid topic")

// Topic names a subject that messages are published under: a namespace of dot-separated segments, an
// optional version, and optional attributes. Its text form is canonical, so two topics are equal
// exactly if they are == and exactly if their texts are:
//
//	orders.created
//	orders.created@2
//	orders.created@2?region=eu&tier=gold
//
// A segment is made of letters, digits, '_' and '-'. The version is a positive number; none is
// version 0. Attributes are sorted by name; names are made like segments, values are percent-encoded
// UTF-8 and may be empty. The zero Topic is no topic.
type Topic struct{ text string }

// NewTopic makes a topic of its parts; version 0 means none. Its errors wrap [ErrTopic].
func NewTopic(namespace string, version uint32, attributes map[string]string) (Topic, error) {
	p := topicParts{namespace: namespace, version: version}
	for name, value := range attributes {
		p.attributes = append(p.attributes, attribute{name, value})
	}
	slices.SortFunc(p.attributes, func(a, b attribute) int { return cmp.Compare(a.name, b.name) })
	return p.topic()
}

// ParseTopic reads the text form of a topic. It accepts only what [Topic.String] returns: another
// spelling of the same topic (unsorted attributes, a leading zero, a needless escape) is an error, so
// that one topic has one text. Its errors wrap [ErrTopic].
func ParseTopic(text string) (Topic, error) {
	p, err := parseTopicParts(text)
	if err != nil {
		return Topic{}, err
	}
	t, err := p.topic()
	if err == nil && t.text != text {
		err = topicError(text, "write it as %q", t.text)
	}
	if err != nil {
		return Topic{}, err
	}
	return t, nil
}

// MustTopic is [ParseTopic] for constants; it panics on error.
func MustTopic(text string) Topic {
	t, err := ParseTopic(text)
	if err != nil {
		panic(err)
	}
	return t
}

// IsZero reports whether t is the zero Topic.
func (t Topic) IsZero() bool { return t.text == "" }

// String returns the canonical text form; "" for the zero Topic.
func (t Topic) String() string { return t.text }

// Namespace returns the dot-separated segments, without version and attributes.
func (t Topic) Namespace() string {
	text := t.text
	if end := strings.IndexByte(text, '?'); end >= 0 {
		text = text[:end]
	}
	if end := strings.IndexByte(text, '@'); end >= 0 {
		text = text[:end]
	}
	return text
}

// Version returns the version; 0 means none.
func (t Topic) Version() uint32 { return t.parts().version }

// Attributes returns the attributes in a map of its own.
func (t Topic) Attributes() map[string]string {
	attributes := map[string]string{}
	for _, a := range t.parts().attributes {
		attributes[a.name] = a.value
	}
	return attributes
}

// MarshalText implements [encoding.TextMarshaler] with the form of [Topic.String].
func (t Topic) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// UnmarshalText implements [encoding.TextUnmarshaler] by [ParseTopic]; empty text is the zero Topic.
func (t *Topic) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*t = Topic{}
		return nil
	}
	parsed, err := ParseTopic(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// parts takes apart the text of a valid topic.
func (t Topic) parts() topicParts {
	if t.IsZero() {
		return topicParts{}
	}
	p, err := parseTopicParts(t.text)
	if err != nil {
		panic("message: a Topic holds invalid text: " + err.Error()) // only this file makes Topics
	}
	return p
}

// Pattern selects topics. Its namespace may hold '*', which matches exactly one segment, and may end
// in '>', which matches one or more. A version selects that version only, none selects all; each
// attribute has to be present with that value, others are ignored:
//
//	orders.*            orders.created, orders.created@2, but not orders.eu.created
//	orders.>            orders.created, orders.eu.created, but not orders
//	orders.>@2?tier=gold
//
// Patterns are comparable by text. The zero Pattern matches nothing.
type Pattern struct {
	text       string
	segments   []string
	version    uint32
	attributes []attribute
}

// ParsePattern reads a pattern. Every topic's text is a pattern that matches that topic. Its errors
// wrap [ErrTopic].
func ParsePattern(text string) (Pattern, error) {
	p, err := parseTopicParts(text)
	if err != nil {
		return Pattern{}, err
	}
	if err := p.check(true); err != nil {
		return Pattern{}, err
	}
	if canonical := p.text(); canonical != text {
		return Pattern{}, topicError(text, "write it as %q", canonical)
	}
	return Pattern{text, strings.Split(p.namespace, "."), p.version, p.attributes}, nil
}

// MustPattern is [ParsePattern] for constants; it panics on error.
func MustPattern(text string) Pattern {
	p, err := ParsePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}

// String returns the text that the pattern was parsed from.
func (p Pattern) String() string { return p.text }

// Namespace returns the segments, wildcards included, without version and attributes.
func (p Pattern) Namespace() string { return strings.Join(p.segments, ".") }

// Matches reports whether the pattern selects the topic. It allocates only for patterns that name a
// version or attributes.
func (p Pattern) Matches(t Topic) bool {
	if p.text == "" || t.IsZero() || !p.matchesNamespace(t.Namespace()) {
		return false
	}
	if p.version == 0 && len(p.attributes) == 0 {
		return true
	}
	parts := t.parts()
	if p.version != 0 && p.version != parts.version {
		return false
	}
	for _, want := range p.attributes {
		if !slices.Contains(parts.attributes, want) {
			return false
		}
	}
	return true
}

func (p Pattern) matchesNamespace(rest string) bool {
	more := true
	for _, want := range p.segments {
		if !more {
			return false
		}
		if want == ">" {
			return true
		}
		var segment string
		segment, rest, more = strings.Cut(rest, ".")
		if want != "*" && want != segment {
			return false
		}
	}
	return !more
}

type attribute struct{ name, value string }

type topicParts struct {
	namespace  string
	version    uint32
	attributes []attribute // sorted by name
}

func (p topicParts) topic() (Topic, error) {
	if err := p.check(false); err != nil {
		return Topic{}, err
	}
	return Topic{p.text()}, nil
}

func (p topicParts) text() string {
	var b strings.Builder
	b.WriteString(p.namespace)
	if p.version != 0 {
		b.WriteByte('@')
		b.WriteString(strconv.FormatUint(uint64(p.version), 10))
	}
	for i, a := range p.attributes {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(a.name)
		b.WriteByte('=')
		b.WriteString(url.QueryEscape(a.value))
	}
	return b.String()
}

// check holds the rules that do not depend on spelling; wildcards are for patterns.
func (p topicParts) check(wildcards bool) error {
	if len(p.text()) > MaxTopicText {
		return topicError(p.namespace, "%d bytes where at most %d are allowed", len(p.text()), MaxTopicText)
	}
	segments := strings.Split(p.namespace, ".")
	if len(segments) > MaxTopicSegments {
		return topicError(p.namespace, "%d segments where at most %d are allowed", len(segments), MaxTopicSegments)
	}
	for i, s := range segments {
		wildcard := s == "*" || s == ">" && i == len(segments)-1
		if !isName(s) && !(wildcards && wildcard) {
			return topicError(p.namespace, "segment %d is %q; a segment is made of letters, digits, '_' and '-'", i+1, s)
		}
	}
	if len(p.attributes) > MaxTopicAttributes {
		return topicError(p.namespace, "%d attributes where at most %d are allowed", len(p.attributes), MaxTopicAttributes)
	}
	for i, a := range p.attributes {
		if !isName(a.name) {
			return topicError(p.namespace, "attribute name %q; a name is made of letters, digits, '_' and '-'", a.name)
		}
		if !utf8.ValidString(a.value) {
			return topicError(p.namespace, "the value of attribute %q is not valid UTF-8", a.name)
		}
		if i > 0 && p.attributes[i-1].name == a.name {
			return topicError(p.namespace, "attribute %q is given twice", a.name)
		}
	}
	return nil
}

func parseTopicParts(text string) (topicParts, error) {
	if len(text) > MaxTopicText {
		return topicParts{}, topicError(text[:32]+"…", "%d bytes where at most %d are allowed", len(text), MaxTopicText)
	}
	head, query, hasQuery := strings.Cut(text, "?")
	namespace, version, hasVersion := strings.Cut(head, "@")
	p := topicParts{namespace: namespace}
	if hasVersion {
		n, err := strconv.ParseUint(version, 10, 32)
		if err != nil || n == 0 {
			return topicParts{}, topicError(text, "version %q is not a number from 1 to 4294967295", version)
		}
		p.version = uint32(n)
	}
	if !hasQuery {
		return p, nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, escaped, ok := strings.Cut(pair, "=")
		value, err := url.QueryUnescape(escaped)
		if !ok || err != nil {
			return topicParts{}, topicError(text, "attribute %q is not of the form name=value", pair)
		}
		p.attributes = append(p.attributes, attribute{name, value})
	}
	slices.SortStableFunc(p.attributes, func(a, b attribute) int { return cmp.Compare(a.name, b.name) })
	return p, nil
}

func isName(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != ""
}

func topicError(topic, format string, args ...any) error {
	return fmt.Errorf("%w %q: %s", ErrTopic, topic, fmt.Sprintf(format, args...))
}
