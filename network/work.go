package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/converge-agents/converge/config"
	"github.com/converge-agents/converge/internal/advice"
	"github.com/converge-agents/converge/task"
)

// MaxTasks is how many tasks one coordinator may submit.
const MaxTasks = 1 << 20

// work remembers what each task is about, for the report.
type work struct {
	folders      int               // different ones that subjects are in
	coordinators int               //
	columns      []string          // names of tasks, in the order of the configuration
	cells        map[string][]cell // of each coordinator's tasks, in their order
	rows         []string          // in the order of their first mention
	seen         map[string]bool
}

// cell is the place of a task's result in the report.
type cell struct {
	row, column string
}

func newWork(c *config.Config) work {
	w := work{cells: map[string][]cell{}, seen: map[string]bool{}}
	folders := map[string]bool{}
	for _, a := range c.Agents {
		if a.Kind == config.KindCoordinator {
			w.coordinators += a.Count
		}
		for _, t := range a.Tasks {
			if t.Each != "" {
				folders[filepath.Clean(t.In)] = true
			}
		}
	}
	w.folders = len(folders)
	return w
}

// resultColumn is the column of tasks that are not for files. No task can have that name.
const resultColumn = "task result"

// heading says what the rows are: files, tasks that are not for files, or both.
func (w *work) heading() string {
	switch {
	case !slices.Contains(w.columns, resultColumn):
		return "file"
	case len(w.columns) == 1:
		return "task"
	default:
		return "file or task"
	}
}

// enter gives a task its place: a file has a row, and each sort of task a column. Two coordinators' tasks
// never share a column, nor two folders' files a row. A task that is not for files has a row of its own.
func (w *work) enter(coordinator string, t config.Task, subject string) {
	name := t.Name
	if w.coordinators > 1 {
		name = coordinator + "/" + t.Name
	}
	c := cell{row: subject, column: name}
	switch {
	case t.Each == "":
		c = cell{row: name, column: resultColumn}
		if t.Count > 1 {
			c.row += " " + subject
		}
	case w.folders > 1:
		c.row = filepath.Join(t.In, subject)
	}
	if !slices.Contains(w.columns, c.column) {
		w.columns = append(w.columns, c.column)
	}
	if !w.seen[c.row] {
		w.seen[c.row] = true
		w.rows = append(w.rows, c.row)
	}
	w.cells[coordinator] = append(w.cells[coordinator], c)
}

// tasksOf returns the tasks that a coordinator submits.
func (n *Network) tasksOf(ctx context.Context, coordinator string, a config.Agent) ([]task.Spec, error) {
	var specs []task.Spec
	for i, t := range a.Tasks {
		if err := n.checkParams(t); err != nil {
			return nil, fmt.Errorf("tasks[%d].%w", i, err)
		}
		subjects, err := subjectsOf(ctx, t, n.hidden())
		if err != nil {
			return nil, fmt.Errorf("tasks[%d]: %w", i, err)
		}
		if len(specs)+len(subjects) > MaxTasks {
			return nil, fmt.Errorf("tasks[%d]: more than %d tasks in all", i, MaxTasks)
		}
		n.log.Debug("tasks listed", "agent", coordinator, "task", t.Name, "count", len(subjects))
		if len(subjects) == 0 {
			n.log.Warn("no file matches: nothing to do", "agent", coordinator, "task", t.Name, "each", t.Each, "in", t.In)
		}
		for _, subject := range subjects {
			spec, err := specOf(t, subject)
			if err != nil {
				return nil, fmt.Errorf("tasks[%d]: params: %w", i, err)
			}
			n.work.enter(coordinator, t, subject)
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

// numbers counts from 1.
func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i + 1)
	}
	return all
}

// subjectsOf lists the regular files that t is for, sorted, but for those that are hidden; tasks without pattern have their
// number.
func subjectsOf(ctx context.Context, t config.Task, hidden []string) ([]string, error) {
	if t.Each == "" {
		return numbers(max(t.Count, 1)), nil
	}
	if err := checkFolder("in", t.In); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(t.In)
	if err != nil {
		return nil, fmt.Errorf("in: folder %q: %w", t.In, err)
	}
	defer root.Close()
	s := newSelection(t)
	s.hide(hidden)
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return s.visit(path, d, err)
	})
	if err != nil {
		return nil, fmt.Errorf("each: %q in %q: %w", t.Each, t.In, err)
	}
	slices.Sort(s.found)
	return s.found, nil
}

// selection finds the regular files that a pattern takes and no other pattern leaves out. It follows no
// symbolic links, and looks only into folders that can hold such files.
type selection struct {
	root    string
	each    string
	exclude []string
	prefix  string   // the folder that every match is in
	depth   int      // of the deepest folder that can hold a match; -1 if any can
	hidden  []string // files and folders
	found   []string
}

func newSelection(t config.Task) *selection {
	s := &selection{root: realPath(t.In), each: cleanPattern(t.Each), prefix: ".", depth: -1}
	for _, pattern := range t.Exclude {
		s.exclude = append(s.exclude, cleanPattern(pattern))
	}
	segments := strings.Split(s.each, "/")
	for _, segment := range segments[:len(segments)-1] {
		if strings.ContainsAny(segment, `*?[{\`) {
			break
		}
		s.prefix = path.Join(s.prefix, segment)
	}
	if !strings.Contains(s.each, "**") {
		s.depth = len(segments) - 1
	}
	return s
}

// hide leaves out what lies in the folder, but not the folder itself.
func (s *selection) hide(paths []string) {
	for _, p := range paths {
		rel, err := filepath.Rel(s.root, realPath(p))
		if err == nil && filepath.IsLocal(rel) && rel != "." {
			s.hidden = append(s.hidden, filepath.ToSlash(rel))
		}
	}
}

// cleanPattern allows for "./*.go", which is what people write who think of paths.
func cleanPattern(pattern string) string {
	for strings.HasPrefix(pattern, "./") {
		pattern = strings.TrimLeft(pattern[1:], "/")
	}
	return pattern
}

func (s *selection) visit(path string, d fs.DirEntry, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist) && path != ".": // gone since its folder was read
		return nil
	case err != nil:
		return err
	case d.IsDir():
		if !s.enters(path) || slices.Contains(s.hidden, path) {
			return fs.SkipDir
		}
	case d.Type().IsRegular() && doublestar.MatchUnvalidated(s.each, path) && !s.excludes(path) && !slices.Contains(s.hidden, path):
		if !utf8.ValidString(path) {
			return advice.On(fmt.Errorf("the name of the file %q is not UTF-8, so it cannot be a task's param", path), "rename the file, or exclude it")
		}
		if len(s.found) == MaxTasks {
			return fmt.Errorf("more than %d files", MaxTasks)
		}
		s.found = append(s.found, path)
	}
	return nil
}

// enters reports whether the folder can hold files to be found.
func (s *selection) enters(folder string) bool {
	if folder == "." {
		return true
	}
	onTheWay := s.prefix == "." || within(folder, s.prefix) || within(s.prefix, folder)
	tooDeep := s.depth >= 0 && strings.Count(folder, "/")+1 > s.depth
	return onTheWay && !tooDeep && !s.excludesAll(folder)
}

func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

func (s *selection) excludes(path string) bool {
	return slices.ContainsFunc(s.exclude, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, path) })
}

// excludesAll reports whether a pattern such as "vendor/**" leaves out all that is in the folder.
func (s *selection) excludesAll(folder string) bool {
	return slices.ContainsFunc(s.exclude, func(pattern string) bool {
		return (pattern == "**" || strings.HasSuffix(pattern, "/**")) && doublestar.MatchUnvalidated(pattern, folder)
	})
}

func specOf(t config.Task, subject string) (task.Spec, error) {
	params, placeholder := map[string]any{}, "{path}"
	if t.Each == "" {
		placeholder = "{n}"
	}
	for name, value := range t.Params {
		params[name] = substitute(value, placeholder, subject)
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return task.Spec{}, err
	}
	return task.Spec{
		Kind:         t.Capability,
		Params:       encoded,
		Capabilities: []string{t.Capability},
		Pool:         t.Pool,
		Priority:     t.Priority,
		MaxAttempts:  t.Attempts,
		ClaimTTL:     time.Duration(t.ClaimTTL),
	}, nil
}

// substitute puts the subject in place of the placeholder in every string of a value.
func substitute(value any, placeholder, subject string) any {
	switch v := value.(type) {
	case string:
		return strings.ReplaceAll(v, placeholder, subject)
	case []any:
		replaced := make([]any, len(v))
		for i := range v {
			replaced[i] = substitute(v[i], placeholder, subject)
		}
		return replaced
	case map[string]any:
		replaced := make(map[string]any, len(v))
		for k := range v {
			replaced[k] = substitute(v[k], placeholder, subject)
		}
		return replaced
	default:
		return value
	}
}
