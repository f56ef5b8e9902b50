package nats_test

import (
	"slices"
	"strings"
	"testing"

	client "github.com/nats-io/nats.go"

	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport/nats"
)

const (
	nonce = "abcdefghijklmnopqrstuvwxyz"
	token = "abcdefghij234567"
)

func TestNoticesHaveOneSpelling(t *testing.T) {
	for _, text := range []string{token, token + ".1", token + ".p1", token + ".18446744073709551615", token + ".p3.a"} {
		if again, ok := nats.ParseNotice(text); !ok || again != text {
			t.Errorf("%q is read as %q, %t", text, again, ok)
		}
	}
	for _, text := range []string{
		"", "x", strings.ToUpper(token), token + ".", token + ".0", token + ".p0", token + ".01", token + ".+1", token + ".-1", token + ".p",
		token + ".1.1", token + ".18446744073709551616", token + "x", token + ".pp1", "." + token, token + ". 1",
		token + ".a", token + ".1.a", token + ".p1.b", token + ".p1.a.a", token + ".p.a",
	} {
		if _, ok := nats.ParseNotice(text); ok {
			t.Errorf("%q is taken for a notice", text)
		}
	}
}

func TestMarksAreAnsweredAtNoticesOfTheNetworkOnly(t *testing.T) {
	good := "converge.a_b.notice." + nonce + "." + token + ".7"
	if subject, ok := nats.MarkOf("a.b", good); !ok || subject != good {
		t.Errorf("a mark at %q is answered at %q, %t", good, subject, ok)
	}
	for _, reply := range []string{
		"", "_INBOX.x", "$JS.API.STREAM.DELETE.converge_a_b", "converge.a_b.agent.x", "converge.a_b.notice.",
		"converge.a_b.notice." + nonce + "." + token, // no mark
		"converge.other.notice." + nonce + "." + token + ".7",
		"converge.a_b.notice.*." + token + ".7",
		"converge.a_b.notice." + nonce + ".>",
		"converge.a_b.notice.x." + nonce + "." + token + ".7",
		"converge.a_b.notice." + nonce + "." + token + ".p7.a", good + ".x", good + " ", good + "\r\nPUB x 0\r\n",
	} {
		if subject, ok := nats.MarkOf("a.b", reply); ok {
			t.Errorf("a frame with the reply subject %q is answered at %q", reply, subject)
		}
	}
}

func TestHeadersThatMakeNoSenseAreRefused(t *testing.T) {
	label := func(topics, frame string) client.Header {
		return client.Header{"Converge-Topics": {topics}, "Converge-Frame": {frame}}
	}
	if _, _, _, err := nats.ParseLabel(label("a.b@2?x=y,c", "f"), "c"); err != nil {
		t.Errorf("sound headers: %v", err)
	}
	for name, h := range map[string]client.Header{
		"none":           nil,
		"no frame":       {"Converge-Topics": {"a"}},
		"no topics":      {"Converge-Frame": {"f"}},
		"empty":          label("", "f"),
		"empty frame":    label("a", ""),
		"long frame":     label("a", strings.Repeat("f", 1000)),
		"other topic":    label("b", "f"),
		"wildcard":       label("*", "f"),
		"twice":          label("a,a", "f"),
		"empty topic":    label("a,,b", "f"),
		"17 topics":      label("a"+strings.Repeat(",b", 16), "f"),
		"not canonical":  label("a@02", "f"),
		"topics twice":   {"Converge-Topics": {"a", "b"}, "Converge-Frame": {"f"}},
		"frames twice":   {"Converge-Topics": {"a"}, "Converge-Frame": {"f", "g"}},
		"large":          label("a?x="+strings.Repeat("y", 100_000), "f"),
		"control bytes":  label("a\x00", "f"),
		"other spelling": {"converge-topics": {"a"}, "Converge-Frame": {"f"}},
	} {
		if _, _, _, err := nats.ParseLabel(h, "a"); err == nil {
			t.Errorf("%s: headers %.80q were accepted", name, h)
		}
	}
}

func TestNamespacesThatOthersIncludeAreLeftOut(t *testing.T) {
	for _, test := range []struct{ of, want string }{
		{"", ""},
		{"a a", "a"},
		{"a b", "a b"},
		{"a.* a.b a.> a.b.c", "a.>"},
		{"*.b a.*", "*.b a.*"},
		{"> a *.*", ">"},
		{"*.* a.b a.b.c", "*.* a.b.c"},
		{"a.*.> a.b.>", "a.*.>"},
		{"a.> a", "a a.>"},
	} {
		if got := nats.Cover(strings.Fields(test.of)); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("cover of %q is %q, want %q", test.of, got, test.want)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	f.Add("a.b@2?x=y,c", "frame", "from", "c")
	f.Add("", "", "", "")
	f.Add("a,a", "f", "", "a")
	f.Fuzz(func(t *testing.T, text, frame, from, namespace string) {
		h := client.Header{"Converge-Topics": {text}, "Converge-Frame": {frame}, "Converge-From": {from}}
		topics, frame, from, err := nats.ParseLabel(h, namespace)
		if err != nil {
			return
		}
		again := nats.MakeLabel(topics, frame, from)
		if again.Get("Converge-Topics") != text {
			t.Errorf("%q was read, and written as %q", text, again.Get("Converge-Topics"))
		}
		if !slices.ContainsFunc(topics, func(m message.Topic) bool { return m.Namespace() == namespace }) {
			t.Errorf("topics %q were accepted under the namespace %q", text, namespace)
		}
	})
}

func FuzzParseNotice(f *testing.F) {
	f.Add(token + ".7")
	f.Add(token + ".p7")
	f.Fuzz(func(t *testing.T, text string) {
		if again, ok := nats.ParseNotice(text); ok && again != text {
			t.Errorf("%q was read, and written as %q", text, again)
		}
		if subject, ok := nats.MarkOf("test", "converge.test.notice."+text); ok && strings.ContainsAny(subject, " \t\r\n*>") {
			t.Errorf("an answer would be published to %q", subject)
		}
	})
}

// FuzzIncludes compares with the matching of topics.
func FuzzIncludes(f *testing.F) {
	f.Add("a.*", "a.b", "a.b")
	f.Add("a.>", "a.*.c", "a.b.c")
	f.Fuzz(func(t *testing.T, outer, inner, topic string) {
		o, err1 := message.ParsePattern(outer)
		i, err2 := message.ParsePattern(inner)
		p, err3 := message.ParseTopic(topic)
		if err1 != nil || err2 != nil || err3 != nil || o.Namespace() != outer || i.Namespace() != inner {
			return
		}
		if nats.Includes(outer, inner) && i.Matches(p) && !o.Matches(p) {
			t.Errorf("%q is said to include %q, but only the latter matches %q", outer, inner, topic)
		}
	})
}

func TestRecentForgetsTheOldestAndBelievesNoName(t *testing.T) {
	var r nats.Recent
	if !r.First("name", []byte("frame")) || r.First("name", []byte("frame")) {
		t.Error("the second copy was not recognised")
	}
	if !r.First("name", []byte("another frame by the same name")) {
		t.Error("a name that was used before suppresses another frame")
	}
	for i := range 5000 {
		if !r.First("name", []byte{byte(i), byte(i >> 8), 1}) {
			t.Fatalf("frame %d was taken for another", i)
		}
	}
	if !r.First("name", []byte("frame")) {
		t.Error("the memory has no bound")
	}
}
