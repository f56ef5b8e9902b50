package transport_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/message"
	"github.com/converge-agents/converge/transport"
	"github.com/converge-agents/converge/transport/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is one of the agents, which know each other.
type side struct {
	id        *identity.Identity
	transport transport.Transport
	signer    *message.Signer
	verifier  *message.Verifier
	*transport.Hooked
}

// stage is where agents meet.
type stage struct {
	network  *local.Network
	registry *identity.Registry
}

func newStage(t *testing.T) stage {
	t.Helper()
	network, err := local.New(local.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return stage{network, identity.NewRegistry(0)}
}

func (s stage) join(t *testing.T, c transport.HookedConfig) side {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.registry.Register(id.ID(), id.PublicKey()); err != nil {
		t.Fatal(err)
	}
	c.Transport = s.network.Endpoint(id.ID())
	if c.Signer, err = message.NewSigner(message.SignerConfig{Identity: id, Network: "test"}); err != nil {
		t.Fatal(err)
	}
	if c.Verifier, err = message.NewVerifier(message.VerifierConfig{Self: id.ID(), Network: "test", Keys: s.registry}); err != nil {
		t.Fatal(err)
	}
	hooked, err := transport.NewHooked(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Transport.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Transport.Close() })
	return side{id, c.Transport, c.Signer, c.Verifier, hooked}
}

// pair returns alice, who has the hooks, and bob, who has none.
func pair(t *testing.T, c transport.HookedConfig) (alice, bob side) {
	t.Helper()
	s := newStage(t)
	return s.join(t, c), s.join(t, transport.HookedConfig{})
}

func trio(t *testing.T) (alice, bob, carol side) {
	t.Helper()
	s := newStage(t)
	return s.join(t, transport.HookedConfig{}), s.join(t, transport.HookedConfig{}), s.join(t, transport.HookedConfig{})
}

func strangerID(t *testing.T) identity.ID {
	t.Helper()
	id, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id.ID()
}

func (s side) say(t *testing.T, to side, body string) {
	t.Helper()
	if _, err := s.Send(t.Context(), message.Draft{To: to.id.ID(), Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func (s side) hears(t *testing.T, want string) *message.Message {
	t.Helper()
	m, err := s.Receive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Body()) != want {
		t.Fatalf("received %q, want %q", m.Body(), want)
	}
	return m
}

// recorder is a hook that writes down what it sees.
type recorder struct {
	name   string
	log    *[]string
	onSend func(message.Draft) (*message.Draft, error)
	onRecv func(*message.Message) (*message.Message, error)
}

func (r recorder) PreSend(_ context.Context, d message.Draft) (*message.Draft, error) {
	*r.log = append(*r.log, r.name+" pre_send "+string(d.Body))
	if r.onSend != nil {
		return r.onSend(d)
	}
	return &d, nil
}

func (r recorder) PostReceive(_ context.Context, m *message.Message) (*message.Message, error) {
	*r.log = append(*r.log, r.name+" post_receive "+string(m.Body()))
	if r.onRecv != nil {
		return r.onRecv(m)
	}
	return m, nil
}

func (r recorder) OnError(stage transport.Stage, err error, m *message.Message) {
	about := "nothing"
	if m != nil {
		about = string(m.Body())
	}
	*r.log = append(*r.log, r.name+" on_error "+stage.String()+" "+about+": "+err.Error())
}

func expectLog(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("hooks saw\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestHooksRunInOrderOfRegistrationInBothDirections(t *testing.T) {
	var log []string
	upper := func(d message.Draft) (*message.Draft, error) {
		d.Body = []byte(strings.ToUpper(string(d.Body)))
		return &d, nil
	}
	alice, bob := pair(t, transport.HookedConfig{Hooks: []transport.Hook{
		recorder{name: "first", log: &log, onSend: upper}, recorder{name: "second", log: &log},
	}})
	alice.say(t, bob, "out")
	m := bob.hears(t, "OUT")
	if m.Sender() != alice.id.ID() || !m.Verified() {
		t.Errorf("what a hook changed before signing arrived as %s, verified %t", m, m.Verified())
	}
	bob.say(t, alice, "in")
	alice.hears(t, "in")
	expectLog(t, log,
		"first pre_send out", "second pre_send OUT",
		"first post_receive in", "second post_receive in")
}

func TestHookThatReturnsNilDropsTheMessage(t *testing.T) {
	var log []string
	dropSecret := func(d message.Draft) (*message.Draft, error) {
		if string(d.Body) == "secret" {
			return nil, nil
		}
		return &d, nil
	}
	dropSpam := func(m *message.Message) (*message.Message, error) {
		if string(m.Body()) == "spam" {
			return nil, nil
		}
		return m, nil
	}
	alice, bob := pair(t, transport.HookedConfig{Hooks: []transport.Hook{
		recorder{name: "first", log: &log, onSend: dropSecret, onRecv: dropSpam}, recorder{name: "second", log: &log},
	}})
	if _, err := alice.Send(t.Context(), message.Draft{To: bob.id.ID(), Body: []byte("secret")}); !errors.Is(err, transport.ErrDropped) {
		t.Errorf("Send of what a hook dropped: %v, want ErrDropped", err)
	}
	alice.say(t, bob, "fine")
	bob.hears(t, "fine")
	bob.say(t, alice, "spam")
	bob.say(t, alice, "ham")
	alice.hears(t, "ham")
	expectLog(t, log,
		"first pre_send secret",
		"first pre_send fine", "second pre_send fine",
		"first post_receive spam",
		"first post_receive ham", "second post_receive ham")
	stats := alice.Stats()
	if stats.Dropped["pre_send"] != 1 || stats.Dropped["post_receive"] != 1 || stats.Failed["pre_send"]+stats.Failed["post_receive"] != 0 {
		t.Errorf("Stats() = %+v, want one drop in each direction and no failure", stats)
	}
}

func TestPanickingHookDropsTheMessageAndReachesOnError(t *testing.T) {
	var log []string
	boom := func(d message.Draft) (*message.Draft, error) {
		if string(d.Body) == "boom" {
			panic("bad hook")
		}
		return &d, nil
	}
	fail := func(m *message.Message) (*message.Message, error) {
		switch string(m.Body()) {
		case "boom":
			panic("bad hook")
		case "fail":
			return m, errors.New("failing hook")
		}
		return m, nil
	}
	alice, bob := pair(t, transport.HookedConfig{Logger: slog.New(slog.DiscardHandler), Hooks: []transport.Hook{
		recorder{name: "first", log: &log, onSend: boom, onRecv: fail}, recorder{name: "second", log: &log},
	}})
	if _, err := alice.Send(t.Context(), message.Draft{To: bob.id.ID(), Body: []byte("boom")}); err == nil {
		t.Error("Send through a hook that panics succeeded")
	}
	bob.say(t, alice, "boom")
	bob.say(t, alice, "fail")
	bob.say(t, alice, "fine")
	alice.hears(t, "fine")
	expectLog(t, log,
		"first pre_send boom",
		"first on_error pre_send nothing: hook panicked: bad hook", "second on_error pre_send nothing: hook panicked: bad hook",
		"first post_receive boom",
		"first on_error post_receive boom: hook panicked: bad hook", "second on_error post_receive boom: hook panicked: bad hook",
		"first post_receive fail",
		"first on_error post_receive fail: failing hook", "second on_error post_receive fail: failing hook",
		"first post_receive fine", "second post_receive fine")
	stats := alice.Stats()
	if stats.Failed["pre_send"] != 1 || stats.Failed["post_receive"] != 2 {
		t.Errorf("Stats() = %+v, want 1 and 2 failures", stats)
	}
}

func TestHooksSeeVerifiedMessagesOnly(t *testing.T) {
	var log []string
	var refused []message.Reason
	alice, bob := pair(t, transport.HookedConfig{
		Hooks:          []transport.Hook{recorder{name: "hook", log: &log}},
		UnverifiedDrop: func(_ context.Context, r *message.Refusal) { refused = append(refused, r.Reason) },
	})
	stranger, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	forger, err := message.NewSigner(message.SignerConfig{Identity: stranger, Network: "test"})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forger.Sign(t.Context(), message.Draft{To: alice.id.ID(), Body: []byte("forged")})
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range [][]byte{forged.Raw(), []byte("garbage"), {}} {
		if err := bob.transport.Send(t.Context(), transport.Route{To: alice.id.ID()}, frame); err != nil {
			t.Fatal(err)
		}
	}
	bob.say(t, alice, "honest")
	alice.hears(t, "honest")
	expectLog(t, log, "hook post_receive honest")
	if want := []message.Reason{message.ErrUnknownSender, message.ErrMalformed, message.ErrMalformed}; !slices.Equal(refused, want) {
		t.Errorf("refused %v, want %v", refused, want)
	}
}

func TestPanickingUnverifiedDropDoesNotStopTheListener(t *testing.T) {
	alice, bob := pair(t, transport.HookedConfig{
		Logger:         slog.New(slog.DiscardHandler),
		UnverifiedDrop: func(context.Context, *message.Refusal) { panic("bad hook") },
	})
	if err := bob.transport.Send(t.Context(), transport.Route{To: alice.id.ID()}, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	bob.say(t, alice, "honest")
	alice.hears(t, "honest")
}

// TestHookCannotBringInAnUnverifiedMessage is invariant 1 against code of the agent's own process.
func TestHookCannotBringInAnUnverifiedMessage(t *testing.T) {
	swap := transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
		if string(m.Body()) == "fine" {
			return m, nil
		}
		return message.ParseUnsafe(m.Raw())
	})
	alice, bob := pair(t, transport.HookedConfig{Logger: slog.New(slog.DiscardHandler), Hooks: []transport.Hook{swap}})
	bob.say(t, alice, "swap me")
	bob.say(t, alice, "fine")
	alice.hears(t, "fine")
}

func TestHookMayChangeTheBodyOnly(t *testing.T) {
	unpack := transport.OnReceive(func(_ context.Context, m *message.Message) (*message.Message, error) {
		return m.WithBody([]byte("unpacked "+string(m.Body())), "text/plain"), nil
	})
	alice, bob := pair(t, transport.HookedConfig{Hooks: []transport.Hook{unpack}})
	bob.say(t, alice, "body")
	m := alice.hears(t, "unpacked body")
	if m.Sender() != bob.id.ID() || !m.Verified() || m.ContentType() != "text/plain" {
		t.Errorf("got %s, verified %t, %s", m, m.Verified(), m.ContentType())
	}
}

func TestUnsafeReceiveHasToBeAskedForAndWarns(t *testing.T) {
	var warnings strings.Builder
	alice, bob := pair(t, transport.HookedConfig{
		ReceiveUnsafe: true, Logger: slog.New(slog.NewTextHandler(&warnings, nil)),
	})
	if !strings.Contains(warnings.String(), "UNVERIFIED") {
		t.Errorf("the log says %q, want a warning", warnings.String())
	}
	stranger, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	s, err := message.NewSigner(message.SignerConfig{Identity: stranger, Network: "test"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Sign(t.Context(), message.Draft{To: alice.id.ID(), Body: []byte("who am I?")})
	if err != nil {
		t.Fatal(err)
	}
	if err := bob.transport.Send(t.Context(), transport.Route{To: alice.id.ID()}, m.Raw()); err != nil {
		t.Fatal(err)
	}
	if got := alice.hears(t, "who am I?"); got.Verified() {
		t.Error("an unverified message says that it is verified")
	}
}

func TestNewHookedNamesTheFieldAtFault(t *testing.T) {
	for _, c := range []struct {
		config transport.HookedConfig
		field  string
	}{
		{transport.HookedConfig{}, "Transport"},
		{transport.HookedConfig{Transport: &local.Endpoint{}}, "Signer"},
		{transport.HookedConfig{Transport: &local.Endpoint{}, Signer: &message.Signer{}}, "Verifier"},
		{transport.HookedConfig{Transport: &local.Endpoint{}, Signer: &message.Signer{}, Verifier: &message.Verifier{}, Hooks: []transport.Hook{nil}}, "Hooks[0]"},
	} {
		if _, err := transport.NewHooked(c.config); err == nil || !strings.Contains(err.Error(), c.field) {
			t.Errorf("NewHooked: %v, want an error about %s", err, c.field)
		}
	}
}
