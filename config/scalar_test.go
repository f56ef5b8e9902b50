package config_test

import (
	"encoding"
	"testing"
	"time"

	"github.com/converge-agents/converge/config"
)

func TestScalarsRoundTrip(t *testing.T) {
	cases := []struct {
		value encoding.TextUnmarshaler
		text  string
		want  string // the canonical text
	}{
		{new(config.Duration), "90s", "1m30s"},
		{new(config.Duration), "0", "0s"},
		{new(config.Size), "0", "0B"},
		{new(config.Size), "4096", "4KiB"},
		{new(config.Size), "1025", "1025B"},
		{new(config.Size), "3 MiB", "3MiB"},
		{new(config.Size), "2GiB", "2GiB"},
		{new(config.Rate), "500", "500"},
		{new(config.Rate), "1/4", "0.25"},
		{new(config.Rate), "1e9", "1e+09"},
		{new(config.Rate), "unlimited", "unlimited"},
	}
	for _, c := range cases {
		for _, text := range []string{c.text, c.want} {
			if err := c.value.UnmarshalText([]byte(text)); err != nil {
				t.Errorf("%T of %q: %v", c.value, text, err)
			}
			got, err := c.value.(encoding.TextMarshaler).MarshalText()
			if err != nil || string(got) != c.want {
				t.Errorf("%T of %q is %q, %v; want %q", c.value, text, got, err, c.want)
			}
		}
	}
}

func TestScalarsRefuse(t *testing.T) {
	refused := map[encoding.TextUnmarshaler][]string{
		new(config.Duration): {"", "1", "-1s", "1 s", "1d", "soon"},
		new(config.Size):     {"", "-1", "+1", "1.5MiB", "1MB", "1kib", "KiB", "8589934592GiB", "9223372036854775808"},
		new(config.Rate):     {"", "0", "-1", "inf", "+Inf", "nan", "1/0", "0/0", "1/-2", "1/", "/1", "1/2/3", "1000000001", "Unlimited"},
	}
	for value, texts := range refused {
		for _, text := range texts {
			if err := value.UnmarshalText([]byte(text)); err == nil {
				t.Errorf("%T accepts %q as %v", value, text, value)
			}
		}
	}
	if d := config.Duration(time.Second); d.UnmarshalText([]byte("x")) == nil || d != config.Duration(time.Second) {
		t.Error("a refused text changes the value")
	}
}
