// Package observe shows what a running network does: structured logs, Prometheus metrics, and health.
package observe

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// LogConfig configures a logger.
type LogConfig struct {
	Level  string // debug, info, warn or error; "" means info
	Format string // text or json; "" means text
}

// NewLogger returns a logger that writes to w, which has to be safe for concurrent use, as files are.
func NewLogger(w io.Writer, c LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log level %.40q: use debug, info, warn or error", c.Level)
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch strings.ToLower(c.Format) {
	case "", "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("log format %.40q: use text or json", c.Format)
	}
}
