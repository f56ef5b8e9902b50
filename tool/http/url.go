package http

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/converge-agents/converge/internal/template"
)

// address is the template of an address.
type address struct {
	scheme, host string              // lower case
	segments     []template.Template // of the path, between its slashes
	query        template.Template
}

func (t *Tool) setURL() error {
	if err := t.parseURL(); err != nil {
		return fmt.Errorf("field URL: %w", err) // without the address, which may have a secret in it
	}
	for _, segment := range t.url.segments {
		t.text(segment)
	}
	t.text(t.url.query)
	return nil
}

func (t *Tool) parseURL() error {
	if t.config.URL == "" {
		return errors.New("it is required")
	}
	scheme, rest, _ := strings.Cut(t.config.URL, "://")
	rest, query, _ := strings.Cut(rest, "?")
	host, path, _ := strings.Cut(rest, "/")
	u, err := url.Parse(scheme + "://" + host)
	switch {
	case strings.ContainsAny(host, "{}") || strings.ContainsAny(scheme, "{}"):
		return errors.New("a param may not choose where the call goes: write a tool for each host")
	case err != nil || u.Hostname() == "" || u.Host != host:
		return errors.New("want an address such as https://api.example.com/v1/{id}, without a user")
	case u.Scheme == "http" && !t.config.UnsafeHTTP:
		return errors.New("http is not allowed: use https, or set UnsafeHTTP")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("want https")
	case strings.Contains(t.config.URL, "#"):
		return errors.New("a fragment is not sent: leave it out")
	case strings.ContainsFunc(t.config.URL, unicode.IsControl):
		return errors.New("it holds a line end, or another control character: leave that out")
	}
	t.url.scheme, t.url.host = u.Scheme, strings.ToLower(host)
	for segment := range strings.SplitSeq(path, "/") {
		if err := t.url.add(segment); err != nil {
			return err
		}
	}
	t.url.query, err = template.Parse(query)
	return err
}

func (a *address) add(segment string) error {
	tmpl, err := template.Parse(segment)
	switch {
	case err != nil:
		return err
	case isDots(segment):
		return errors.New("the path has a segment of dots")
	}
	for _, p := range tmpl {
		if unescaped, err := url.PathUnescape(p.Text); !p.IsParam && (err != nil || isDots(unescaped)) {
			return errors.New("the path has a segment that is not valid")
		}
	}
	a.segments = append(a.segments, tmpl)
	return nil
}

func isDots(segment string) bool { return segment == "." || segment == ".." }

// fill returns the address with the values in their places, each one escaped.
func (a address) fill(values values) (string, error) {
	var b strings.Builder
	b.WriteString(a.scheme + "://" + a.host)
	inPath := values.escaped(url.PathEscape)
	for _, segment := range a.segments {
		filled := segment.Fill(inPath)
		if unescaped, err := url.PathUnescape(filled); len(segment.Params()) > 0 && (err != nil || isDots(unescaped) || filled == "") {
			return "", invalid("param %q would make another path", slices.Min(segment.Params()))
		}
		b.WriteString("/" + filled)
	}
	if a.query != nil {
		b.WriteString("?" + a.query.Fill(values.escaped(url.QueryEscape)))
	}
	return b.String(), nil
}
