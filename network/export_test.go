package network

import (
	"time"

	"github.com/converge-agents/converge/config"
)

// SilenceOf returns how long the server of a model may say nothing; 0 is the default.
func SilenceOf(m config.Model) time.Duration { return silenceOf(m) }
