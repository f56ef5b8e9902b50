package remote

import (
	"errors"
	"fmt"
	"strings"

	"github.com/converge-agents/converge/internal/cut"
	"github.com/converge-agents/converge/task"
)

// code says on the wire why something was not done. 0 says that it was.
type code uint8

// The codes. They are part of the protocol: new ones are added at the end.
const (
	codeNotFound code = iota + 1
	codeExists
	codeNotPending
	codeNotRouted
	codeClaimLost
	codeTerminal
	codeNotSubmitter
	codeFull
	codeInvalid // with a text
	codeRecord
	codeNotAllowed
	codeUnsupported // with a text
	codeUnavailable // the manager's store gave an error, which is the host's own business
	codeMalformed   // with a text
	codeBusy        // ask again later
	codeLater       // not carried out, since the answer has no more room: ask again
	codeNotDead
	codeUnsigned // what wants a signature has none
	codeForged   // a signature is not that of the agent, or of one that the host does not know
	codeNotMember
)

// errorOf has the errors that keep their identity across the wire.
var errorOf = map[code]error{
	codeNotFound:     task.ErrNotFound,
	codeExists:       task.ErrExists,
	codeNotPending:   task.ErrNotPending,
	codeNotRouted:    task.ErrNotRouted,
	codeClaimLost:    task.ErrClaimLost,
	codeTerminal:     task.ErrTerminal,
	codeNotSubmitter: task.ErrNotSubmitter,
	codeFull:         task.ErrFull,
	codeInvalid:      task.ErrInvalid,
	codeRecord:       task.ErrRecord,
	codeNotAllowed:   ErrNotAllowed,
	codeUnsupported:  ErrUnsupported,
	codeUnavailable:  ErrUnavailable,
	codeMalformed:    ErrProtocol,
	codeBusy:         ErrUnavailable,
	codeUnsigned:     task.ErrUnsigned,
	codeForged:       task.ErrForged,
	codeNotDead:      task.ErrNotDead,
	codeNotMember:    task.ErrNotMember,
}

// told are the codes that a client is told of errors that a host comes upon.
var told = []code{
	codeNotFound, codeExists, codeNotPending, codeNotRouted, codeClaimLost, codeTerminal, codeNotSubmitter, codeFull,
	codeInvalid, codeRecord, codeNotAllowed, codeUnsupported, codeNotDead, codeUnsigned, codeForged, codeNotMember,
}

// failure is why something was not done, as it is told.
type failure struct {
	code code
	text string // about what the client itself sent; never an inner cause
}

// failureOf tells what a client may know of an error. Of an invalid argument it is told what is wrong
// with it, which concerns nothing but the argument.
func failureOf(err error) failure {
	for _, c := range told {
		if !errors.Is(err, errorOf[c]) {
			continue
		}
		f := failure{code: c}
		if c == codeInvalid || c == codeUnsupported {
			_, detail, _ := strings.Cut(err.Error(), errorOf[c].Error()+": ")
			f.text = cut.Marked(detail, maxText)
		}
		return f
	}
	return failure{code: codeUnavailable}
}

// err returns the error that the failure stands for; nil if it is none.
func (f failure) err() error {
	if f.code == 0 {
		return nil
	}
	err, known := errorOf[f.code]
	if !known {
		return fmt.Errorf("%w: it answers with code %d", ErrUnsupported, f.code)
	}
	if f.code == codeBusy {
		return fmt.Errorf("%w: it is busy", err)
	}
	if f.text != "" {
		return fmt.Errorf("%w: %s", err, f.text)
	}
	return err
}
