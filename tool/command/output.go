package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/converge-agents/converge/tool"
)

// ExitError is the error of a program that ended by itself, but not with status 0.
type ExitError struct {
	Program string    // its path; the error's text has its last element
	Code    int       // the exit status; -1 if a signal ended it
	Signal  os.Signal // the signal that ended it, or nil
	// Stderr holds the last bytes of the standard error. They can tell what went wrong, but may hold
	// what was in the params, so they are no part of the error's text.
	Stderr string
}

// Error implements the error interface.
func (e *ExitError) Error() string {
	if e.Signal != nil {
		return fmt.Sprintf("program %q: ended by signal: %v", filepath.Base(e.Program), e.Signal)
	}
	return fmt.Sprintf("program %q: exit status %d", filepath.Base(e.Program), e.Code)
}

// format makes the output of a tool of what a program wrote.
func format(mode string, stdout []byte) (tool.Output, error) {
	switch mode {
	case Word:
		for word := range bytes.FieldsSeq(stdout) {
			return tool.Output{Data: word, ContentType: "text/plain"}, nil
		}
		return tool.Output{}, errors.New("the program wrote no word")
	case JSON:
		if !json.Valid(stdout) {
			return tool.Output{}, errors.New("the program did not write valid JSON")
		}
		return tool.Output{Data: stdout, ContentType: "application/json"}, nil
	case Bytes:
		return tool.Output{Data: stdout, ContentType: "application/octet-stream"}, nil
	default:
		text, _ := bytes.CutSuffix(stdout, []byte("\n"))
		return tool.Output{Data: text, ContentType: "text/plain"}, nil
	}
}
