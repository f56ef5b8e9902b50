package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/converge-agents/converge/approval"
	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/network"
)

// postgresStore is what a configuration says of a store of its own in the server that tests share.
func postgresStore(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(pgtest.Shared(t).URL())
	check(t, err)
	word, _ := u.User.Password()
	file := filepath.Join(t.TempDir(), "password")
	check(t, os.WriteFile(file, []byte(word), 0o600))
	u.User = url.User(u.User.Username())
	return fmt.Sprintf("store: %q\npostgres: {schema: %s, password: {file: %q}}", u, pgtest.Name(), file)
}

func TestDecisionsComeThroughTheStoreThatProcessesShare(t *testing.T) {
	t.Setenv("CONVERGE_TEST_APPROVAL_KEY", "sixteen or more bytes")
	text := `
network: shared
` + postgresStore(t) + `
policy: {key: {env: CONVERGE_TEST_APPROVAL_KEY}}
tools:
  take: {command: [cat], stdin: precious, destructive: true}
agents:
  - {name: worker, kind: worker, capabilities: {take: take}, tools: [take]}
  - {name: coordinator, kind: coordinator, tasks: [{capability: take}]}
`
	n := build(t, text, network.Options{}) // its state directory is a temporary one, so it has no socket
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	log, _ := newLog()
	other, done, err := network.OpenApprovals(t.Context(), parse(t, text), network.Options{Logger: log})
	check(t, err)
	var waiting []approval.Request
	eventually(t, "a request", func() bool {
		waiting, err = other.List(t.Context())
		check(t, err)
		return len(waiting) == 1
	})
	_, err = other.Decide(t.Context(), waiting[0].ID, approval.Decision{Allow: true})
	check(t, err)
	check(t, done())
	<-n.Done()
	stop()
	check(t, <-ran)
	if report := n.Report(); report.Tasks.Completed != 1 || report.Tools.Run != 1 {
		t.Errorf("report %+v", report)
	}
}

func TestApprovalsOfAStoreOfOneProcessCannotBeOpened(t *testing.T) {
	t.Parallel()
	for _, rest := range []string{"", "store: postgres://nobody@localhost/none\n", "transport: nats\nstore: nats\ndata: x\n"} {
		if _, _, err := network.OpenApprovals(t.Context(), parse(t, one+rest), network.Options{}); !errors.Is(err, network.ErrNotShared) {
			t.Errorf("%q: %v", rest, err)
		}
	}
}

func TestKeyOfApprovalsThatIsNone(t *testing.T) {
	data := t.TempDir()
	check(t, os.WriteFile(filepath.Join(data, "approval.key"), []byte("swordfish"), 0o600))
	t.Setenv("CONVERGE_TEST_APPROVAL_KEY", "short")
	for rest, want := range map[string]string{
		fmt.Sprintf("data: %q\n", data):                           "approval.key holds no key",
		"policy: {key: {env: CONVERGE_TEST_APPROVAL_KEY}}\n":      "policy.key: the secret has fewer than 16 bytes",
		"policy: {key: {env: CONVERGE_TEST_APPROVAL_KEY_NONE}}\n": "policy.key: environment variable CONVERGE_TEST_APPROVAL_KEY_NONE: not set",
	} {
		log, _ := newLog()
		_, err := network.New(t.Context(), parse(t, one+rest), network.Options{Logger: log})
		wantError(t, err, want)
		if strings.Contains(err.Error(), "swordfish") {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
}
