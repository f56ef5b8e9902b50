//go:build soak

package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/converge-agents/converge/internal/pgtest"
	"github.com/converge-agents/converge/store"
	"github.com/converge-agents/converge/store/postgres"
	"github.com/converge-agents/converge/store/storetest"
)

const (
	soakLoops   = 1000
	soakWriters = 8
)

// The shortest log that there can be.
func TestCompactionToOne(t *testing.T) {
	storetest.RunCompaction(t, func(t *testing.T) store.Store { return open(t, postgres.Config{MaxLog: 1}) })
}

// TestProcessKilledThousandTimes kills a process that writes, at random moments. Each of its writers counts up in a key of
// its own and says so after each acknowledgement: what it said has to be there, and at most one step more.
func TestProcessKilledThousandTimes(t *testing.T) {
	if url := os.Getenv("SOAK_URL"); url != "" {
		writeUntilKilled(t, url, os.Getenv("SOAK_SCHEMA"))
		return
	}
	s := open(t, postgres.Config{})
	var watching sync.WaitGroup
	watching.Go(func() { checkCounts(t, s, soakWriters) })
	total := 0
	for loop := range soakLoops {
		acknowledged := killOnce(t, s.Schema())
		for key, n := range acknowledged {
			e, err := s.Get(t.Context(), key)
			held, _ := strconv.Atoi(string(e.Value))
			if err != nil || held < n || held > n+1 {
				t.Fatalf("loop %d: %s was acknowledged at %d and is at %q, %v", loop, key, n, e.Value, err)
			}
			total++
		}
	}
	mustPut(t, s, "count/end", "", 0)
	watching.Wait()
	t.Logf("%d kills, %d counters checked", soakLoops, total)
}

// killOnce runs the writer until it is killed, and returns what it said.
func killOnce(t *testing.T, schema string) map[string]int {
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessKilledThousandTimes$")
	cmd.Env = append(os.Environ(), "SOAK_URL="+pgtest.Shared(t).URL(), "SOAK_SCHEMA="+schema)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]int{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		key, count, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			continue // cut off by the kill
		}
		if len(acknowledged) == 0 {
			time.AfterFunc(rand.N(40*time.Millisecond), func() { cmd.Process.Kill() })
		}
		acknowledged[key] = n
	}
	cmd.Wait()
	return acknowledged
}

func writeUntilKilled(t *testing.T, url, schema string) {
	s := open(t, postgres.Config{URL: url, Schema: schema})
	var all sync.WaitGroup
	for w := range soakWriters {
		all.Go(func() { countOn(t, s, fmt.Sprintf("count/%d", w)) })
	}
	all.Wait()
}

func countOn(t *testing.T, s store.Store, key string) {
	e, _ := s.Get(context.Background(), key)
	n, _ := strconv.Atoi(string(e.Value))
	for rev := e.Revision; ; {
		n++
		var err error
		if rev, err = s.Put(context.Background(), key, []byte(strconv.Itoa(n)), rev); err != nil {
			t.Error(err)
			return
		}
		os.Stdout.WriteString(fmt.Sprintf("%s %d\n", key, n))
	}
}
