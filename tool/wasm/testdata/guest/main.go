// Command guest is the module of tests: its first argument says what to do. It is small, since it is compiled twice.
package main

import (
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	switch os.Args[1] {
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "env":
		say(strings.Join(os.Args, " "), strings.Join(os.Environ(), " "))
	case "random":
		say(strconv.FormatUint(rand.Uint64(), 16))
	case "clock":
		began := time.Now()
		time.Sleep(20 * time.Millisecond)
		say(strconv.FormatInt(began.Unix(), 10), strconv.FormatBool(time.Since(began) > 0))
	case "sleep":
		time.Sleep(time.Hour)
	case "exit":
		os.Stderr.WriteString(strings.Repeat("x", 10_000) + "the end")
		os.Exit(7)
	case "hog":
		for all := [][]byte{}; ; {
			all = append(all, make([]byte, 1<<20))
			all[len(all)-1][0] = 1
		}
	case "files": // the params are lines of an operation and its paths
		script, _ := io.ReadAll(os.Stdin)
		for _, line := range strings.Split(strings.Trim(string(script), "{\"}"), "\n") {
			words := strings.Fields(line)
			said, err := try(words)
			if err != nil {
				said += " " + err.Error()
			} else {
				said += " <nil>"
			}
			say(line + ": " + said)
		}
	}
}

func say(words ...string) { os.Stdout.WriteString(strings.Join(words, " ") + "\n") }

func try(words []string) (said string, err error) {
	switch words[0] {
	case "read":
		b, err := os.ReadFile(words[1])
		return string(b), err
	case "write":
		return "", os.WriteFile(words[1], []byte("written"), 0o666)
	case "append":
		f, err := os.OpenFile(words[1], os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("+")
			f.Close()
		}
		return "", err
	case "list":
		entries, err := os.ReadDir(words[1])
		for _, entry := range entries {
			said += entry.Name() + " "
		}
		return said, err
	case "mkdir":
		return "", os.Mkdir(words[1], 0o777)
	case "remove":
		return "", os.Remove(words[1])
	case "rename":
		return "", os.Rename(words[1], words[2])
	case "symlink":
		return "", os.Symlink(words[1], words[2])
	case "link":
		return "", os.Link(words[1], words[2])
	case "truncate":
		return "", os.Truncate(words[1], 1<<40)
	case "open":
		n := 0
		for ; err == nil && n < 10_000; n++ {
			_, err = os.Open(words[1])
		}
		return strconv.Itoa(n), err
	}
	panic(words[0])
}
