// Package nearest finds the name that somebody probably meant.
package nearest

import (
	"slices"
	"strings"
)

// maxName bounds the bytes of a name that are compared.
const maxName = 64

// Name returns the candidate with the fewest edits from name, or "" if even that one takes more than half
// of name. Case and the choice of '-' or '_' do not count.
func Name(name string, candidates []string) string {
	name = fold(name)
	best, fewest := "", len(name)/2+1
	for _, candidate := range candidates {
		if n := edits(name, fold(candidate)); n < fewest {
			best, fewest = candidate, n
		}
	}
	return best
}

func fold(s string) string {
	return strings.ReplaceAll(strings.ToLower(s[:min(len(s), maxName)]), "-", "_")
}

// edits returns how many bytes of a have to be inserted, removed, replaced, or swapped with their
// neighbour to make b (the optimal string alignment distance).
func edits(a, b string) int {
	var before, last []int // the rows for the prefixes of a that are two and one bytes shorter
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, slices.Clone(row)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(replaced, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
