package message_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/converge-agents/converge/message"
)

var names = rapid.StringMatching(`[A-Za-z0-9_-]{1,8}`)

func TestTopicTextIsABijection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		namespace := strings.Join(rapid.SliceOfN(names, 1, 4).Draw(t, "segments"), ".")
		version := rapid.Uint32().Draw(t, "version")
		attributes := rapid.MapOfN(names, rapid.StringN(0, 6, 24), 0, 3).Draw(t, "attributes")
		topic, err := message.NewTopic(namespace, version, attributes)
		if err != nil {
			t.Fatal(err)
		}
		if topic.Namespace() != namespace || topic.Version() != version || !maps.Equal(topic.Attributes(), attributes) {
			t.Fatalf("%q has the parts %q, %d, %q", topic, topic.Namespace(), topic.Version(), topic.Attributes())
		}
		parsed, err := message.ParseTopic(topic.String())
		if err != nil || parsed != topic {
			t.Fatalf("%q is parsed as %q, %v", topic, parsed, err)
		}
		pattern, err := message.ParsePattern(topic.String())
		if err != nil || !pattern.Matches(topic) {
			t.Fatalf("%q as a pattern does not match itself: %v", topic, err)
		}
		text := must(json.Marshal(topic))
		var back message.Topic
		if err := json.Unmarshal(text, &back); err != nil || back != topic {
			t.Fatalf("JSON %s is %q, %v", text, back, err)
		}
	})
}

func TestParseTopicAccepts(t *testing.T) {
	for _, text := range []string{
		"a", "orders", "orders.created", "Orders.Created_2-x", "orders@1", "orders@4294967295",
		"orders?a=", "orders?a=1&b=2", "orders@2?region=eu&tier=gold", "a?x=+", "a?x=%2F", "a?x=%C3%A9", "a?x=a.b_c-d~e",
		strings.Repeat("a.", 15) + "a", strings.Repeat("a", 512),
		"a?a=&b=&c=&d=&e=&f=&g=&h=&i=&j=&k=&l=&m=&n=&o=&p=",
	} {
		if topic, err := message.ParseTopic(text); err != nil || topic.String() != text {
			t.Errorf("%.40q: %q, %v", text, topic, err)
		}
	}
}

func TestParseTopicRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                    "",
		"empty segment":            "a..b",
		"leading dot":              ".a",
		"trailing dot":             "a.",
		"space":                    "a b",
		"slash":                    "a/b",
		"wildcard":                 "a.*",
		"tail":                     "a.>",
		"control character":        "a\n",
		"NUL":                      "a\x00",
		"letter outside ASCII":     "é",
		"version 0":                "a@0",
		"version with zero":        "a@01",
		"version with sign":        "a@+1",
		"negative version":         "a@-1",
		"version too big":          "a@4294967296",
		"version is text":          "a@x",
		"empty version":            "a@",
		"two versions":             "a@1@2",
		"version behind":           "a?b=1@2",
		"no attributes":            "a?",
		"attribute without =":      "a?b",
		"empty attribute name":     "a?=b",
		"attribute twice":          "a?b=1&b=2",
		"attribute twice, same":    "a?b=1&b=1",
		"unsorted":                 "a?c=1&b=2",
		"trailing &":               "a?b=1&",
		"needless escape":          "a?b=%61",
		"lower-case escape":        "a?b=%2f",
		"space as %20":             "a?b=%20",
		"unescaped":                "a?b=/",
		"unescaped =":              "a?b=1=2",
		"bad escape":               "a?b=%zz",
		"cut escape":               "a?b=%2",
		"escaped name":             "a?%62=1",
		"second ?":                 "a?b=1?c=2",
		"fragment":                 "a?b=1#c",
		"semicolon":                "a?b=1;c=2",
		"value that is no UTF-8":   "a?b=%FF",
		"surrogate":                "a?b=%ED%A0%80",
		"17 segments":              strings.Repeat("a.", 16) + "a",
		"513 bytes":                strings.Repeat("a", 513),
		"17 attributes":            "a?a=&b=&c=&d=&e=&f=&g=&h=&i=&j=&k=&l=&m=&n=&o=&p=&q=",
		"a megabyte":               strings.Repeat("x", 1<<20),
		"a megabyte of attributes": "a?" + strings.Repeat("b=&", 1<<18),
	} {
		topic, err := message.ParseTopic(text)
		if !errors.Is(err, message.ErrTopic) || !topic.IsZero() {
			t.Errorf("%s: %q, %v", name, topic, err)
		} else if len(err.Error()) > 3000 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func TestNewTopicRefuses(t *testing.T) {
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprint("a", i)] = ""
	}
	for name, c := range map[string]struct {
		namespace  string
		attributes map[string]string
	}{
		"empty":                {"", nil},
		"version in namespace": {"a@2", nil},
		"attributes in it":     {"a?b=c", nil},
		"wildcard":             {"*", nil},
		"empty name":           {"a", map[string]string{"": "x"}},
		"name with =":          {"a", map[string]string{"b=c": "x"}},
		"value is no UTF-8":    {"a", map[string]string{"b": "\xff"}},
		"too many":             {"a", many},
		"too long":             {"a", map[string]string{"b": strings.Repeat("/", 170)}},
	} {
		if topic, err := message.NewTopic(c.namespace, 0, c.attributes); !errors.Is(err, message.ErrTopic) || !topic.IsZero() {
			t.Errorf("%s: %q, %v", name, topic, err)
		}
	}
}

func TestZeroTopic(t *testing.T) {
	var zero message.Topic
	if !zero.IsZero() || zero.String() != "" || zero.Namespace() != "" || zero.Version() != 0 || len(zero.Attributes()) != 0 {
		t.Error("the zero topic has parts")
	}
	topic := message.MustTopic("a")
	if err := topic.UnmarshalText(nil); err != nil || !topic.IsZero() {
		t.Errorf("empty text: %q, %v", topic, err)
	}
	topic = message.MustTopic("a")
	if err := topic.UnmarshalText([]byte("a..b")); err == nil || topic.String() != "a" {
		t.Errorf("bad text: %q, %v", topic, err)
	}
}

func TestMustPanicsOnBadText(t *testing.T) {
	for name, parse := range map[string]func(){
		"MustTopic":   func() { message.MustTopic("") },
		"MustPattern": func() { message.MustPattern("") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			parse()
		}()
	}
}

func TestPatternMatches(t *testing.T) {
	for _, c := range []struct {
		pattern   string
		matches   []string
		otherwise []string
	}{
		{"orders", []string{"orders", "orders@1", "orders?a=1"}, []string{"orders.x", "order", "orderss", "Orders", "x.orders"}},
		{"orders.created", []string{"orders.created", "orders.created@2"}, []string{"orders", "orders.created.x", "orders.deleted"}},
		{"orders.*", []string{"orders.created", "orders.created@2?a=1"}, []string{"orders", "orders.eu.created", "other.created"}},
		{"*.created", []string{"orders.created"}, []string{"created", "a.b.created", "orders.deleted"}},
		{"a.*.c", []string{"a.b.c", "a.c.c"}, []string{"a.c", "a.b.b.c", "a.b.c.d"}},
		{"*", []string{"a", "a@1"}, []string{"a.b"}},
		{"*.*", []string{"a.b"}, []string{"a", "a.b.c"}},
		{"orders.>", []string{"orders.created", "orders.eu.created", "orders.a.b.c.d@3?x=y"}, []string{"orders", "other.created", "ordersx.y"}},
		{">", []string{"a", "a.b.c", "a@1?b=2"}, nil},
		{"*.>", []string{"a.b", "a.b.c"}, []string{"a"}},
		{"a.*.>", []string{"a.b.c", "a.b.c.d"}, []string{"a.b", "a", "b.b.c"}},
		{"orders@2", []string{"orders@2", "orders@2?a=1"}, []string{"orders", "orders@1", "orders@22"}},
		{"orders?tier=gold", []string{"orders?tier=gold", "orders?region=eu&tier=gold", "orders@9?tier=gold&x="}, []string{"orders", "orders?tier=", "orders?tier=golden", "orders?Tier=gold"}},
		{"orders.>@2?region=eu&tier=gold", []string{"orders.x@2?a=1&region=eu&tier=gold"}, []string{"orders.x@2?region=eu", "orders.x?region=eu&tier=gold", "orders@2?region=eu&tier=gold"}},
		{"a?x=%2F", []string{"a?x=%2F"}, []string{"a?x=%2FF", "a?x="}},
	} {
		p, err := message.ParsePattern(c.pattern)
		if err != nil || p.String() != c.pattern {
			t.Errorf("%q: %q, %v", c.pattern, p, err)
			continue
		}
		for _, topic := range c.matches {
			if !p.Matches(message.MustTopic(topic)) {
				t.Errorf("%q does not match %q", c.pattern, topic)
			}
		}
		for _, topic := range c.otherwise {
			if p.Matches(message.MustTopic(topic)) {
				t.Errorf("%q matches %q", c.pattern, topic)
			}
		}
		if p.Matches(message.Topic{}) {
			t.Errorf("%q matches the zero topic", c.pattern)
		}
	}
	if (message.Pattern{}).Matches(message.MustTopic("a")) || (message.Pattern{}).Matches(message.Topic{}) {
		t.Error("the zero pattern matches")
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                  "",
		"tail in the middle":     "a.>.b",
		"tail in front":          ">.a",
		"two tails":              ">.>",
		"wildcard in a segment":  "a*",
		"two wildcards in one":   "a.**",
		"tail in a segment":      "a.b>",
		"wildcard as a version":  "a@*",
		"wildcard as an option":  "a?*=b",
		"unescaped in an option": "a?b=*",
		"unsorted":               "a?c=1&b=2",
		"empty segment":          "a..*",
		"slash":                  "*/a",
		"17 segments":            strings.Repeat("*.", 16) + ">",
		"513 bytes":              strings.Repeat("a", 512) + "*",
	} {
		if p, err := message.ParsePattern(text); !errors.Is(err, message.ErrTopic) || p.String() != "" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
}

func TestMatchingPlainPatternsAllocatesNothing(t *testing.T) {
	topic := message.MustTopic("orders.eu.created@2?tier=gold")
	for _, text := range []string{"orders.>", "orders.*.created", "orders.eu.created", "invoices.>"} {
		p := message.MustPattern(text)
		if allocs := testing.AllocsPerRun(100, func() { p.Matches(topic) }); allocs != 0 {
			t.Errorf("%q: %v allocations", text, allocs)
		}
	}
}

func TestPatternNamespace(t *testing.T) {
	if got := message.MustPattern("orders.*.>@2?a=b").Namespace(); got != "orders.*.>" {
		t.Errorf("%q", got)
	}
}

var topicShape = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(@[1-9][0-9]*)?(\?[A-Za-z0-9._~%+=&-]*)?$`)

func FuzzParseTopic(f *testing.F) {
	for _, text := range []string{"orders.created@2?region=eu&tier=gold", "a?x=%2F+", "a@4294967295", "a..b", "a?b=%FF", "a.*"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		topic, err := message.ParseTopic(text)
		if err != nil {
			return
		}
		if topic.String() != text || !topicShape.MatchString(text) || len(text) > message.MaxTopicText {
			t.Fatalf("%q is parsed as %q", text, topic)
		}
		again, err := message.NewTopic(topic.Namespace(), topic.Version(), topic.Attributes())
		if err != nil || again != topic {
			t.Fatalf("the parts of %q make %q, %v", topic, again, err)
		}
		if p, err := message.ParsePattern(text); err != nil || !p.Matches(topic) {
			t.Fatalf("%q does not match itself: %v", text, err)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	for _, pair := range [][2]string{
		{"orders.*", "orders.created"}, {"orders.>@2?tier=gold", "orders.eu.created@2?region=eu&tier=gold"},
		{">", "a"}, {"*.>", "a"}, {"a.>.b", "a.b"}, {"a?b=", "a?b=&c="},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, text, topicText string) {
		p, err := message.ParsePattern(text)
		if err != nil {
			return
		}
		if p.String() != text || len(text) > message.MaxTopicText {
			t.Fatalf("%q is parsed as %q", text, p)
		}
		if topic, err := message.ParseTopic(topicText); err == nil && p.Matches(topic) != matchesByRegexp(text, topic) {
			t.Fatalf("%q matches %q: %t", p, topic, p.Matches(topic))
		}
	})
}

// matchesByRegexp says the same as Pattern.Matches in another way.
func matchesByRegexp(pattern string, topic message.Topic) bool {
	head, query, _ := strings.Cut(pattern, "?")
	namespace, version, _ := strings.Cut(head, "@")
	expression := strings.NewReplacer(".", `\.`, "*", `[^.]+`, ">", `.+`).Replace(namespace)
	if !regexp.MustCompile("^(?:" + expression + ")$").MatchString(topic.Namespace()) {
		return false
	}
	if version != "" && version != fmt.Sprint(topic.Version()) {
		return false
	}
	_, attributes, _ := strings.Cut(topic.String(), "?")
	for want := range strings.SplitSeq(query, "&") {
		if query != "" && !strings.Contains("&"+attributes+"&", "&"+want+"&") {
			return false
		}
	}
	return true
}
