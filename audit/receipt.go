package audit

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/internal/cose"
	"github.com/converge-agents/converge/internal/cut"
)

// Kind is what a receipt is about.
type Kind uint8

// The kinds.
const (
	KindMessage  Kind = iota + 1 // a message was accepted
	KindRefusal                  // a message was refused
	KindTurn                     // an agent was shown its input, and decided
	KindDecision                 // what an agent decided was carried out, or was not
	KindApproval                 // a policy or a person allowed or denied an act
	KindCall                     // a tool call began
	KindResult                   // a tool call ended
	KindTask                     // a task ended
	KindModel                    // a model answered
	KindStart                    // an agent started
	KindStop                     // an agent stopped
	KindLog                      // the log itself was opened, mended or shortened
	KindOperator                 // somebody who runs the network did something to it
	kindCount
)

var kindNames = [kindCount]string{
	KindMessage: "message", KindRefusal: "refusal", KindTurn: "turn", KindDecision: "decision", KindApproval: "approval",
	KindCall: "call", KindResult: "result", KindTask: "task", KindModel: "model", KindStart: "start", KindStop: "stop", KindLog: "log",
	KindOperator: "operator",
}

// Kinds returns all kinds.
func Kinds() []Kind {
	all := make([]Kind, 0, kindCount-1)
	for k := Kind(1); k < kindCount; k++ {
		all = append(all, k)
	}
	return all
}

// String returns the kind's name in lower case, and for a kind that a later version has added, its number.
func (k Kind) String() string {
	if k > 0 && k < kindCount {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// MarshalText implements [encoding.TextMarshaler] with the form of [Kind.String].
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ParseKind returns the kind of that name.
func ParseKind(name string) (Kind, error) {
	for _, k := range Kinds() {
		if k.String() == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("there is no kind of receipt %.40q", name)
}

// Bounds of a [Receipt]. Longer text is cut, at a character, and later causes and labels are left out; content
// that is larger is an error.
const (
	MaxCauses  = 512
	MaxSubject = 256 // bytes
	MaxAction  = 256
	MaxOutcome = 64
	MaxReason  = 512
	MaxTaint   = 65 // labels
	MaxLabel   = 256
	MaxContent = 16 << 20

	maxRecord = MaxContent + 64<<10 // an encoded record
)

// Receipt says that something happened. Contents and secrets are no part of it, but for Content, which is for
// logs that record.
type Receipt struct {
	Time   time.Time // zero means when it is appended
	Kind   Kind      // required
	Agent  identity.ID
	Causes []uint64 // sequence numbers of earlier receipts that led to this one

	Subject string      // the ID of the message, task or call
	Action  string      // the kind of decision, the tool, the topic
	Outcome string      // accepted, refused, allowed, denied, ok, failed, timeout, …
	Reason  string      // why, for people
	Peer    identity.ID // the other agent; of a refusal, whom the message claimed to be from

	Input, Output [32]byte // SHA-256 of what went in and what came out, the reason of a failed task included; zero means none
	Taint         []string // where the input came from; see package taint
	Count         uint64   // how many alike this receipt stands for; 0 means one
	Duration      time.Duration

	Content []byte // what happened, in full, where recording is switched on
}

// check reports why the receipt cannot follow the one with the given sequence number.
func (r *Receipt) check(last uint64) error {
	if r.Kind == 0 {
		return fmt.Errorf("%w: it has no kind", ErrInvalid)
	}
	if len(r.Content) > MaxContent {
		return fmt.Errorf("%w: %d bytes of content where at most %d are allowed", ErrInvalid, len(r.Content), MaxContent)
	}
	if r.Duration < 0 {
		return fmt.Errorf("%w: its duration is negative", ErrInvalid)
	}
	return checkCauses(r.Causes, last)
}

func checkCauses(causes []uint64, last uint64) error {
	for _, cause := range causes {
		if cause == 0 || cause > last {
			return fmt.Errorf("%w: receipt %d is named as a cause, and the last one is %d", ErrInvalid, cause, last)
		}
	}
	return nil
}

var zeroHash [32]byte

// append appends the receipt's map, whose fields are cut to their bounds.
func (r *Receipt) append(buf []byte) []byte {
	w := cose.NewMapWriter(buf)
	w.Int(1, r.Time.UnixNano())
	w.Uint(2, uint64(r.Kind))
	writeHash(&w, 3, (*[32]byte)(&r.Agent))
	causes := r.Causes[:min(len(r.Causes), MaxCauses)]
	w.Array(4, len(causes), func(b []byte, i int) []byte { return cose.AppendUint(b, causes[i]) })
	w.Text(5, cut.Text(r.Subject, MaxSubject))
	w.Text(6, cut.Text(r.Action, MaxAction))
	w.Text(7, cut.Text(r.Outcome, MaxOutcome))
	w.Text(8, cut.Text(r.Reason, MaxReason))
	writeHash(&w, 9, (*[32]byte)(&r.Peer))
	writeHash(&w, 10, &r.Input)
	writeHash(&w, 11, &r.Output)
	taint := r.Taint[:min(len(r.Taint), MaxTaint)]
	w.Array(12, len(taint), func(b []byte, i int) []byte { return cose.AppendText(b, cut.Text(taint[i], MaxLabel)) })
	w.Uint(13, r.Count)
	w.Int(14, int64(r.Duration))
	w.Bytes(15, r.Content)
	return w.End()
}

func writeHash(w *cose.MapWriter, key byte, h *[32]byte) {
	if *h != zeroHash {
		w.Bytes(key, h[:])
	}
}

var errEncoding = errors.New("it is not in the one encoding of a receipt")

// appendEntry appends the record of a receipt whose map has been encoded.
func appendEntry(buf []byte, seq uint64, encoded []byte) []byte {
	buf = cose.AppendUint(cose.AppendUint(cose.AppendArray(buf, 4), version), typeReceipt)
	return append(cose.AppendUint(buf, seq), encoded...)
}

// decodeEntry reads the record of a receipt in the one encoding that it has; again is memory for that, and is
// returned. Content aliases the record.
func decodeEntry(record, again []byte) (Receipt, []byte, error) {
	r, kind, err := open(record)
	if err == nil && kind != typeReceipt {
		err = errType
	}
	if err != nil {
		return Receipt{}, again, err
	}
	var p Receipt
	seq := r.Uint()
	r.Fields(func(key int64) { p.field(&r, key) })
	if err := r.End(); err != nil {
		return Receipt{}, again, err
	}
	again = p.append(appendEntry(again[:0], seq, nil))
	if p.Kind == 0 || p.Duration < 0 || !bytes.Equal(again, record) {
		return Receipt{}, again, errEncoding
	}
	return p, again, nil
}

func (r *Receipt) field(from *cose.Reader, key int64) {
	switch key {
	case 1:
		r.Time = time.Unix(0, from.Int()).UTC()
	case 2:
		r.Kind = Kind(min(from.Uint(), 255))
	case 3:
		readHash(from, (*[32]byte)(&r.Agent))
	case 4:
		r.Causes = readUints(from)
	case 5:
		r.Subject = string(from.Text())
	case 6:
		r.Action = string(from.Text())
	case 7:
		r.Outcome = string(from.Text())
	case 8:
		r.Reason = string(from.Text())
	case 9:
		readHash(from, (*[32]byte)(&r.Peer))
	case 10:
		readHash(from, &r.Input)
	case 11:
		readHash(from, &r.Output)
	case 12:
		r.Taint = readTexts(from)
	case 13:
		r.Count = from.Uint()
	case 14:
		r.Duration = time.Duration(from.Int())
	case 15:
		r.Content = from.Bytes()
	default:
		from.Fail(errEncoding)
	}
}

func readHash(from *cose.Reader, h *[32]byte) {
	b := from.Bytes()
	if len(b) != len(h) {
		from.Fail(errEncoding)
		return
	}
	copy(h[:], b)
}

func readUints(from *cose.Reader) (all []uint64) {
	n := from.Array()
	if n > MaxCauses {
		from.Fail(errEncoding)
		return nil
	}
	for range n {
		all = append(all, from.Uint())
	}
	return all
}

func readTexts(from *cose.Reader) (all []string) {
	n := from.Array()
	if n > MaxTaint {
		from.Fail(errEncoding)
		return nil
	}
	for range n {
		all = append(all, string(from.Text()))
	}
	return all
}
