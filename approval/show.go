package approval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/internal/cut"
)

// How long texts in params that are too long to be shown are cut.
const (
	longText  = 200 // bytes; what is shorter stays
	startShow = 120
)

// Show returns params for those who decide, in at most [MaxShown] bytes, and whether something is left out.
// Spaces go first, then all but the beginning of long texts, so that what follows them is seen, and only then
// the end.
func Show(params json.RawMessage) (text string, isCut bool) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, params); err != nil {
		return "", true
	}
	if compact.Len() <= MaxShown {
		return compact.String(), false
	}
	d := json.NewDecoder(&compact)
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return "", true
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(shorten(value)); err != nil {
		return "", true
	}
	return cut.Text(strings.TrimSpace(b.String()), MaxShown), true
}

func shorten(value any) any {
	switch v := value.(type) {
	case string:
		if len(v) <= longText {
			return v
		}
		start := cut.Text(v, startShow)
		return fmt.Sprintf("%s…(%d bytes more)", start, len(v)-len(start))
	case []any:
		for i := range v {
			v[i] = shorten(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = shorten(v[name])
		}
	}
	return value
}
