package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/converge-agents/converge/config"
)

// TestGuideShowsWhatIsAccepted reads every YAML block of the guide. What one leaves out is put in: the name
// of the network, the transport of a section, and the variables that stand for IDs and keys.
func TestGuideShowsWhatIsAccepted(t *testing.T) {
	guide, err := os.ReadFile("../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(guide, -1)
	if len(blocks) < 10 {
		t.Errorf("only %d blocks in the guide", len(blocks))
	}
	for _, block := range blocks {
		text := string(block[1])
		vars := map[string]string{"dir": ".", "worker_a": peerID, "worker_a_key": peerKey, "coordinator": otherID, "coordinator_key": "", "keeper": strings.Replace(otherID, "1", "2", 1)}
		if strings.Contains(text, "${coordinator_key}") {
			vars["coordinator"], vars["coordinator_key"] = peerID, peerKey
		}
		for _, section := range []string{"tcp", "websocket", "nats"} {
			if strings.HasPrefix(text, section+":") {
				text = "transport: " + section + "\n" + text
			}
		}
		if !strings.Contains(text, "network:") {
			text = "network: guide\n" + text
		}
		head := "vars: {"
		for name := range vars {
			head += name + ": \"\", "
		}
		c, err := config.Parse("guide.yaml", []byte(head+"}\n"+text), config.Options{Vars: vars})
		if err != nil {
			t.Errorf("%s\n%s", text, describe(problems(t, err)))
		} else if c.Network == "" {
			t.Errorf("%s: no network", text)
		}
	}
}
