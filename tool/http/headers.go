package http

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	nethttp "net/http"
	"os"
	"slices"
	"strings"

	"github.com/converge-agents/converge/internal/ondisk"
	"github.com/converge-agents/converge/internal/template"
)

// Secret says where a secret is: in an environment variable, or in a file, of which blanks at both ends do not count. One
// of them. It is read once, by [New].
type Secret struct {
	Env, File string
	Prefix    string // comes before it, such as "Bearer "
}

// A secret is found again where a server repeats it, which takes a certain length.
const (
	minSecret = 8
	maxSecret = 16 << 10
)

// reserved are headers that the client sets itself, or that say something about the connection.
var reserved = []string{"Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

func checkName(name string) error {
	canonical := nethttp.CanonicalHeaderKey(name)
	isToken := name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
	switch {
	case !isToken:
		return errors.New("not a header's name")
	case slices.Contains(reserved, canonical) || strings.HasPrefix(canonical, "Proxy-"):
		return errors.New("this header is not for tools to set")
	default:
		return nil
	}
}

func (t *Tool) setHeaders() error {
	t.headers = map[string]template.Template{}
	for _, name := range slices.Sorted(maps.Keys(t.config.Headers)) {
		err := checkName(name)
		tmpl, parseErr := template.Parse(t.config.Headers[name])
		if err == nil {
			err = parseErr
		}
		canonical := nethttp.CanonicalHeaderKey(name)
		if _, twice := t.headers[canonical]; err == nil && twice {
			err = errors.New("given twice")
		}
		if err == nil && !isLine(t.config.Headers[name]) {
			err = errors.New("its value is no line of text")
		}
		if err != nil {
			return fmt.Errorf("field Headers[%q]: %w", name, err)
		}
		t.headers[canonical] = tmpl
		t.text(tmpl)
	}
	return nil
}

func (t *Tool) setSecrets() error {
	t.secrets = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(t.config.Secrets)) {
		s, canonical := t.config.Secrets[name], nethttp.CanonicalHeaderKey(name)
		err := checkName(name)
		if _, twice := t.headers[canonical]; err == nil && twice {
			err = errors.New("in Headers too: give one of them")
		}
		if _, twice := t.secrets[canonical]; err == nil && twice {
			err = errors.New("given twice")
		}
		value := ""
		if err == nil {
			value, err = s.read()
		}
		if err != nil {
			return fmt.Errorf("field Secrets[%q]: %w", name, err)
		}
		t.secrets[canonical] = s.Prefix + value
		t.hidden = append(t.hidden, value)
	}
	slices.SortStableFunc(t.hidden, func(a, b string) int { return len(b) - len(a) })
	return nil
}

func (s Secret) read() (string, error) {
	var value, from string
	switch {
	case s.Env != "" && s.File != "" || s.Env == "" && s.File == "":
		return "", errors.New("give one of Env and File")
	case s.Env != "":
		value, from = os.Getenv(s.Env), "variable "+s.Env
	default:
		text, err := readFile(s.File)
		if err != nil {
			return "", err
		}
		value, from = text, fmt.Sprintf("file %q", s.File)
	}
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		return "", fmt.Errorf("%s is empty, or is not set", from)
	case len(value) < minSecret || len(value) > maxSecret:
		return "", fmt.Errorf("%s holds no secret of %d to %d bytes", from, minSecret, maxSecret)
	case !isLine(s.Prefix + value):
		return "", fmt.Errorf("%s holds no line of text", from)
	}
	return value, nil
}

func readFile(path string) (string, error) {
	file, err := os.Open(path)
	if err == nil {
		defer file.Close()
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(file, maxSecret+2)); err == nil {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("file %q: %w", path, ondisk.WithoutPath(err))
}

// isLine reports whether text can be a header's value.
func isLine(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

func (t *Tool) fillHeaders(header nethttp.Header, values values) error {
	for _, name := range slices.Sorted(maps.Keys(t.headers)) {
		value := t.headers[name].Fill(values.text)
		if !isLine(value) {
			return invalid("a param in the header %s is no line of text", name)
		}
		header.Set(name, value)
	}
	for name, value := range t.secrets {
		header.Set(name, value)
	}
	return nil
}

// redact takes out secrets that are repeated as they are.
func (t *Tool) redact(text []byte) []byte {
	for _, secret := range t.hidden {
		text = bytes.ReplaceAll(text, []byte(secret), []byte("[secret]"))
	}
	return text
}
