package network

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/task"
)

// MaxTasks is how many tasks one configuration may make.
const MaxTasks = 1 << 20

// work remembers what each task is about, for the report.
type work struct {
	columns []string        // names of tasks, in the order of the configuration
	cells   map[string]cell // by task ID
	rows    []string        // in the order of their first mention
	seen    map[string]bool
}

// cell is the place of a task's result in the report.
type cell struct {
	row, column string
}

// add returns the tasks that a coordinator submits.
func (w *work) add(a config.Agent) ([]task.Spec, error) {
	var specs []task.Spec
	for _, t := range a.Tasks {
		subjects, err := subjectsOf(t)
		if err != nil {
			return nil, err
		}
		if len(specs)+len(subjects) > MaxTasks {
			return nil, fmt.Errorf("tasks %q: more than %d tasks in all", t.Name, MaxTasks)
		}
		for _, subject := range subjects {
			spec, err := specOf(t, subject)
			if err != nil {
				return nil, err
			}
			w.enter(spec.ID, t.Name, subject)
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

func (w *work) enter(id, column, row string) {
	if w.cells == nil {
		w.cells, w.seen = map[string]cell{}, map[string]bool{}
	}
	if !slices.Contains(w.columns, column) {
		w.columns = append(w.columns, column)
	}
	if row == "" {
		row = column // a single task
	}
	if !w.seen[row] {
		w.seen[row] = true
		w.rows = append(w.rows, row)
	}
	w.cells[id] = cell{row, column}
}

// subjectsOf lists the files that t is for; a task without pattern has the subject "".
func subjectsOf(t config.Task) ([]string, error) {
	if t.Each == "" {
		return []string{""}, nil
	}
	root := os.DirFS(t.In)
	if _, err := fs.Stat(root, "."); err != nil {
		return nil, fmt.Errorf("tasks %q: in: folder %q: %w", t.Name, t.In, cause(err))
	}
	found, err := doublestar.Glob(root, t.Each, doublestar.WithFilesOnly(), doublestar.WithNoFollow(), doublestar.WithFailOnIOErrors())
	if err != nil {
		return nil, fmt.Errorf("tasks %q: each: %q in %q: %w", t.Name, t.Each, t.In, cause(err))
	}
	excluded := func(path string) bool {
		return slices.ContainsFunc(t.Exclude, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, path) })
	}
	found = slices.DeleteFunc(found, excluded)
	slices.Sort(found)
	return found, nil
}

// cause leaves out what an [fs.PathError] says twice.
func cause(err error) error {
	if p, ok := err.(*fs.PathError); ok {
		return p.Err
	}
	return err
}

func specOf(t config.Task, subject string) (task.Spec, error) {
	params := map[string]any{}
	for name, value := range t.Params {
		params[name] = substitute(value, subject)
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return task.Spec{}, fmt.Errorf("tasks %q: params: %w", t.Name, err)
	}
	return task.Spec{
		ID:           task.NewID(),
		Kind:         t.Capability,
		Params:       encoded,
		Capabilities: []string{t.Capability},
		ClaimTTL:     time.Duration(t.ClaimTTL),
	}, nil
}

// substitute puts the subject in place of {path} in every string of a value.
func substitute(value any, subject string) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, "{path}", subject)
	case []any:
		replaced := make([]any, len(v))
		for i := range v {
			replaced[i] = substitute(v[i], subject)
		}
		return replaced
	case map[string]any:
		replaced := make(map[string]any, len(v))
		for k := range v {
			replaced[k] = substitute(v[k], subject)
		}
		return replaced
	default:
		return value
	}
}
