package llm

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/internal/cut"
)

// fence puts text that somebody else wrote between two lines that it cannot have foreseen. source says, in our own
// words, where it comes from. Text beyond most bytes is cut.
func fence(source, text string, most int) string {
	var random [8]byte
	rand.Read(random[:]) // never fails
	boundary := hex.EncodeToString(random[:])
	text = strings.ToValidUTF8(text, "\uFFFD")
	cutText, note := cut.Text(text, most), ""
	if len(cutText) < len(text) {
		note = fmt.Sprintf("\n(cut here: %d more bytes)", len(text)-len(cutText))
	}
	safe := cut.Text(neutralise(cutText), 2*most) // what does not show takes more room when it does
	return fmt.Sprintf("<<<DATA %s %s\n%s%s\nDATA %s>>>", boundary, source, safe, note, boundary)
}

// tokens are marks that templates of models give a meaning to.
var tokens = []string{
	"<s>", "</s>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
	"<|", "|>", "<｜", "｜>",
}

var disarm = func() *strings.Replacer {
	var pairs []string
	for _, t := range tokens {
		first := []rune(t)[0]
		rest := strings.TrimPrefix(t, string(first))
		pairs = append(pairs, t, string(first)+`\`+rest)
	}
	return strings.NewReplacer(pairs...)
}()

// neutralise makes visible what does not show, and takes their meaning from the marks that fences and the templates of
// models are made of. What it returns reads the same.
func neutralise(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	var b strings.Builder
	runes := []rune(text)
	for i := 0; i < len(runes); {
		if n := runOf(runes[i:]); n > 0 {
			for _, c := range runes[i : i+n] {
				b.WriteString(`\` + string(c))
			}
			i += n
			continue
		}
		switch c := runes[i]; {
		case c == '\r':
			b.WriteRune('\n')
		case isHidden(c):
			fmt.Fprintf(&b, `\u{%X}`, c)
		default:
			b.WriteRune(c)
		}
		i++
	}
	return disarm.Replace(b.String())
}

// brackets are the characters that look like those of a fence, with how many they look like.
var brackets = map[rune]int{
	'<': 1, '>': 1, '‹': 1, '›': 1, '＜': 1, '＞': 1, '﹤': 1, '﹥': 1, '〈': 1, '〉': 1, '⟨': 1, '⟩': 1, '˂': 1, '˃': 1, 'ᐸ': 1, 'ᐳ': 1,
	'❮': 1, '❯': 1, '«': 2, '»': 2, '≪': 2, '≫': 2, '《': 2, '》': 2, '⟪': 2, '⟫': 2, '⋘': 3, '⋙': 3,
}

// runOf returns how many characters at the beginning look like the mark of a fence together; 0 if they do not.
func runOf(runes []rune) int {
	n, weight := 0, 0
	for n < len(runes) && brackets[runes[n]] > 0 {
		weight += brackets[runes[n]]
		n++
	}
	if weight < 3 {
		return 0
	}
	return n
}
