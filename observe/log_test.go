package observe_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/converge-agents/converge/observe"
)

func TestLevels(t *testing.T) {
	for level, want := range map[string]string{
		"": "IWE", "debug": "DIWE", "info": "IWE", "warn": "WE", "error": "E", "WARN": "WE",
	} {
		var out bytes.Buffer
		log, err := observe.NewLogger(&out, observe.LogConfig{Level: level})
		if err != nil {
			t.Errorf("level %q: %v", level, err)
			continue
		}
		log.Debug("D")
		log.Info("I")
		log.Warn("W")
		log.Error("E")
		var got string
		for line := range strings.Lines(out.String()) {
			_, text, _ := strings.Cut(line, "msg=")
			got += strings.TrimSpace(text)
		}
		if got != want {
			t.Errorf("level %q logs %q, want %q", level, got, want)
		}
	}
}

func TestFormats(t *testing.T) {
	for format, isJSON := range map[string]bool{"": false, "text": false, "json": true, "JSON": true} {
		var out bytes.Buffer
		log, err := observe.NewLogger(&out, observe.LogConfig{Format: format})
		if err != nil {
			t.Errorf("format %q: %v", format, err)
			continue
		}
		log.Info("hello", slog.String("agent", "alice\nlevel=ERROR"))
		var line struct{ Msg, Agent string }
		if err := json.Unmarshal(out.Bytes(), &line); (err == nil) != isJSON {
			t.Errorf("format %q: %q: %v", format, out.String(), err)
		}
		if isJSON && (line.Msg != "hello" || line.Agent != "alice\nlevel=ERROR") {
			t.Errorf("format %q: %+v", format, line)
		}
		if strings.Count(out.String(), "\n") != 1 {
			t.Errorf("format %q: a value broke out of its line: %q", format, out.String())
		}
	}
}

func TestWrongLogConfigIsRefusedAndSaysWhatWouldBeRight(t *testing.T) {
	for _, c := range []struct {
		config observe.LogConfig
		says   []string
	}{
		{observe.LogConfig{Level: "loud"}, []string{`"loud"`, "debug", "info", "warn", "error"}},
		{observe.LogConfig{Level: "3"}, []string{`"3"`}},
		{observe.LogConfig{Format: "xml"}, []string{`"xml"`, "text", "json"}},
		{observe.LogConfig{Format: strings.Repeat("x", 1000)}, []string{"format"}},
	} {
		log, err := observe.NewLogger(&bytes.Buffer{}, c.config)
		if err == nil || log != nil {
			t.Errorf("%+v: accepted", c.config)
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: does not say %s", err, want)
			}
		}
		if len(err.Error()) > 200 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
	}
}
