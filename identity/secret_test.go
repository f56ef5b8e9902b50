package identity_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/converge-agents/converge/identity"
)

var secretSeed = []byte("\x9d\xc3\xb7\xf1\x8e\xa5\xd2\xfbthis seed is a secret...")

// spellings are the ways in which a printer can spell the beginning of the seed.
var spellings = sync.OnceValue(func() []string {
	head := secretSeed[:8]
	return []string{
		string(head), string(secretSeed[8:16]),
		hex.EncodeToString(head), strings.ToUpper(hex.EncodeToString(head)),
		strings.Trim(fmt.Sprint(head), "[]"),
		strings.Trim(fmt.Sprintf("%#v", head), "[]byte{}"),
		strings.Trim(strings.ReplaceAll(fmt.Sprint(head), " ", ","), "[]"),
		strings.Trim(fmt.Sprintf("%o", head), "[]"), strings.Trim(fmt.Sprintf("%b", head), "[]"),
		strings.Trim(fmt.Sprintf("%q", head), `"`), strings.Trim(fmt.Sprintf("%+q", head), `"`),
		strings.Trim(fmt.Sprintf("%U", head), "[]"), strings.Trim(fmt.Sprintf("%x", []any{head}), "[]"),
		base64.StdEncoding.EncodeToString(secretSeed)[:10],
	}
})

func expectNoSecret(t *testing.T, how, printed string) {
	t.Helper()
	for _, spelling := range spellings() {
		if strings.Contains(printed, spelling) {
			t.Fatalf("%s prints the seed: %.300q", how, printed)
		}
	}
}

func TestIdentityNeverPrintsItsSecret(t *testing.T) {
	id, err := identity.FromSeed(secretSeed)
	if err != nil {
		t.Fatal(err)
	}
	// The test has to see the secret where it is printed.
	if !strings.Contains(fmt.Sprint(ed25519.NewKeyFromSeed(secretSeed)), spellings()[4]) {
		t.Fatal("the test is blind")
	}
	expectNeverPrinted(t, holdersOf(id, *id, struct{ *identity.Identity }{id}))
}

// holdersOf returns ways in which a program can come to print what it should not.
func holdersOf[T any](id *T, own T, embedded any) map[string]any {
	return map[string]any{
		"pointer":             id,
		"copy":                own,
		"pointer to pointer":  &id,
		"exported field":      struct{ Key *T }{id},
		"unexported field":    struct{ key *T }{id},
		"embedded":            embedded,
		"copy in a field":     struct{ Key T }{own},
		"copy, unexported":    struct{ key T }{own},
		"slice":               []*T{id},
		"slice of copies":     []T{own},
		"map":                 map[string]*T{"key": id},
		"map key":             map[*T]bool{id: true},
		"pointer to a holder": &struct{ key T }{own},
	}
}

// expectNeverPrinted prints holders in every way that there is.
func expectNeverPrinted(t *testing.T, holders map[string]any) {
	t.Helper()
	for name, holder := range holders {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "200", ".64"} {
			for _, verb := range "vsqxXdboOcUtTeEfFgGpwZ" {
				format := "%" + flags + string(verb)
				expectNoSecret(t, name+" "+format, fmt.Sprintf(format, holder))
			}
		}
		expectNoSecret(t, name+" in an error", fmt.Errorf("x: %v", holder).Error())
		expectNoSecret(t, name+" in JSON", marshalled(json.Marshal(holder)))
		var out bytes.Buffer
		err := gob.NewEncoder(&out).Encode(holder)
		expectNoSecret(t, name+" in gob", marshalled(out.Bytes(), err))
		for handler, logger := range map[string]*slog.Logger{
			"slog text": slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{AddSource: true})),
			"slog JSON": slog.New(slog.NewJSONHandler(&out, nil)),
		} {
			logger.Info("x", "key", holder, slog.Group("g", "key", holder))
			logger.With("key", holder).Info(fmt.Sprint(holder))
			expectNoSecret(t, name+" in "+handler, out.String())
		}
	}
}

func marshalled(out []byte, err error) string { return fmt.Sprintf("%s %v", out, err) }

func TestIdentityShowsItsID(t *testing.T) {
	id, err := identity.FromSeed(secretSeed)
	if err != nil {
		t.Fatal(err)
	}
	want := "identity " + id.ID().Short()
	for _, format := range []string{"%v", "%s", "%#v", "%+v", "%x"} {
		if got := fmt.Sprintf(format, id); got != want {
			t.Errorf("%s is %q, not %q", format, got, want)
		}
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "agent", id)
	if !strings.Contains(out.String(), id.ID().String()) {
		t.Errorf("slog prints %s", out.String())
	}
}

func TestIdentityCannotBeMarshalled(t *testing.T) {
	id, err := identity.FromSeed(secretSeed)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(id); err == nil {
		t.Errorf("JSON is %s", out)
	}
}
