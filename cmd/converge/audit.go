package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/audit"
	"github.com/converge-agents/converge/identity"
)

func newAudit() *cobra.Command {
	var f auditFlags
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Verify, show, trace and replay the receipts of what agents did, and change their key",
		Long: `Networks keep receipts of what their agents are sent, decide, are allowed and refused, and do, in the
folder audit of their data. Each receipt's hash covers the one before it, and checkpoints that cover all are signed
with a key that no agent holds (audit.pem in the same data).

FILE is such a file, or the folder; give all files of a log, in any order. They are read and never changed, also while
a network writes them. Only rotate-key, which changes the key, writes.`,
		Example: `  converge audit verify data/audit --key "$(converge keys show data/audit.pem -o json | jq -r .id)"
  converge audit show data/audit --kind call --since 1h
  converge audit trace 4711 data/audit`,
	}
	addFormat(cmd, &f.output, "of what is printed")
	cmd.PersistentFlags().Var(&f.key, "key", "`ID` of the key that has to have signed, as \"converge keys show data/audit.pem\" prints it")
	cmd.PersistentFlags().Var(&f.head, "head", "`hash` of a receipt that has to be there, as \"converge run\" prints it at its end")
	cmd.AddCommand(newAuditVerify(&f), newAuditShow(&f), newAuditTrace(&f), newAuditReplay(&f), newAuditRotateKey(&f))
	return cmd
}

// auditFlags are those of all subcommands.
type auditFlags struct {
	output format
	key    hashFlag
	head   hashFlag
}

func (f *auditFlags) check() audit.Check {
	return audit.Check{Key: identity.ID(f.key), Head: [32]byte(f.head)}
}

// hashFlag is a flag of 64 hexadecimal digits.
type hashFlag [32]byte

func (h *hashFlag) String() string {
	if *h == (hashFlag{}) {
		return ""
	}
	return hex.EncodeToString(h[:])
}
func (h *hashFlag) Type() string { return "hash" }

func (h *hashFlag) Set(s string) error {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(h) {
		return fmt.Errorf("want 64 hexadecimal digits")
	}
	copy(h[:], raw)
	return nil
}

// files checks that there are so many words and at least one file after them.
func files(words ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		for i, word := range append(words, "FILE") {
			if i >= len(given) {
				return fmt.Errorf("%s is missing", word)
			}
		}
		return nil
	}
}

func newAuditVerify(f *auditFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE…",
		Short: "Check that files are as the log has written them",
		Long: `Verify reads the files of a log and checks each record, each hash and each signature. It needs nothing
else, no network and no key. If something was changed, left out, put in or moved, it names the first such place, and
the exit status is 1.

Who has signed, the files say themselves, so anybody can have made the whole of them: give --key to pin it. If the key
has changed, the keys are printed, and any of them will do: each has named the one after it. Pin the latest, since
whoever has stolen an earlier one can make another end with it. That the
end was cut off, nobody can tell from what is left: give --head with a hash that was printed or seen before. What
comes after the last checkpoint nobody has signed; that is what a process leaves that was killed or still runs.`,
		Example: `  converge audit verify data/audit
  converge audit verify --key 61c3…09 --head 8a44…e1 data/audit/*.audit`,
		Args: files(),
		RunE: func(cmd *cobra.Command, given []string) error {
			sum, err := audit.Verify(f.check(), given...)
			if err != nil {
				return err
			}
			return printSummary(cmd.OutOrStdout(), sum, f)
		},
	}
}

// summary is the JSON form of an audit.Summary.
type summary struct {
	Network      string      `json:"network"`
	Log          string      `json:"log"`
	Key          identity.ID `json:"key"`
	Pinned       bool        `json:"key_pinned"`
	Files        int         `json:"files"`
	First        uint64      `json:"first"`
	Last         uint64      `json:"last"`
	Earlier      bool        `json:"earlier_missing"`
	Checkpoints  int         `json:"checkpoints"`
	Signed       uint64      `json:"signed"`
	SignedTime   time.Time   `json:"signed_time"`
	Head         string      `json:"head"`
	TailReceipts int         `json:"tail_receipts"`
	TailBytes    int64       `json:"tail_bytes"`
	Rotations    []rotation  `json:"rotations,omitempty"`
}

// rotation is the JSON form of an audit.Rotation.
type rotation struct {
	From    identity.ID `json:"from"`
	To      identity.ID `json:"to"`
	Receipt uint64      `json:"receipt"` // the last one that From has signed
	Time    time.Time   `json:"time"`
}

func rotationsOf(s audit.Summary) (all []rotation) {
	for _, r := range s.Rotations {
		all = append(all, rotation(r))
	}
	return all
}

func printSummary(w io.Writer, s audit.Summary, f *auditFlags) error {
	pinned := f.key != hashFlag{}
	if f.output == "json" {
		return json.NewEncoder(w).Encode(summary{
			s.Network, hex.EncodeToString(s.Log[:]), s.Key, pinned, s.Files, s.First, s.Last, s.Earlier, s.Checkpoints,
			s.Signed, s.SignedTime, hex.EncodeToString(s.Head[:]), s.Tail, s.TailBytes, rotationsOf(s),
		})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "log        %x of network %s\n", s.Log, s.Network)
	for _, r := range s.Rotations {
		fmt.Fprintf(&b, "key before %s, up to receipt %d at %s%s\n", r.From, r.Receipt, r.Time.Format(time.RFC3339), asked(f, r.From))
	}
	fmt.Fprintf(&b, "key        %s%s\n", s.Key, keyNote(f, s))
	fmt.Fprintf(&b, "receipts   %s in %s, %s\n", span(s), count(s.Files, "file"), count(s.Checkpoints, "checkpoint"))
	if s.Earlier {
		b.WriteString("before     files are not here: they were removed, or not given\n")
	}
	if s.Checkpoints > 0 {
		fmt.Fprintf(&b, "signed     up to %d at %s, head %x\n", s.Signed, s.SignedTime.Format(time.RFC3339), s.Head)
	} else {
		b.WriteString("signed     nothing\n")
	}
	if s.TailBytes > 0 {
		fmt.Fprintf(&b, "tail       %s in %d bytes after the last checkpoint, which nobody has signed\n", count(s.Tail, "receipt"), s.TailBytes)
	}
	b.WriteString("ok\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// keyNote says by what the key in force is known.
func keyNote(f *auditFlags, s audit.Summary) string {
	switch {
	case f.key == hashFlag{}:
		return ", as the files themselves say; pin it with --key"
	case identity.ID(f.key) != s.Key:
		return ", named by the one before"
	}
	return asked(f, s.Key)
}

func asked(f *auditFlags, key identity.ID) string {
	if f.key == hashFlag(key) {
		return ", as asked for"
	}
	return ""
}

func span(s audit.Summary) string {
	if s.Last < s.First {
		return "none"
	}
	return fmt.Sprintf("%d to %d", s.First, s.Last)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
